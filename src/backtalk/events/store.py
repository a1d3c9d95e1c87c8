"""The log's tables and statements.

On SQLite `segments` is append-only by row id and has no other index: with one on the response every live stream would
dirty a page of its own at each commit. A log's row keeps an id below its first segment, from which any process can
scan. Elsewhere ids of *different* responses become visible out of order, so there each response has its index; within
one response ids are in order everywhere, because its writer awaits each commit before the next.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    String,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from backtalk.domain.events import Event
from backtalk.events.channel import clip, merge
from backtalk.storage.base import is_passing, savepoint
from backtalk.storage.schema import Blob, Id, RowId, table

logs = table(
    "logs",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Column("owner", String(255), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("first_segment", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # open | ended | compacted
)
Index("ix_logs_state", logs.c.state)

segments = table(
    "segments",
    Column("id", RowId, primary_key=True, autoincrement=True),
    Id("project", nullable=False),
    Id("response_id", nullable=False),
    Column("data", Blob, nullable=False),
    sqlite_autoincrement=True,
)


def _not_sqlite(*_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name != "sqlite"


Index("ix_segments_response_id", segments.c.response_id, segments.c.id).ddl_if(callable_=_not_sqlite)

transcripts = table(
    "transcripts",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Column("data", Blob, nullable=False),
)

Also = Callable[[Connection], Any]
_encoder = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[Event])
_CHUNK = 500
NEVER = 1e12
"""A time after every lease's end."""


class Entry(msgspec.Struct, eq=False):
    """What one run wants committed. `also` runs in the same transaction; raising, it takes the events down with it."""

    project: str
    response_id: str
    attempt: int
    events: list[Event]
    also: Also | None = None
    opens: "Lease | None" = None
    ends: bool = False


class Lease(msgspec.Struct, frozen=True):
    """Who writes a log, and until when (Unix seconds) unless renewed."""

    owner: str
    until: float


class FencedError(Exception):
    """Another attempt has taken the log over, or it has ended: nothing was written."""


# The statements of the token path go to the drivers as they are. Around each row that it takes or gives, SQLite lets the
# interpreter's lock go, and getting it back from a busy event loop takes long: so there it is all rows in one step.
_INSERT_SEGMENTS = {
    "pyformat": "INSERT INTO segments (project, response_id, data) VALUES (%s, %s, %s)",
    "format": "INSERT INTO segments (project, response_id, data) VALUES (%s, %s, %s)",
}
_INSERT_SEGMENTS_AT_ONCE = {
    rows: "INSERT INTO segments (project, response_id, data) VALUES " + ", ".join(["(?, ?, ?)"] * rows)  # noqa: S608  # constants
    for rows in (128, 64, 32, 16, 8, 4, 2, 1)
}
_OPEN_ATTEMPTS_AT_ONCE = (
    "SELECT group_concat(logs.id || ' ' || logs.attempt) FROM logs"
    " WHERE logs.id IN (SELECT value FROM json_each(?)) AND logs.state = 'open'"
)
_INSERT_LOGS = insert(logs)
_LAST_SEGMENT = select(func.coalesce(func.max(segments.c.id), 0))
_END_LOGS = (
    update(logs).where(logs.c.id == bindparam("log"), logs.c.project == bindparam("tenant")).values(state="ended")
)


def commit(connection: Connection, entries: Sequence[Entry]) -> list[Exception | None]:
    """Writes what all runs have queued. For each entry: None, or the exception that kept it out."""
    attempts = _open_attempts(connection, [entry.response_id for entry in entries if not entry.opens])
    outcomes = [_admit(connection, entry, attempts) for entry in entries]
    admitted = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None]
    _open_and_end(connection, admitted)
    _insert_segments(
        connection,
        [(entry.project, entry.response_id, _encoder.encode(entry.events)) for entry in admitted if entry.events],
    )
    return outcomes


def _open_attempts(connection: Connection, ids: list[str]) -> dict[str, int]:
    """The attempts that may write, locked so that no takeover slips in before the commit."""
    if connection.dialect.name == "sqlite":
        return _open_attempts_at_once(connection, ids)
    found: dict[str, int] = {}
    for start in range(0, len(ids), _CHUNK):
        query = select(logs.c.id, logs.c.attempt).where(logs.c.id.in_(ids[start : start + _CHUNK]))
        rows = connection.execute(query.where(logs.c.state == "open").with_for_update(read=True))
        found.update((row.id, row.attempt) for row in rows)
    return found


def _open_attempts_at_once(connection: Connection, ids: list[str]) -> dict[str, int]:
    """The same on SQLite, in one row. The transaction has the database to itself."""
    if not ids:
        return {}
    (row,) = _driver(connection).execute(_OPEN_ATTEMPTS_AT_ONCE, (_json(ids).decode(),)).fetchone()
    pairs = (pair.split(" ") for pair in row.split(",")) if row else ()
    return {name: int(attempt) for name, attempt in pairs}


