"""SQLite, which has one writer by nature.

All writes of a process go through one thread that takes *everything queued* into a single transaction and a single
fsync: group commit for every row, not only for the log's.
"""

import asyncio
import contextlib
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import QueuePool, StaticPool

from backtalk.core.errors import Overloaded
from backtalk.storage.base import Storage, explain, savepoint
from backtalk.storage.seal import Seal

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 4
BUSY_SECONDS = 5


class SQLiteStorage(Storage):
    """SQLite: readers side by side on threads, one writer thread that commits in groups."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._seal = Seal(self.path)
        super().__init__(_sqlite_engine(path, self._seal, writer=False), READ_THREADS)
        self._writer = _GroupWriter(_sqlite_engine(path, self._seal, writer=True))

    async def write(self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._writer.submit(lambda connection: function(connection, *args, **kwargs)))

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        await super().close()
        with contextlib.suppress(OSError):  # such as a full disk: it stays unsealed
            await asyncio.to_thread(self._seal.put)


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


class _UndoneError(Exception):
    """An error, such as a full disk, after which SQLite undid the whole transaction and not only the savepoint."""


def _resolve(future: Future[Any], outcome: Any) -> None:
    with contextlib.suppress(Exception):  # the one who asked may have been cancelled
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _sqlite_engine(path: str, seal: Seal, *, writer: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool if writer else QueuePool,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        hide_parameters=True,  # a logged error must not hold a prompt
        **({} if writer else {"pool_size": READ_THREADS}),
    )

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Dialect, _record: Any, args: Any, options: Any) -> Any:
        with seal.opening():
            connection: Any = dialect.connect(*args, **options)
            connection.isolation_level = None  # transactions are begun below, not guessed by the driver
            _use_wal(connection)  # from now on others can see that the file is open
        return connection

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
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
