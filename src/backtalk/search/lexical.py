"""The full-text cache: a small SQLite file with an FTS5 table for each scope.

The rows of the database are the truth. A file that is missing, broken or behind is made again from them.
One file for each scope, not one for all: FTS5 takes its statistics over a whole table, so in a shared one a stranger's
documents would move the scores, and a search would read the postings of all tenants (ten thousand stores of 20 chunks:
2.2 ms for a query, alone 0.1 ms).
"""

import contextlib
import hashlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from backtalk.core.errors import Overloaded, StorageFull
from backtalk.search.words import TOKENIZER, indexable, match
from backtalk.storage.seal import beside, matches_seal, write_seal

T = TypeVar("T")

FORMAT = 1
"""Of the file. Files of another format are made again."""
BUSY_SECONDS = 5.0
OPEN_FILES = 64

_SCHEMA = f"""
CREATE TABLE state (version INTEGER NOT NULL);
CREATE TABLE docs (doc TEXT PRIMARY KEY, revision TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (id INTEGER PRIMARY KEY, doc TEXT NOT NULL);
CREATE INDEX chunks_of_doc ON chunks (doc);
CREATE VIRTUAL TABLE words USING fts5(body, tokenize="{TOKENIZER}");
PRAGMA user_version = {FORMAT};
"""
_SEARCH = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
_SEARCH_IN = """
SELECT words.rowid, -words.rank FROM words JOIN chunks ON chunks.id = words.rowid
WHERE words MATCH ? AND chunks.doc IN (SELECT value FROM json_each(?)) ORDER BY words.rank LIMIT ?
"""


class Lexicon:
    """The cache of one scope. Its methods block; several threads and processes may use them at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def version(self) -> int | None:
        """The version that it is up to date with; None when it is new or was never finished."""
        return self._run(_version)

    def docs(self) -> dict[str, str]:
        """The documents in it, with their revisions."""
        return self._run(lambda connection: dict(connection.execute("SELECT doc, revision FROM docs").fetchall()))

    def add(self, version: int, docs: Mapping[str, str], texts: Iterable[tuple[int, str, str]]) -> None:
        """Puts in documents with their chunks (id, document, text), in place of older ones.

        Nothing happens when another process has brought the file to a later version.
        """
        chunks = list(texts)
        self._run(lambda connection: _add(connection, version, docs, chunks), "BEGIN IMMEDIATE")

    def settle(self, version: int, docs: Collection[str]) -> None:
        """Removes what is not in `docs` and declares the file up to date with `version`."""
        self._run(lambda connection: _settle(connection, version, docs), "BEGIN IMMEDIATE")

    def search(
        self, version: int | None, queries: Sequence[str], limit: int, docs: Collection[str] | None = None
    ) -> list[dict[int, float]] | None:
        """For each query the best chunks, of `docs` only where given: BM25 scores, greater is better.

        None when the file is not at `version`. With None for the version it searches what there is.
        """
        return self._run(lambda connection: _search(connection, version, queries, limit, docs))

    def close(self) -> None:
        with self._lock:
            self._close()

    def delete(self) -> None:
        """Removes the file. The next use makes a new one."""
        with self._lock:
            self._delete()

    def _run(self, work: Callable[[sqlite3.Connection], T], begin: str = "BEGIN") -> T:
        """`work` in a transaction; after a broken file once more, in a new and empty one."""
        with self._lock:
            try:
                return _transact(self._open(), work, begin)
            except sqlite3.Error as error:
                _raise_if_not_broken(error)
                self._delete()
            return _transact(self._open(), work, begin)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._break_seal()
            self._connection = _connect(self._path)
            _prepare(self._connection)
        return self._connection

    def _break_seal(self) -> None:
        """A file that is not what it was when it was closed is made again."""
        if not matches_seal(self._path):
            self._delete()
        beside(self._path, ".seal").unlink(missing_ok=True)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            with contextlib.suppress(OSError):  # such as a full disk: it stays unsealed
                if not beside(self._path, "-wal").exists():  # nobody else has it open
                    write_seal(self._path, durable=False)  # else it is made again

    def _delete(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for ending in ("", "-wal", "-shm", ".seal"):
            with contextlib.suppress(PermissionError):  # Windows, when another process has it open
                beside(self._path, ending).unlink(missing_ok=True)


class Lexicons:
    """The caches of all scopes, in one folder. Keeps the files open that were used last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, Lexicon] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, scope: str) -> Lexicon:
        with self._lock:
            lexicon = self._open.pop(scope, None) or Lexicon(self._path(scope))
            self._open[scope] = lexicon
            old = self._open.popitem(last=False)[1] if len(self._open) > OPEN_FILES else None
        if old is not None:
            old.close()
        return lexicon

    def drop(self, scope: str) -> None:
        """Forgets a scope."""
        self[scope].delete()
        with self._lock:
            self._open.pop(scope, None)

    def close(self) -> None:
        with self._lock:
            for lexicon in self._open.values():
                lexicon.close()
            self._open.clear()

    def _path(self, scope: str) -> Path:
        """Scopes are hashed: their names are anyone's choice, file names are not."""
        return self._folder / f"{hashlib.sha256(scope.encode()).hexdigest()[:40]}.sqlite"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous=OFF")  # what a power loss takes is made again
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the file is broken")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    if _format(connection) == 0:
        _transact(connection, _create, "BEGIN IMMEDIATE")
    if _format(connection) != FORMAT:
        raise sqlite3.DatabaseError("another format")


