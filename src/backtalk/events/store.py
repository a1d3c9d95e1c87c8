"""The log's tables and statements.

On SQLite `segments` is append-only by row id and has no other index: with one on the response every live stream would
dirty a page of its own at each commit. A log's row keeps an id below its first segment, from which any process can
scan. Elsewhere ids of *different* responses become visible out of order, so there each response has its index; within
one response ids are in order everywhere, because its writer awaits each commit before the next.
"""

from collections.abc import Callable, Sequence
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
from backtalk.storage.engine import is_passing, savepoint
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


# The one statement of the token path goes to the driver as it is, in the two styles that our drivers have.
_INSERT_SEGMENTS = {
    "qmark": "INSERT INTO segments (project, response_id, data) VALUES (?, ?, ?)",
    "pyformat": "INSERT INTO segments (project, response_id, data) VALUES (%s, %s, %s)",
    "format": "INSERT INTO segments (project, response_id, data) VALUES (%s, %s, %s)",
}
_INSERT_LOGS = insert(logs)
_LAST_SEGMENT = select(func.coalesce(func.max(segments.c.id), 0))
_END_LOGS = (
    update(logs).where(logs.c.id == bindparam("log"), logs.c.project == bindparam("tenant")).values(state="ended")
)


def commit(connection: Connection, entries: Sequence[Entry]) -> list[Any]:
    """Writes what all runs have queued. For each entry: its segment's row id (0 where unknown), or an exception."""
    attempts = _open_attempts(connection, [entry.response_id for entry in entries if not entry.opens])
    outcomes = [_admit(connection, entry, attempts) for entry in entries]
    admitted = [i for i, outcome in enumerate(outcomes) if outcome is None]
    _open_and_end(connection, [entries[i] for i in admitted])
    rows = [_segment(entries[i]) for i in admitted if entries[i].events]
    if rows:
        connection.exec_driver_sql(_INSERT_SEGMENTS[connection.dialect.paramstyle], rows)
    _number(connection, entries, outcomes, admitted)
    return outcomes


def _open_attempts(connection: Connection, ids: list[str]) -> dict[str, int]:
    """The attempts that may write, locked so that no takeover slips in before the commit."""
    found: dict[str, int] = {}
    for start in range(0, len(ids), _CHUNK):
        query = select(logs.c.id, logs.c.attempt).where(logs.c.id.in_(ids[start : start + _CHUNK]))
        rows = connection.execute(query.where(logs.c.state == "open").with_for_update(read=True))
        found.update((row.id, row.attempt) for row in rows)
    return found


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


def _segment(entry: Entry) -> tuple[str, str, bytes]:
    return entry.project, entry.response_id, _encoder.encode(entry.events)


def _number(connection: Connection, entries: Sequence[Entry], outcomes: list[Any], admitted: list[int]) -> None:
    """On SQLite the transaction has the table to itself, so the new row ids are the last ones, in order."""
    last = 0
    if connection.dialect.name == "sqlite":
        last = connection.exec_driver_sql("SELECT last_insert_rowid()").scalar_one()
    for i in reversed(admitted):
        outcomes[i] = 0
        if entries[i].events:
            outcomes[i] = last
            last -= bool(last)


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


def compact(connection: Connection, project: str, response_id: str, rows: Sequence[int] = ()) -> None:
    """Turns an ended log's segments into one row. `rows` are their ids where they are known."""
    page = read(connection, project, response_id, -1, 0)
    if page is None or not page.ended or _is_compacted(connection, project, response_id):
        return
    data = _encoder.encode(merge(page.events))
    connection.execute(insert(transcripts).values(id=response_id, project=project, data=data))
    _drop_segments(connection, project, response_id, rows)
    query = update(logs).where(logs.c.id == response_id, logs.c.project == project)
    connection.execute(query.values(state="compacted"))


class Transcript(msgspec.Struct, frozen=True):
    """All events of a log that has ended, and the ids of its segments where they are known (SQLite)."""

    project: str
    response_id: str
    events: list[Event]
    rows: list[int]


_INSERT_TRANSCRIPTS = insert(transcripts)
_COMPACT_LOGS = (
    update(logs)
    .where(logs.c.id == bindparam("log"), logs.c.project == bindparam("tenant"), logs.c.state == "ended")
    .values(state="compacted")
)
_DROP_ROW = delete(segments).where(segments.c.id == bindparam("row"), segments.c.project == bindparam("tenant"))
_DROP_ROWS = delete(segments).where(
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
    if connection.dialect.name == "sqlite":
        connection.execute(_DROP_ROW, [{"row": row, "tenant": one.project} for one in ended for row in one.rows])
    else:
        connection.execute(_DROP_ROWS, names)
    connection.execute(_COMPACT_LOGS, names)


def _is_compacted(connection: Connection, project: str, response_id: str) -> bool:
    query = select(logs.c.state).where(logs.c.id == response_id, logs.c.project == project).with_for_update()
    return connection.execute(query).scalar() == "compacted"


def _drop_segments(connection: Connection, project: str, response_id: str, rows: Sequence[int] = ()) -> None:
    query = delete(segments).where(segments.c.response_id == response_id, segments.c.project == project)
    if connection.dialect.name != "sqlite":
        connection.execute(query)
        return
    if not rows:
        first = select(logs.c.first_segment).where(logs.c.id == response_id, logs.c.project == project)
        query = query.where(segments.c.id > func.coalesce(first.scalar_subquery(), 0))
        connection.execute(query)
    for start in range(0, len(rows), _CHUNK):
        connection.execute(query.where(segments.c.id.in_(rows[start : start + _CHUNK])))


def forget(connection: Connection, project: str, response_id: str) -> None:
    """Removes a log, whole."""
    _drop_segments(connection, project, response_id)
    connection.execute(delete(transcripts).where(transcripts.c.id == response_id, transcripts.c.project == project))
    connection.execute(delete(logs).where(logs.c.id == response_id, logs.c.project == project))


# System statements: they serve all projects at once, and touch nothing but leases.


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
