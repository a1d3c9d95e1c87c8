"""Folders whose names outlive a power loss."""

import errno
import os
from pathlib import Path

_UNABLE = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP}
"""What systems answer that cannot open a folder (Windows), or not force one to the disk (some network drives)."""


def make_folder(path: Path) -> None:
    """Makes a folder, its owner's alone, and what is missing above it; forces its name to the disk.

    Also if it was there already: whoever made it may have been killed before that.
    """
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Forces the names in a folder to the disk: those that are new, those that were changed, and those that are gone."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