def _format(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def _create(connection: sqlite3.Connection) -> None:
    if _format(connection) == 0:  # no other process was faster
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return result


def _raise_if_not_broken(error: sqlite3.Error) -> None:
    words = str(error)
    if "locked" in words or "busy" in words:
        raise Overloaded("The search index is being written by another process; try again.") from error
    if "unable to open" in words:  # no file is to be had: the one that there is may be whole
        raise Overloaded("The search index cannot be opened now; try again in a moment.") from error
    if "full" in words:
        raise StorageFull("The disk is full: the search index cannot be brought up to date.") from error


def _version(connection: sqlite3.Connection) -> int | None:
    row = connection.execute("SELECT version FROM state").fetchone()
    return row[0] if row else None


def _add(
    connection: sqlite3.Connection, version: int, docs: Mapping[str, str], chunks: Sequence[tuple[int, str, str]]
) -> None:
    if (_version(connection) or 0) > version:
        return
    _remove(connection, docs)
    connection.executemany("INSERT INTO docs VALUES (?, ?)", docs.items())
    connection.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?)", [(id_, doc) for id_, doc, _ in chunks])
    words = [(id_, indexable(text)) for id_, _, text in chunks]
    connection.executemany("INSERT OR REPLACE INTO words (rowid, body) VALUES (?, ?)", words)


def _settle(connection: sqlite3.Connection, version: int, docs: Collection[str]) -> None:
    if (_version(connection) or 0) > version:
        return
    known = {doc for (doc,) in connection.execute("SELECT doc FROM docs")}
    _remove(connection, known.difference(docs))
    connection.execute("DELETE FROM state")
    connection.execute("INSERT INTO state VALUES (?)", (version,))


def _remove(connection: sqlite3.Connection, docs: Iterable[str]) -> None:
    gone = [(doc,) for doc in docs]
    connection.executemany("DELETE FROM words WHERE rowid IN (SELECT id FROM chunks WHERE doc = ?)", gone)
    connection.executemany("DELETE FROM chunks WHERE doc = ?", gone)
    connection.executemany("DELETE FROM docs WHERE doc = ?", gone)


def _search(
    connection: sqlite3.Connection,
    version: int | None,
    queries: Sequence[str],
    limit: int,
    docs: Collection[str] | None,
) -> list[dict[int, float]] | None:
    if version is not None and _version(connection) != version:
        return None
    allowed = None if docs is None else msgspec.json.encode(list(docs)).decode()
    return [_find(connection, match(query), limit, allowed) for query in queries]


def _find(connection: sqlite3.Connection, expression: str | None, limit: int, allowed: str | None) -> dict[int, float]:
    if expression is None:
        return {}
    if allowed is None:
        return dict(connection.execute(_SEARCH, (expression, limit)).fetchall())
    return dict(connection.execute(_SEARCH_IN, (expression, allowed, limit)).fetchall())
