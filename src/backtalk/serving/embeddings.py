"""Embeddings in OpenAI's shape: what may be asked for, and how vectors are written."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from backtalk.core.errors import InvalidRequest
from backtalk.serving.batches import Embedded

if TYPE_CHECKING:
    from backtalk.search.base import Vectors

Input: TypeAlias = str | list[str] | list[int] | list[list[int]]
MOST_INPUTS = 2048


def texts_of(given: Input) -> list[str]:
    """The texts to embed. Token ids belong to a tokenizer that is not ours."""
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise InvalidRequest("'input' must not be an empty list.", param="input", code="invalid_value")
    if len(texts) > MOST_INPUTS:
        raise InvalidRequest(f"At most {MOST_INPUTS} inputs at once.", param="input", code="invalid_value")
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        raise InvalidRequest(
            "Token ids are of another model's tokenizer. Send text: in LangChain, "
            "OpenAIEmbeddings(check_embedding_ctx_length=False).",
            param="input",
            code="invalid_type",
        )
    return strings


def render(model: str, embedded: Embedded, dimensions: int, encoding: str) -> bytes:
    """The answer. Written vector by vector, so that on a thread it leaves the interpreter to others in between."""
    encode = _base64 if encoding == "base64" else _floats
    vectors = _shortened(embedded.vectors, dimensions)
    data = [msgspec.Raw(_entry(place, vector, encode)) for place, vector in enumerate(vectors)]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _entry(place: int, vector: "Vectors", encode: "Callable[[Vectors], Any]") -> bytes:
    return msgspec.json.encode({"object": "embedding", "index": place, "embedding": encode(vector)})


def _shortened(vectors: "Vectors", dimensions: int) -> "Vectors":
    if dimensions == vectors.shape[1]:
        return vectors
    import numpy as np  # noqa: PLC0415  # lazy: 0.1 s that an app without embeddings never pays

    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _base64(vector: "Vectors") -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _floats(vector: "Vectors") -> list[float]:
    floats: list[float] = vector.tolist()
    return floats
