"""Copies of a SQLite database, made while it is in use, and the daily ones that a server keeps."""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import time
from pathlib import Path

from backtalk.core.errors import StorageDamaged, StorageFull
from backtalk.core.folders import sync_folder
from backtalk.storage.base import Storage, explain
from backtalk.storage.seal import beside, how_to_restore, matches_seal, write_seal
from backtalk.storage.sqlite import SQLiteStorage

log = logging.getLogger("backtalk.copies")

FIRST_SECONDS = 60.0
LOOK_SECONDS = 3600.0
_STALE_SECONDS = 6 * 3600.0
"""After which an unfinished copy is one that a crash left."""
_SPARE = 2**28


def copy(source: Path, target: Path) -> None:
    """A sealed copy of a database, as it is at one moment; there in full or not at all.

    Raises FileExistsError where another process makes the same one, StorageFull, StorageDamaged.
    """
    if not matches_seal(source):
        raise StorageDamaged(f"{source} is damaged: it is not what it was when it was closed. {how_to_restore(source)}")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    if part.exists() and time.time() - part.stat().st_mtime > _STALE_SECONDS:
        part.unlink()
    if shutil.disk_usage(target.parent).free < source.stat().st_size + _SPARE:
        raise StorageFull(f"There is too little space in {target.parent} for a copy of {source}.")
    _vacuum(source, part)
    part.chmod(0o600)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    write_seal(target)
    sync_folder(target.parent)


def _vacuum(source: Path, part: Path) -> None:
    if part.exists():
        raise FileExistsError(part)
    try:
        with contextlib.closing(sqlite3.connect(source, timeout=5)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
    except sqlite3.Error as error:
        if "already exists" in str(error):
            raise FileExistsError(part) from None
        part.unlink(missing_ok=True)
        raise explain(error) from error


class DailyCopies:
    """Keeps a copy of each of the last `keep` days on which the database changed, in `backups` beside it.

    Only for SQLite. Of several processes one makes them.
    """

    def __init__(self, storage: Storage, keep: int) -> None:
        self._path = storage.path if isinstance(storage, SQLiteStorage) and keep else None
        self._keep = keep
        self._tending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._path:
            self._tending = asyncio.create_task(self._tend(self._path))

    async def stop(self) -> None:
        if self._tending:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)

    async def _tend(self, path: Path) -> None:
        wait = FIRST_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait = LOOK_SECONDS
            try:
                await asyncio.to_thread(keep_copies, path, self._keep)
            except FileExistsError:
                pass
            except Exception as error:
                log.warning("the daily copy of %s was not made: %s", path, error)


def keep_copies(path: Path, keep: int) -> None:
    """Makes today's copy, if there is none and something has changed since the last, and removes the oldest."""
    folder = path.parent / "backups"
    target = folder / f"{path.stem}-{time.strftime('%Y-%m-%d', time.gmtime())}.sqlite"
    newest = max(folder.glob(f"{path.stem}-*.sqlite"), default=None)
    if target.exists() or (newest and newest.stat().st_mtime > _changed_at(path)):
        return
    copy(path, target)
    for old in sorted(folder.glob(f"{path.stem}-*.sqlite"))[:-keep]:
        old.unlink(missing_ok=True)
        beside(old, ".seal").unlink(missing_ok=True)


def _changed_at(path: Path) -> float:
    wal = beside(path, "-wal")
    return max(path.stat().st_mtime, wal.stat().st_mtime if wal.exists() and wal.stat().st_size else 0.0)
