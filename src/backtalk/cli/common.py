"""What all commands share: the settings, the database, and how a mistake is told."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from backtalk.core.errors import BacktalkError
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
    except ValueError as error:  # a TOML file that is none
        fail(f"backtalk.toml cannot be read: {error}", 2)


def on_database(work: Callable[[Storage], Awaitable[T]], *, migrate: bool = True) -> T:
    """Runs `work` on the database that the settings name, brought up to date; tells in a line what is wrong with it."""
    settings = read_settings()

    async def run() -> T:
        async with _opened(settings.database_url) as storage:
            if migrate:
                await upgrade(storage)
            return await work(storage)

    try:
        return asyncio.run(run())
    except BacktalkError as error:
        fail(error.message)
    except DBAPIError as error:
        fail(f"the database {shown(settings.database_url)} cannot be used: {error.orig}")
    except (ValueError, OSError) as error:
        fail(f"the database {shown(settings.database_url)} cannot be opened: {error}")


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Storage]:
    storage = await asyncio.to_thread(open_storage, url)
    try:
        yield storage
    finally:
        await storage.close()


def shown(url: str) -> str:
    """A database URL without its user and password."""
    return re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", url)
