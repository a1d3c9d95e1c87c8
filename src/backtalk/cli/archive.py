"""The file that `backtalk backup` writes: a tar of the database, the uploaded files, and a list of what is in it."""

import io
import json
import os
import re
import tarfile
import time
import zlib
from pathlib import Path
from typing import BinaryIO

from backtalk import __version__
from backtalk.storage.seal import checksum

DATABASE = "backtalk.sqlite"
LIST = "list.json"
_BLOB = re.compile(r"files/[0-9a-f]{32}/file-[A-Za-z0-9_-]+")
_CHUNK = 2**20


class NoArchiveError(Exception):
    """A file that is none of ours, or not whole. The message says what is wrong."""


def write(target: Path, database: Path, blobs: Path) -> int:
    """Writes the archive; returns how many uploaded files are in it. It is there in full or not at all."""
    part = target.with_name(f".{target.name}.part")
    sums = {}
    part.touch(mode=0o600, exist_ok=False)
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                sums[DATABASE] = _add(tar, DATABASE, database)
                for path in sorted(blobs.glob("*/file-*")):
                    name = f"files/{path.parent.name}/{path.name}"
                    try:
                        sums[name] = _add(tar, name, path)
                    except FileNotFoundError:  # deleted meanwhile
                        continue
                about = {"backtalk": __version__, "made_at": int(time.time()), "sums": sums}
                _add_bytes(tar, LIST, json.dumps(about).encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return len(sums) - 1


def unpack(source: Path, folder: Path) -> None:
    """Takes an archive apart into `folder`, and holds it to its list. Raises NoArchiveError."""
    try:
        with tarfile.open(source, "r:") as tar:
            sums = {member.name: _extract(tar, member, folder) for member in tar if member.name != LIST}
            listed = tar.extractfile(LIST)
            wanted = json.loads(listed.read())["sums"] if listed else {}
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise NoArchiveError(f"it is no whole archive of `backtalk backup`: {error}") from error
    if sums != wanted or DATABASE not in sums:
        changed = sorted(name for name in {*sums, *wanted} if sums.get(name) != wanted.get(name))
        raise NoArchiveError(f"it is damaged: {', '.join(changed[:5])}")


def _add(tar: tarfile.TarFile, name: str, path: Path) -> int:
    with path.open("rb") as file:
        tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)
    return checksum(path)


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> int:
    """Only what we put in: no path of an archive leads anywhere else."""
    content = tar.extractfile(member) if member.isreg() else None
    if content is None or not (member.name == DATABASE or _BLOB.fullmatch(member.name)):
        raise ValueError(f"there is something else in it, {member.name!r}")
    target = folder / member.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _write(content, target)  # type: ignore[arg-type]  # a buffered reader is one


def _write(content: BinaryIO, target: Path) -> int:
    found = 0
    with target.open("xb") as file:
        while chunk := content.read(_CHUNK):
            found = zlib.crc32(chunk, found)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return found