def _insert_segments(connection: Connection, rows: list[tuple[str, str, bytes]]) -> None:
    if connection.dialect.name != "sqlite":
        if rows:
            connection.exec_driver_sql(_INSERT_SEGMENTS[connection.dialect.paramstyle], rows)
        return
    start = 0
    while start < len(rows):
        count = next(n for n in _INSERT_SEGMENTS_AT_ONCE if n <= len(rows) - start)
        values = tuple(chain.from_iterable(rows[start : start + count]))
        _driver(connection).execute(_INSERT_SEGMENTS_AT_ONCE[count], values)
        start += count


def _driver(connection: Connection) -> Any:
    """The driver's own connection: a result of SQLAlchemy's costs more than these statements."""
    return connection.connection.driver_connection


def _admit(connection: Connection, entry: Entry, attempts: dict[str, int]) -> Exception | None:
    if not entry.opens and attempts.get(entry.response_id) != entry.attempt:
        return FencedError(entry.response_id)
    if not entry.also:
        return None
    try:
        with savepoint(connection):
            entry.also(connection)
    except Exception as error:
        if isinstance(error, DBAPIError) and is_passing(error):
            raise  # a deadlock undoes the whole transaction on some databases: all of it is run again
        return error
    return None


def _open_and_end(connection: Connection, entries: Sequence[Entry]) -> None:
    """The rows of logs that begin and of logs that end with this commit, all at once."""
    opened = [entry for entry in entries if entry.opens]
    if opened:
        below = connection.execute(_LAST_SEGMENT).scalar_one() if connection.dialect.name == "sqlite" else 0
        connection.execute(_INSERT_LOGS, [_log_row(entry, below) for entry in opened])
    ended = [{"log": entry.response_id, "tenant": entry.project} for entry in entries if entry.ends]
    if ended:
        connection.execute(_END_LOGS, ended)


def _log_row(entry: Entry, below: int) -> dict[str, Any]:
    lease = entry.opens
    assert lease is not None  # noqa: S101  # asked only for logs that open
    return {
        "id": entry.response_id,
        "project": entry.project,
        "owner": lease.owner,
        "lease_until": lease.until,
        "attempt": entry.attempt,
        "first_segment": below,
        "state": "open",
    }


class Page(msgspec.Struct):
    """Events after a cursor. `row` is the segment to go on from; `ended`: nothing will ever follow."""

    events: list[Event]
    row: int
    ended: bool


def read(connection: Connection, project: str, response_id: str, after: int, row: int) -> Page | None:
    """What the log holds above sequence number `after`; None when there is no such log."""
    log = connection.execute(
        select(logs.c.state, logs.c.first_segment).where(logs.c.id == response_id, logs.c.project == project)
    ).one_or_none()
    if log is None:
        return None
    if log.state == "compacted":
        return Page(clip(_transcript(connection, project, response_id), after), row, True)
    query = select(segments.c.id, segments.c.data).where(
        segments.c.response_id == response_id, segments.c.project == project
    )
    newer = segments.c.id > max(row, log.first_segment)
    found = connection.execute(query.where(newer).order_by(segments.c.id)).all()
    events = [event for segment in found for event in _decoder.decode(segment.data)]
    if log.state == "ended" and not found:  # compacted between the two statements, or read to its end before
        events = _transcript(connection, project, response_id)
    return Page(clip(events, after), found[-1].id if found else row, log.state != "open")


def _transcript(connection: Connection, project: str, response_id: str) -> list[Event]:
    query = select(transcripts.c.data).where(transcripts.c.id == response_id, transcripts.c.project == project)
    data = connection.execute(query).scalar()
    return _decoder.decode(data) if data else []


def compact(connection: Connection, project: str, response_id: str) -> None:
    """Turns an ended log's segments into one row."""
    page = read(connection, project, response_id, -1, 0)
    if page is None or not page.ended or _is_compacted(connection, project, response_id):
        return
    data = _encoder.encode(merge(page.events))
    connection.execute(insert(transcripts).values(id=response_id, project=project, data=data))
    if connection.dialect.name != "sqlite":
        _drop_segments(connection, project, response_id)
    query = update(logs).where(logs.c.id == response_id, logs.c.project == project)
    connection.execute(query.values(state="compacted"))


class Transcript(msgspec.Struct, frozen=True):
    """All events of a log that has ended."""

    project: str
    response_id: str
    events: list[Event]


_INSERT_TRANSCRIPTS = insert(transcripts)
_COMPACT_LOGS = (
    update(logs)
    .where(logs.c.id == bindparam("log"), logs.c.project == bindparam("tenant"), logs.c.state == "ended")
    .values(state="compacted")
)
_DROP_SEGMENTS = delete(segments).where(
    segments.c.response_id == bindparam("log"), segments.c.project == bindparam("tenant")
)


