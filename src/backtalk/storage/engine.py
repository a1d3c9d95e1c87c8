"""Running transaction functions, on threads.

Why threads and blocking drivers: a transaction is one hop to a thread and back instead of a hop per statement, a
cancelled request can never leave a half-cancelled connection behind, and the three databases share one code path
(docs/decisions/0002).

SQLite has one writer by nature, so all writes of a process go through one thread that takes *everything queued* into a
single transaction and a single fsync: group commit for every row, not only for the log's.
"""

import asyncio
import contextlib
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import QueuePool, StaticPool

from backtalk.core.errors import InvalidRequest, Overloaded, StorageFull

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 4
SERVER_THREADS = 10
BUSY_SECONDS = 5
WRITE_TRIES = 4
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}


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
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

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


class SQLiteStorage(Storage):
    """SQLite: readers side by side on threads, one writer thread that commits in groups."""

    def __init__(self, path: str) -> None:
        super().__init__(_sqlite_engine(path, writer=False), READ_THREADS)
        self._writer = _GroupWriter(_sqlite_engine(path, writer=True))

    async def write(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._writer.submit(lambda connection: function(connection, *args, **kwargs)))

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        await super().close()


class _GroupWriter:
    """One thread, one connection: takes all queued functions into one transaction, a savepoint for each."""

    MOST = 256

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Callable[[Connection], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="backtalk-writer", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., T]) -> Future[T]:
        future: Future[T] = Future()
        with self._closing:  # nothing is queued behind the None that ends the thread
            if self._closed:
                raise Overloaded("The server is stopping; try again in a moment.")
            self._queue.put((function, future))
        return future

    def close(self) -> None:
        with self._closing:
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._engine.dispose()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first, *self._drain()]
            outcomes = self._together([function for function, _ in group])
            for (_, future), outcome in zip(group, outcomes, strict=True):
                _resolve(future, outcome)

    def _together(self, functions: list[Callable[[Connection], Any]]) -> list[Any]:
        """The functions' outcomes, of one transaction; of one for each where SQLite undid all because of one of them."""
        try:
            with self._engine.begin() as connection:
                return [self._attempt(connection, function, len(functions) == 1) for function in functions]
        except _UndoneError:
            return [outcome for function in functions for outcome in self._together([function])]
        except Exception as error:
            return [explain(error)] * len(functions)

    def _drain(self) -> Iterator[tuple[Callable[[Connection], Any], Future[Any]]]:
        for _ in range(self.MOST):
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return
            if entry is None:
                self._queue.put(None)
                return
            yield entry

    def _attempt(self, connection: Connection, function: Callable[[Connection], Any], alone: bool) -> Any:
        """The function's result, or its exception. Alone in its transaction it needs no savepoint."""
        if alone:
            return function(connection)
        try:
            with savepoint(connection):
                return function(connection)
        except Exception as error:
            if not getattr(connection.connection.dbapi_connection, "in_transaction", True):
                raise _UndoneError from error
            return explain(error)


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


class _UndoneError(Exception):
    """An error, such as a full disk, after which SQLite undid the whole transaction and not only the savepoint."""


def _resolve(future: Future[Any], outcome: Any) -> None:
    with contextlib.suppress(Exception):  # the one who asked may have been cancelled
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _sqlite_engine(path: str, *, writer: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool if writer else QueuePool,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        hide_parameters=True,  # a logged error must not hold a prompt
        **({} if writer else {"pool_size": READ_THREADS}),
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        _use_wal(connection)
        for pragma in _PRAGMAS if writer else (*_PRAGMAS, "query_only=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches a new database to WAL. For this one statement SQLite does not wait for other processes: we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.005, 0.02))  # noqa: S311  # jitter, not a secret


# synchronous=FULL: an acknowledged commit survives power loss. A checkpoint of 4,000 pages stays rare.
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000", "cache_size=-16000")


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


def open_storage(url: str) -> Storage:
    """The database at `url`. SQLite's folder is made when it is missing. Raises ValueError with what to do next."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("This is no database URL, such as sqlite:///path or postgresql://…") from error
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "backtalk.sqlite")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SQLiteStorage(str(path))
    return Storage(_server_engine(parsed), SERVER_THREADS)


def _server_engine(url: URL) -> Engine:
    driver = _DRIVERS.get(url.drivername, url.drivername)
    try:
        return create_engine(
            url.set(drivername=driver),
            pool_size=SERVER_THREADS,
            max_overflow=2,
            pool_pre_ping=True,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
        )
    except NoSuchModuleError as error:
        raise ValueError(f"Unknown database '{url.drivername}': use sqlite, postgresql or mysql.") from error
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "postgres")
        raise ValueError(f'A driver is missing: pip install "backtalk[{extra}]"') from error
