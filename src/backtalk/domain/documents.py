"""How a room lets its texts be found by retrieval: the app hands it what keeps this protocol."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Documents(Protocol):
    """Texts as documents of vector stores. `put` and `attach` are two steps, so that a caller can write down the first."""

    async def open_store(self, project: str, name: str) -> str:
        """The id of a new vector store."""
        ...

    async def drop_store(self, project: str, store_id: str) -> None:
        """Deletes a vector store, if it is there."""
        ...

    async def put(self, project: str, filename: str, text: str) -> str:
        """The id of a new document with this text, which must not be empty. It is in no store yet."""
        ...

    async def attach(self, project: str, store_id: str, document: str, attributes: Mapping[str, str]) -> bool:
        """Puts a document into a store, where it is found soon after. False when the store is gone."""
        ...

    async def drop(self, project: str, document: str) -> None:
        """Deletes a document, if it is there, and takes it out of its store."""
        ...

    async def search(self, project: str, store_id: str, query: str) -> Sequence[str] | None:
        """The documents that fit best, in order of score. None when the store is gone."""
        ...