def compact_all(connection: Connection, ended: Sequence[Transcript]) -> None:
    """As `compact`, for logs whose events are still in memory: four statements for all of them."""
    waiting = select(logs.c.project, logs.c.id).where(
        logs.c.id.in_([one.response_id for one in ended]),
        logs.c.project.in_({one.project for one in ended}),
        logs.c.state == "ended",
    )
    there = {tuple(row) for row in connection.execute(waiting.with_for_update())}
    ended = [one for one in ended if (one.project, one.response_id) in there]  # a deleted one must not come back
    if not ended:
        return
    names = [{"log": one.response_id, "tenant": one.project} for one in ended]
    data = [{"id": t.response_id, "project": t.project, "data": _encoder.encode(merge(t.events))} for t in ended]
    connection.execute(_INSERT_TRANSCRIPTS, data)
    if connection.dialect.name != "sqlite":
        connection.execute(_DROP_SEGMENTS, names)  # on SQLite they go by the `sweep`
    connection.execute(_COMPACT_LOGS, names)


def _is_compacted(connection: Connection, project: str, response_id: str) -> bool:
    query = select(logs.c.state).where(logs.c.id == response_id, logs.c.project == project).with_for_update()
    return connection.execute(query).scalar() == "compacted"


def _drop_segments(connection: Connection, project: str, response_id: str) -> None:
    query = delete(segments).where(segments.c.response_id == response_id, segments.c.project == project)
    if connection.dialect.name == "sqlite":
        first = select(logs.c.first_segment).where(logs.c.id == response_id, logs.c.project == project)
        query = query.where(segments.c.id > func.coalesce(first.scalar_subquery(), 0))
    connection.execute(query)


def forget(connection: Connection, project: str, response_id: str) -> None:
    """Removes a log, whole."""
    _drop_segments(connection, project, response_id)
    connection.execute(delete(transcripts).where(transcripts.c.id == response_id, transcripts.c.project == project))
    connection.execute(delete(logs).where(logs.c.id == response_id, logs.c.project == project))


# System statements: they serve all projects at once, and touch nothing but leases and what is no longer read.

_SWEPT_AT_ONCE = 20_000


def sweep(connection: Connection, above: int = 0) -> int:
    """On SQLite, removes the segments of compacted logs, page after page: one log's lie strewn over all the pages that
    were written while it was open. Looks at some rows above an id, returns the last one's, and 0 at the end."""
    some = select(segments.c.id).where(segments.c.id > above).order_by(segments.c.id).limit(_SWEPT_AT_ONCE).subquery()
    last = connection.execute(select(func.max(some.c.id))).scalar()
    if last is None:
        return 0
    needed = select(logs.c.id).where(logs.c.state.in_(["open", "ended"]))
    within = (segments.c.id > above) & (segments.c.id <= last)
    connection.execute(delete(segments).where(within, segments.c.response_id.not_in(needed)))
    return int(last)


def renew(connection: Connection, owner: str, ids: Sequence[str], until: float) -> set[str]:
    """Returns those of `ids` that `owner` still writes."""
    held: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        mine = logs.c.id.in_(ids[start : start + _CHUNK]) & (logs.c.owner == owner) & (logs.c.state == "open")
        connection.execute(update(logs).where(mine).values(lease_until=until))
        held.update(connection.execute(select(logs.c.id).where(mine)).scalars())
    return held


def open_logs(connection: Connection, response_id: str | None = None) -> list[Any]:
    """(id, project, owner, lease_until, attempt) of the logs that some run writes, or wrote when it died."""
    columns = (logs.c.id, logs.c.project, logs.c.owner, logs.c.lease_until, logs.c.attempt)
    query = select(*columns).where(logs.c.state == "open")
    return list(connection.execute(query if response_id is None else query.where(logs.c.id == response_id)))


def ended_logs(connection: Connection, limit: int = 1000) -> list[Any]:
    """(id, project) of logs that ended but were not compacted yet."""
    return list(connection.execute(select(logs.c.id, logs.c.project).where(logs.c.state == "ended").limit(limit)))


def take_over(connection: Connection, response_id: str, project: str, seen: tuple[int, float], lease: Lease) -> bool:
    """Makes `lease.owner` the writer; the old attempt is fenced off from then on.

    Not if the attempt has changed since it was `seen`, or if its lease was renewed beyond the time seen.
    """
    attempt, until = seen
    claim = (
        update(logs)
        .where(logs.c.id == response_id, logs.c.project == project)
        .where(logs.c.attempt == attempt, logs.c.state == "open")
        .where(logs.c.lease_until <= until)
        .values(owner=lease.owner, lease_until=lease.until, attempt=attempt + 1)
    )
    return connection.execute(claim).rowcount == 1
