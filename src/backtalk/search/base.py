"""What the search room asks of others: an embedder, and the rows to search."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[numpy.float32]

VECTOR_TYPE = "<f2"
"""How vectors lie in a row: little-endian half floats."""


class Embedder(Protocol):
    """Turns text into vectors, and knows its tokens. Its methods block: call them on a thread."""

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> "Vectors":
        """One row of length 1 for each text, float32, shape (texts, dimension); zeros for a text without a token."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        ...

    def token_ends(self, text: str) -> list[int]:
        """For each token the code point after its last one: where `text` may be cut. Non-decreasing."""
        ...


class Source(Protocol):
    """The rows of one scope (a vector store, a user's memory). The scope's name tells the tenant too.

    A scope holds documents, a document holds chunks. `version` changes with every change of them; a document's
    revision with every change of its chunks; a chunk's id is never used again.
    """

    scope: str
    version: int

    def docs(self) -> Awaitable[tuple[int, Mapping[str, str]]]:
        """The version as it is now, and all documents with their revisions. The version must be read first."""
        ...

    def texts(self, docs: Sequence[str]) -> Awaitable[Sequence[tuple[int, str, str]]]:
        """(chunk id, document, text) of all chunks of these documents."""
        ...

    def vectors(self, docs: Sequence[str]) -> Awaitable[Sequence[tuple[int, str, bytes]]]:
        """(chunk id, document, vector) of all chunks of these documents, as `VECTOR_TYPE`."""
        ...


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found. `score` is 0..1."""

    id: int
    score: float
