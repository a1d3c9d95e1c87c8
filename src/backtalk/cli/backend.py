"""What `chat` and `ingest` ask of Backtalk, wherever it runs."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from backtalk.core.errors import BacktalkError

PAGE = 100


class Unreachable(BacktalkError):
    """No server answers."""


class Entry(msgspec.Struct, frozen=True):
    """A file of a store. `status` is OpenAI's; `reason` tells why it failed."""

    file_id: str
    status: str
    attributes: Mapping[str, Any]
    reason: str = ""


class Backend(Protocol):
    """All methods raise BacktalkError with a message for the user."""

    name: str

    def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Runs a turn: the events of the Responses stream. `body` is that of `POST /v1/responses`."""
        ...

    async def open_conversation(self, conversation_id: str | None) -> str:
        """A new conversation, or the one of that id. Returns its id."""
        ...

    def stores(self) -> AsyncIterator[tuple[str, str]]:
        """Ids and names of all stores, the oldest first."""
        ...

    async def create_store(self, name: str) -> str: ...

    def entries(self, store_id: str) -> AsyncIterator[Entry]:
        """All files of a store."""
        ...

    async def entry(self, store_id: str, file_id: str) -> Entry: ...

    async def upload(self, path: Path) -> str:
        """Returns the file's id. Raises OSError for a file that cannot be read."""
        ...

    async def attach(self, store_id: str, file_id: str, attributes: dict[str, Any]) -> None: ...

    async def delete(self, file_id: str) -> None:
        """Deletes a file and takes it out of all stores. One that is gone already is all right."""
        ...


async def find_store(backend: Backend, name: str) -> str | None:
    """The id of the oldest store of that name, or with that id."""
    async for store_id, called in backend.stores():
        if name in (called, store_id):
            return store_id
    return None
