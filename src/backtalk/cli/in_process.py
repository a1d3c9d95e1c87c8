"""`chat` and `ingest` without a server: Backtalk in this process, on the same database."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from backtalk.app import Backtalk
from backtalk.cli.backend import PAGE, Entry
from backtalk.cli.common import make_home, mistakes_told, read_settings, see_working_folder
from backtalk.core.errors import NotFound, TooLarge
from backtalk.domain.caller import Caller
from backtalk.http.paging import Cursor
from backtalk.retrieval.service import NewFile
from backtalk.retrieval.store import StoreFile


@asynccontextmanager
async def in_process() -> AsyncIterator["InProcess"]:
    """A Backtalk with the settings as they are; runs while the block does."""
    settings = read_settings()
    make_home(settings)
    see_working_folder()
    async with AsyncExitStack() as stack:
        with mistakes_told(settings):
            app = Backtalk(settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield InProcess(app)


class InProcess:
    """Backtalk in this process, as its own user: the project `default`."""

    def __init__(self, app: Backtalk) -> None:
        self.name = f"this process ({app.storage.name})"
        self._app = app
        self._caller = Caller()

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        fields = dict(body)
        events = self._app.stream(fields.pop("input"), caller=self._caller, **fields)
        async with aclosing(events):  # type: ignore[type-var]  # it is a generator
            async for event in events:
                yield event

    async def open_conversation(self, conversation_id: str | None) -> str:
        conversations = self._app.conversations
        if conversation_id is None:
            return str((await conversations.create(self._caller, [], {}))["id"])
        return str((await conversations.get(self._caller, conversation_id))["id"])

    async def stores(self) -> AsyncIterator[tuple[str, str]]:
        after = None
        while True:
            found = await self._app.retrieval.stores(self._caller, Cursor(PAGE, "asc", after))
            for record, _ in found[:PAGE]:
                yield record.id, record.name
                after = record.id
            if len(found) <= PAGE:
                return

    async def create_store(self, name: str) -> str:
        record, _ = await self._app.retrieval.create(self._caller, name=name)
        return record.id

    async def entries(self, store_id: str) -> AsyncIterator[Entry]:
        after = None
        while True:
            found = await self._app.retrieval.files(self._caller, store_id, Cursor(PAGE, "asc", after))
            for file in found[:PAGE]:
                yield _entry_of(file)
                after = file.file_id
            if len(found) <= PAGE:
                return

    async def entry(self, store_id: str, file_id: str) -> Entry:
        return _entry_of(await self._app.retrieval.file(self._caller, store_id, file_id))

    async def upload(self, path: Path) -> str:
        most = self._app.settings.max_upload
        with await asyncio.to_thread(path.open, "rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise TooLarge(f"The file is larger than the {most:,} bytes that are allowed (setting max_upload).")
            record = await self._app.files.create(self._caller.project, path.name, file, purpose="assistants")
        return record.id

    async def attach(self, store_id: str, file_id: str, attributes: dict[str, Any]) -> None:
        await self._app.retrieval.attach(self._caller, store_id, NewFile(file_id, attributes))

    async def delete(self, file_id: str) -> None:
        try:
            await self._app.files.delete(self._caller.project, file_id)
        except NotFound:
            return


def _entry_of(file: StoreFile) -> Entry:
    return Entry(file.file_id, file.status, file.attributes, (file.last_error or {}).get("message", ""))
