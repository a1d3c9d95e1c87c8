"""The bytes of files, on the disk: a folder for each project, a file for each id.

A blob is there in full or not at all: it is written beside its place, forced to the disk, and renamed.
"""

import errno
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from backtalk.core.errors import StorageFull
from backtalk.core.folders import make_folder, sync_folder

_CHUNK = 1 << 20


class Blobs:
    """Blobs under one folder. Its methods block: call them on a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[Path] = set()

    def path(self, project: str, blob_id: str) -> Path:
        """Where a blob is. Projects are hashed: their names are anyone's choice, folder names are not."""
        return self._root / hashlib.sha256(project.encode()).hexdigest()[:32] / blob_id

    def save(self, project: str, blob_id: str, source: BinaryIO) -> int:
        """Copies `source` from its beginning; returns the number of bytes once they are safe. Raises StorageFull."""
        path = self.path(project, blob_id)
        self._make_folder(path.parent)
        part = path.with_name(f".{blob_id}.{secrets.token_hex(4)}.part")
        try:
            size = _copy(source, part)
            part.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("The disk is full: the file was not kept. Free some space and try again.") from error
            raise
        return size

    def _make_folder(self, folder: Path) -> None:
        """Once is enough for a process, while the folder is there: it costs two syncs."""
        if folder not in self._made or not folder.exists():
            make_folder(self._root)
            make_folder(folder)
            self._made.add(folder)

    def delete(self, project: str, blob_id: str) -> None:
        self.path(project, blob_id).unlink(missing_ok=True)


def _copy(source: BinaryIO, target: Path) -> int:
    source.seek(0)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
