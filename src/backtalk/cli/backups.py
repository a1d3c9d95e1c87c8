"""`backtalk backup` and `backtalk restore`: everything that is kept, in one file, while it is in use."""

import contextlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import make_url

from backtalk.cli import archive
from backtalk.cli.common import fail, read_settings, shown
from backtalk.core.errors import BacktalkError
from backtalk.core.folders import sync_folder
from backtalk.core.settings import Settings
from backtalk.storage.copies import copy
from backtalk.storage.migrate import head
from backtalk.storage.seal import beside, locked, matches_seal, write_seal

_SHARED_LOCK = (510, 0x40000002)
"""Length and place of the lock that SQLite holds in a file as long as it is open."""


def backup(
    to: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file to make. Default: a dated one here.")
    ] = None,
) -> None:
    """Save the SQLite database and the uploaded files into one file. The server may go on meanwhile."""
    settings = read_settings()
    database = _database(settings)
    if not database.exists():
        fail(f"there is nothing to save yet: {database} does not exist.")
    target = to or Path(time.strftime("backtalk-%Y%m%d-%H%M%S.tar"))
    if target.exists():
        fail(f"{target} exists: name another file.")
    with _mistakes_told(target), tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".backup-") as folder:
        whole = Path(folder) / archive.DATABASE
        copy(database, whole)
        files = archive.write(target, whole, settings.home / "files")
    typer.echo(f"{target}: the database and {files} files, {target.stat().st_size:,} bytes.")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Made by `backtalk backup`, or a daily copy.")],
) -> None:
    """Put a backup in the place of the SQLite database. Stop the server first. What was there is kept aside."""
    settings = read_settings()
    database = _database(settings)
    if not source.is_file():
        fail(f"there is no file {source}.")
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _mistakes_told(source), tempfile.TemporaryDirectory(dir=database.parent, prefix=".restore-") as folder:
        staged = _staged(source, Path(folder))
        _examine(staged, source)
        with locked(database.parent):
            if _in_use(database):
                fail(f"{database} is in use: stop the server first.")
            _put_files(Path(folder) / "files", settings.home / "files")
            aside = _put_aside(database)
            staged.replace(database)
            write_seal(database)
            sync_folder(database.parent)
    shutil.rmtree(settings.home / "search", ignore_errors=True)  # a cache, made again from the rows
    typer.echo(f"{database} is what {source} holds." + (f" What was there is in {aside}." if aside else ""))


def _database(settings: Settings) -> Path:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database)
    tool = "pg_dump" if url.get_backend_name().startswith("postgres") else "mariadb-dump or mysqldump"
    fail(
        f"the database is {shown(settings.database_url)}: save and restore it with {tool}, "
        f"and the uploaded files by copying {settings.home / 'files'}."
    )


@contextlib.contextmanager
def _mistakes_told(path: Path) -> Iterator[None]:
    try:
        yield
    except archive.NoArchiveError as error:
        fail(f"{path} cannot be used: {error}.")
    except BacktalkError as error:
        fail(error.message)
    except (OSError, sqlite3.Error) as error:
        fail(f"{path}: {error}.")


def _staged(source: Path, folder: Path) -> Path:
    """The database that is to be put in place, in a folder beside that place."""
    staged = folder / archive.DATABASE
    if tarfile.is_tarfile(source):
        archive.unpack(source, folder)
    elif not matches_seal(source):
        raise archive.NoArchiveError("it is not what it was when it was made")
    else:
        shutil.copyfile(source, staged)
        with staged.open("rb+") as file:
            os.fsync(file.fileno())
    return staged


def _examine(staged: Path, source: Path) -> None:
    """It must be a database of ours, whole, and of no later version than this one."""
    try:
        with contextlib.closing(sqlite3.connect(staged)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except (sqlite3.DatabaseError, TypeError) as error:
        raise archive.NoArchiveError(f"it holds no database of Backtalk: {error}") from error
    if found != "ok":
        raise archive.NoArchiveError(f"its database is damaged: {found}")
    if revision > head():
        raise archive.NoArchiveError(
            f"its schema is {revision}, this version knows up to {head()}: upgrade backtalk first"
        )


def _in_use(database: Path) -> bool:
    """Whether a process has it open. On Windows, replacing it fails then."""
    try:
        import fcntl  # noqa: PLC0415  # Windows has none
    except ImportError:
        return False
    with contextlib.suppress(FileNotFoundError), database.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_SHARED_LOCK)
        except OSError:
            return True
    return False


def _put_files(staged: Path, folder: Path) -> None:
    """Files never change, so those that are there stay."""
    for path in staged.glob("*/*"):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.exists():
            path.replace(target)
            sync_folder(target.parent)


def _put_aside(database: Path) -> Path | None:
    """Keeps what is there, damaged as it may be; afterwards no log of the old database can get into the new one."""
    if not database.exists():
        return None
    aside = database.parent / time.strftime("replaced-%Y%m%d-%H%M%S")
    aside.mkdir(mode=0o700)
    shutil.copyfile(database, aside / database.name)
    for ending in ("-wal", "-shm", ".seal"):
        if beside(database, ending).exists():
            beside(database, ending).replace(beside(aside / database.name, ending))
    sync_folder(database.parent)  # lest a power loss leaves the old seal beside the new file
    return aside
