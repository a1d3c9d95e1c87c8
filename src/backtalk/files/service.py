"""What may be done with a file."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

from backtalk.core.clock import now
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.ids import new_id
from backtalk.files import store
from backtalk.files.blobs import Blobs
from backtalk.files.store import FileRecord
from backtalk.http.paging import Cursor
from backtalk.storage import Storage
from backtalk.storage.once import once

log = logging.getLogger("backtalk.files")

OnDelete: TypeAlias = Callable[[str, str], Awaitable[None]]
SWEEP_SECONDS = 60.0
_NAME_LENGTH = 255


class Files:
    """Files of all projects; their bytes lie under `root`."""

    def __init__(self, storage: Storage, root: Path) -> None:
        self._storage = storage
        self._blobs = Blobs(root)
        self._hooks: list[OnDelete] = []
        self._sweeper: asyncio.Task[None] | None = None

    def on_delete(self, hook: OnDelete) -> None:
        """`await hook(project, file_id)` runs before a file goes, so that other rooms forget what they made of it.

        It must bear being called again: a file whose deletion was cut off is deleted again.
        """
        self._hooks.append(hook)

    async def create(
        self, project: str, filename: str, source: BinaryIO, *, purpose: str, expires_in: int | None = None
    ) -> FileRecord:
        """Keeps all of `source`. The bytes are on the disk before the record says so. `expires_in` is in seconds."""
        file_id = new_id("file", "-")
        size = await asyncio.to_thread(self._blobs.save, project, file_id, source)
        created_at = now()
        record = FileRecord(
            id=file_id,
            project=project,
            filename=clean_filename(filename),
            bytes=size,
            purpose=purpose,
            created_at=created_at,
            expires_at=None if expires_in is None else created_at + expires_in,
        )
        try:
            if size == 0:
                raise InvalidRequest("The file is empty.", param="file", code="invalid_value")
            await self._storage.write(once(store.insert), record)
        except Exception:
            await asyncio.to_thread(self._blobs.delete, project, file_id)
            raise
        return record

    async def get(self, project: str, file_id: str) -> FileRecord:
        """Raises NotFound."""
        record = await self._storage.read(store.find, project, file_id, now())
        if record is None:
            raise NotFound(f"No such File object: {file_id}", param="id")
        return record

    def path(self, project: str, file_id: str) -> Path:
        """Where the bytes of a file lie that `get` has returned."""
        return self._blobs.path(project, file_id)

    async def list(self, project: str, cursor: Cursor, purpose: str | None = None) -> list[FileRecord]:
        """Up to `cursor.limit + 1` files."""
        records = await self._storage.read(store.page, project, cursor, purpose=purpose, at=now())
        if records is None:
            raise InvalidRequest(f"No such File object: {cursor.after}", param="after", code="invalid_value")
        return records

    async def delete(self, project: str, file_id: str) -> None:
        """Hooks first, then the record, then the bytes: what is cut off in between can be asked for again.

        Raises NotFound.
        """
        await self.get(project, file_id)
        await self._delete(project, file_id)

    async def _delete(self, project: str, file_id: str) -> None:
        for hook in self._hooks:
            await hook(project, file_id)
        await self._storage.write(store.delete, project, file_id)
        await asyncio.to_thread(self._blobs.delete, project, file_id)

    async def sweep(self) -> int:
        """Deletes files that have expired; returns how many."""
        expired = await self._storage.read(store.expired, now())
        for record in expired:
            await self._delete(record.project, record.id)
        return len(expired)

    async def start(self) -> None:
        """Begins to delete expired files every minute."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception as error:
                log.warning("cannot delete expired files: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


def clean_filename(name: str) -> str:
    """The last component of a path in anyone's notation, printable, at most 255 characters, its ending kept."""
    name = re.split(r"[/\\]", name)[-1].encode("utf-8", "replace").decode()
    name = "".join(char for char in name if char.isprintable()).strip()
    if name.strip(".") == "":
        return "file"
    if len(name) <= _NAME_LENGTH:
        return name
    suffix = Path(name).suffix[:16]
    return name[: _NAME_LENGTH - len(suffix)] + suffix
