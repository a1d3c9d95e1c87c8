"""Lists models and makes embeddings, with the embedder of the search or with an upstream's model."""

import asyncio
import base64
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from backtalk.core.errors import InvalidRequest, ModelNotFound, UpstreamError
from backtalk.domain.model import ModelCard
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.refusals import refusal
from backtalk.models.registry import Models
from backtalk.search.base import Embedder

if TYPE_CHECKING:
    import numpy as np

Input: TypeAlias = str | list[str] | list[int] | list[list[int]]
STATIC = "backtalk/static"
"""The model id of the search's own embedder. It answers to the embedder's own name too."""
MOST_INPUTS = 2048
_MOST_ANSWER = 256 * 2**20


class Serving:
    """Models as `/v1/models` shows them, and embeddings."""

    def __init__(self, models: Models, egress: Egress, embedder: Embedder) -> None:
        self._models = models
        self._embedder = embedder
        self._egress = egress

    async def cards(self) -> list[ModelCard]:
        """All models, the embedder's among them."""
        return [*await self._models.list(), ModelCard(STATIC, owned_by="backtalk")]

    async def card(self, model_id: str) -> ModelCard:
        """Raises ModelNotFound for what is not listed."""
        cards = await self.cards()
        named = {card.id.partition("/")[2]: card for card in reversed(cards)} | {card.id: card for card in cards}
        if model_id not in named:
            raise ModelNotFound(model_id, ", ".join(card.id for card in cards[:20]))
        found = named[model_id]
        return ModelCard(model_id, found.owned_by, found.created)

    async def embed(self, body: dict[str, Any]) -> bytes | dict[str, Any]:
        """Answers the body of an embeddings request; an upstream's answer is handed on as it came."""
        model = body["model"]
        if model in (STATIC, self._embedder.name):
            return await self._embed_here(body)
        found = await self._models.find_upstream(model)
        if found is None:
            raise ModelNotFound(model, STATIC)
        return await self._embed_there(*found, body)

    async def _embed_here(self, body: dict[str, Any]) -> dict[str, Any]:
        texts = _texts(body["input"])
        dimensions = body.get("dimensions") or self._embedder.dimension
        if dimensions > self._embedder.dimension:
            most = self._embedder.dimension
            raise InvalidRequest(
                f"{STATIC} has {most} dimensions, not {dimensions}.",
                param="dimensions",
                code="invalid_value",
            )
        answer = await asyncio.to_thread(self._answer, texts, dimensions, body.get("encoding_format") or "float")
        return answer | {"model": body["model"]}

    def _answer(self, texts: list[str], dimensions: int, encoding: str) -> dict[str, Any]:
        vectors = _shortened(self._embedder.embed(texts), dimensions)
        tokens = sum(self._embedder.count_tokens(texts))
        encode = _base64 if encoding == "base64" else _floats
        data = [
            {"object": "embedding", "index": place, "embedding": encode(vector)} for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "usage": usage}

    async def _embed_there(self, upstream: Upstream, name: str, body: dict[str, Any]) -> bytes:
        headers = {"content-type": "application/json", **upstream.headers()}
        data = msgspec.json.encode(body | {"model": name})
        async with self._egress.request("POST", upstream.endpoint("/embeddings"), headers=headers, body=data) as reply:
            if reply.status != 200:
                raise await refusal(reply, upstream, body["model"])
            if reply.content_type != "application/json":
                raise UpstreamError(
                    f"The model server '{upstream.name}' sent no embeddings.", reason="upstream_protocol_error"
                )
            return await reply.body(_MOST_ANSWER)


def _texts(given: Input) -> list[str]:
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


def _shortened(vectors: "np.ndarray[Any, Any]", dimensions: int) -> "np.ndarray[Any, Any]":
    import numpy as np  # noqa: PLC0415  # lazy: 0.1 s that an app without embeddings never pays

    cut = np.asarray(vectors, dtype="<f4")[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / np.where(lengths > 0, lengths, 1)


def _base64(vector: "np.ndarray[Any, Any]") -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _floats(vector: "np.ndarray[Any, Any]") -> list[float]:
    floats: list[float] = vector.tolist()
    return floats
