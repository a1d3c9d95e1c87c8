"""A seal on a SQLite file, so that damage is noticed which came while nobody had it open.

SQLite keeps no checksums of its pages: a bit that flips in a text is read as another text. So the last process that
closes a file writes its checksum beside it, and the first that opens it compares and takes the seal away. A file that a
crash left unsealed is looked at by SQLite itself (`quick_check`), which notices what does not fit together.

Both take time in proportion to the file (about a second for a gigabyte), so larger ones are left alone.
"""

import contextlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from backtalk.core.errors import StorageDamaged
from backtalk.core.folders import sync_folder

MOST_SEALED = 2**30
MOST_CHECKED = 2**28
_CHUNK = 2**20


class Seal:
    """The seal of the file at `path`: `opening` it breaks it, `put` puts it on again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._broken = False

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Around each connect. Raises StorageDamaged before the first one, and breaks the seal with it."""
        with self._lock:
            if self._broken or not self._path.exists():
                yield
            else:
                with locked(self._path.parent):
                    self._break()
                    yield
            self._broken = True

    def put(self) -> None:
        """When all connections are closed. Nothing happens while another process has the file open."""
        with self._lock:
            if self._broken:
                with locked(self._path.parent) as alone:
                    if alone and not beside(self._path, "-wal").exists():
                        write_seal(self._path)
                self._broken = False

    def _break(self) -> None:
        seal = beside(self._path, ".seal")
        if seal.exists():
            if not matches_seal(self._path):
                raise StorageDamaged(
                    f"{self._path} is damaged: it is not what it was when it was closed. {how_to_restore(self._path)} "
                    f"If you have changed it yourself, delete {seal}."
                )
            seal.unlink(missing_ok=True)
            sync_folder(seal.parent)
        elif self._path.stat().st_size <= MOST_CHECKED:
            _check(self._path)


def write_seal(path: Path, *, durable: bool = True) -> None:
    """Seals a file, unless it is too large. `durable`: after a power loss the seal is there in full or not at all."""
    if 0 < path.stat().st_size <= MOST_SEALED:
        part = beside(path, ".seal.part")
        with part.open("w") as file:
            file.write(f"{checksum(path):08x}\n")
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(beside(path, ".seal"))


def matches_seal(path: Path) -> bool:
    """Whether a file is what its seal says. Without a seal it is."""
    seal = beside(path, ".seal")
    return not seal.exists() or seal.read_text("ascii", "replace").strip() == f"{checksum(path):08x}"


def checksum(path: Path) -> int:
    """CRC-32: no single flipped bit, and no run of 32, gets past it."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def how_to_restore(path: Path) -> str:
    """What to do about a file that is damaged, naming the newest copy that there is."""
    copies = sorted((path.parent / "backups").glob("*.sqlite"))
    return f"Restore a copy: `backtalk restore {copies[-1] if copies else 'FILE'}`."


def beside(path: Path, ending: str) -> Path:
    """`name.sqlite-wal` for `name.sqlite`."""
    return path.with_name(path.name + ending)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Nobody else opens or closes a file of this folder meanwhile. False where that cannot be had (Windows)."""
    try:
        import fcntl  # noqa: PLC0415  # Windows has none
    except ImportError:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(handle)


def _check(path: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        return  # locked, or not to be opened: the one who wants to use it will be told
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise StorageDamaged(f"{path} is damaged: {found}. {how_to_restore(path)}")
