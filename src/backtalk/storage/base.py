"""Running transaction functions, on threads.

Why threads and blocking drivers: a transaction is one hop to a thread and back instead of a hop per statement, a
cancelled request can never leave a half-cancelled connection behind, and the three databases share one code path
(docs/decisions/0002).
"""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from backtalk.core.errors import InvalidRequest, Overloaded, StorageDamaged, StorageFull

P = ParamSpec("P")
T = TypeVar("T")

WRITE_TRIES = 4


class Storage:
    """A database. `read` and `write` run a transaction function on a thread and await its result."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="backtalk-db")

    @property
    def dialect(self) -> str:
        """`sqlite`, `postgresql`, `mysql` or `mariadb`."""
        return self.engine.dialect.name

    @property
    def name(self) -> str:
        """The database's URL, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    async def read(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function(connection, …)` in a transaction of its own; it must only read."""
        return await self._run(partial(self._transact, function, args, kwargs))

    async def write(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function(connection, …)` and returns its result once the transaction is durable.

        The function may be run again after a deadlock, so it must have no effect but on the database.
        """
        return await self._run(partial(self._transact, function, args, kwargs))

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self.engine.dispose()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:  # its threads have ended
            raise Overloaded("The server is stopping; try again in a moment.") from None
        return await done

    def _transact(self, function: Callable[..., T], args: Any, kwargs: Any) -> T:
        for attempt in range(WRITE_TRIES):
            try:
                with self.engine.begin() as connection:
                    return function(connection, *args, **kwargs)
            except DBAPIError as error:
                if attempt + 1 == WRITE_TRIES or not is_passing(error):
                    raise explain(error) from error
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311  # jitter, not a secret
        raise AssertionError("unreachable")


@contextlib.contextmanager
def savepoint(connection: Connection) -> Iterator[None]:
    """What the block does is undone alone if it raises. A quarter of the cost of SQLAlchemy's nested transactions."""
    connection.exec_driver_sql("SAVEPOINT part")
    try:
        yield
    except BaseException:
        with contextlib.suppress(DBAPIError):  # the error may have undone the whole transaction already
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
        raise
    connection.exec_driver_sql("RELEASE SAVEPOINT part")


def is_passing(error: DBAPIError) -> bool:
    """A deadlock, a serialization failure or a dropped connection: the same transaction may well succeed now."""
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlstate", None) or (error.orig.args[:1] or (None,))[0] if error.orig else None
    return code in {"40001", "40P01", 1213, 1205, 1020}


def explain(error: Exception) -> Exception:
    """A database's error as one of ours where a caller can do something about it."""
    if not isinstance(error, (DBAPIError, sqlite3.Error)):
        return error
    words = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    if "database or disk is full" in words or "no space left" in words or "could not extend" in words:
        return StorageFull("The disk is full: nothing was written. Free some space and try again.")
    if "malformed" in words or "not a database" in words:
        return StorageDamaged(
            "The database's file is damaged: stop the server and restore a copy, `backtalk restore FILE`."
        )
    if "locked" in words or "busy" in words:
        return Overloaded("The database is locked by another process; try again.")
    if isinstance(error, (OperationalError, sqlite3.OperationalError)) or getattr(
        error, "connection_invalidated", False
    ):
        return Overloaded("The database does not answer; try again in a moment.", retry_after=2)
    if "utf-8" in words or "surrogate" in words:
        return InvalidRequest("The text is not valid Unicode.")
    if "nul (0x00)" in words:
        return InvalidRequest("The text contains a NUL character.")
    return error
