"""What all commands share: the settings, the database, and how a mistake is told."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from backtalk.core.errors import BacktalkError
from backtalk.core.folders import make_folder
from backtalk.core.settings import Settings
from backtalk.storage import Storage, open_storage
from backtalk.storage.migrate import upgrade

T = TypeVar("T")


def fail(message: str, code: int = 1) -> NoReturn:
    """Ends the command with one line on stderr."""
    typer.echo(f"backtalk: {message}", err=True)
    raise typer.Exit(code)


def read_settings() -> Settings:
    """The settings as environment, `.env` and `backtalk.toml` have them."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"the setting '{'.'.join(map(str, first['loc']))}' is wrong: {first['msg']}", 2)
    except UnicodeDecodeError as error:
        fail(f".env cannot be read: {error}", 2)
    except (ValueError, OSError) as error:
        fail(str(error).splitlines()[0], 2)


def see_working_folder() -> None:
    """Lets `module:attribute` name what lies in the working folder, also for the installed command."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def make_home(settings: Settings) -> Path:
    """The home folder. One that is made is its owner's alone: conversations and files will lie there."""
    try:
        make_folder(settings.home)
    except OSError as error:
        fail(
            f"the home folder {settings.home} cannot be opened: {error.strerror}. "
            "Name another one with --home or in BACKTALK_HOME."
        )
    return settings.home


def on_database(work: Callable[[Storage], Awaitable[T]], *, migrate: bool = True) -> T:
    """Runs `work` on the database that the settings name, brought up to date; tells in a line what is wrong with it."""
    settings = read_settings()
    if settings.database is None:
        make_home(settings)

    async def run() -> T:
        async with opened(settings.database_url) as storage:
            if migrate:
                await upgrade(storage)
            return await work(storage)

    with mistakes_told(settings):
        return asyncio.run(run())


@contextmanager
def mistakes_told(settings: Settings) -> Iterator[None]:
    """Ends the command in one line when the database cannot be used."""
    try:
        yield
    except BacktalkError as error:
        fail(error.message)
    except DBAPIError as error:
        fail(f"the database {shown(settings.database_url)} cannot be used: {error.orig}")
    except (ValueError, OSError) as error:
        fail(f"the database {shown(settings.database_url)} cannot be opened: {error}")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Storage]:
    """The database at `url`, closed in the end."""
    storage = await asyncio.to_thread(open_storage, url)
    try:
        yield storage
    finally:
        await storage.close()


def shown(url: str) -> str:
    """A database URL without its user and password."""
    return re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", url)
