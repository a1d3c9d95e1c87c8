"""The embedder that is always there: static vectors of the `wordllama` wheel, one for each token, averaged.

Only the wheel's files are read: its own loader would look for them on the net, and its compiled parts are not needed.
"""

import struct
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from backtalk.search.base import Vectors

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_TENSOR = "embedding.weight"
_LONGEST = 65_536
"""Characters of a text that count; a chunk has fewer."""
_BATCH = 256


class WordLlama:
    """256 dimensions, some 0.1 ms for a query, no network. The files are read at the first call."""

    name = "wordllama-l2-supercat-256"
    dimension = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, NDArray[numpy.float16]] | None = None

    def embed(self, texts: Sequence[str]) -> "Vectors":
        import numpy as np  # noqa: PLC0415  # lazy: heavy

        _, weights = self._load()
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, tokens in zip(vectors, self._tokens([text[:_LONGEST] for text in texts]), strict=True):
            if tokens:
                row[:] = weights[tokens].mean(axis=0, dtype=np.float32)
                row /= np.linalg.norm(row) or 1.0
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self._tokens(texts)]

    def _tokens(self, texts: Sequence[str]) -> Iterator[list[int]]:
        tokenizer, _ = self._load()
        for at in range(0, len(texts), _BATCH):
            batch = [_unicode(text) for text in texts[at : at + _BATCH]]
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def token_ends(self, text: str) -> list[int]:
        tokenizer, _ = self._load()
        return [end for _, end in tokenizer.encode(_unicode(text), add_special_tokens=False).offsets]

    def _load(self) -> "tuple[Tokenizer, NDArray[numpy.float16]]":
        with self._lock:
            if self._loaded is None:
                from tokenizers import Tokenizer  # noqa: PLC0415  # lazy: heavy

                folder = _folder()
                self._loaded = Tokenizer.from_file(str(folder / _TOKENIZER)), read_tensor(folder / _WEIGHTS, _TENSOR)
            return self._loaded


def read_tensor(path: Path, name: str) -> "NDArray[numpy.float16]":
    """A half-float tensor of a safetensors file, which is: length of the header, header in JSON, data.

    The file is mapped, not read: what nobody looks up takes no memory, and processes share the rest.
    """
    import numpy as np  # noqa: PLC0415  # lazy: heavy

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = msgspec.json.decode(file.read(length))[name]
    if entry["dtype"] != "F16":
        raise ValueError(f"{path.name}: '{name}' is {entry['dtype']}, not F16")
    begin = 8 + length + entry["data_offsets"][0]
    return np.asarray(np.memmap(path, dtype="<f2", mode="r", offset=begin, shape=tuple(entry["shape"])))


def _folder() -> Path:
    """Where the wheel lies. `find_spec` does not run a top-level package."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("The package 'wordllama' is missing: pip install wordllama")
    return Path(spec.submodule_search_locations[0])


def _unicode(text: str) -> str:
    """`text` without halves of surrogate pairs, which the tokenizer cannot take. Keeps its length."""
    return text.encode("utf-8", "replace").decode()
