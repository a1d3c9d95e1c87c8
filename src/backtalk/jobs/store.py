"""The queue's table.

A room enqueues inside the transaction that writes its own rows, so neither is ever there without the other.
`due_at` says when a row may be claimed next: a queued job's start, or the end of a running job's lease.

Claiming, renewing and looking for dead owners work across projects: they are system statements.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    Row,
    String,
    select,
    update,
)

from backtalk.core.clock import now
from backtalk.core.ids import new_id
from backtalk.storage.schema import Id, Json, LongText, table

jobs = table(
    "jobs",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Id("kind", nullable=False),
    Column("payload", Json, nullable=False),
    Column("status", String(16), nullable=False),
    Column("due_at", Double, nullable=False),
    Id("owner"),
    Column("attempt", Integer, nullable=False),
    Column("error", LongText),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "status", "due_at"),
)

_OPEN = ("queued", "running")
BACK_SECONDS = 60.0
"""A queued job that was made so much later than now was made before the clock went back: it is due."""


def enqueue(connection: Connection, project: str, kind: str, payload: Mapping[str, Any], *, delay: float = 0.0) -> str:
    """Adds a job, to be started in `delay` seconds or later. Returns its id."""
    job_id = new_id("job")
    connection.execute(
        jobs.insert().values(
            id=job_id,
            project=project,
            kind=kind,
            payload=dict(payload),
            status="queued",
            due_at=now() + delay,
            attempt=0,
            created_at=now(),
        )
    )
    return job_id


def _is_due(at: float) -> ColumnElement[bool]:
    stranded = (jobs.c.status == "queued") & (jobs.c.created_at > at + BACK_SECONDS)
    return jobs.c.status.in_(_OPEN) & ((jobs.c.due_at <= at) | stranded)


def due_kinds(connection: Connection, at: float) -> set[str]:
    """Kinds that have a job to claim."""
    due = select(jobs.c.kind).where(_is_due(at)).distinct()
    return set(connection.scalars(due))


def claim(
    connection: Connection,
    owner: str,
    kind: str,
    *,
    most: int,
    at: float,
    until: float,
    busy: Collection[str] = (),
) -> Sequence[Row[str, str, str, Any, int]]:
    """Takes up to `most` due jobs of a kind, oldest first, and returns them with their new attempt number.

    A job whose lease has run out counts as due. `busy` are jobs that the claimer still works on.
    """
    due = (
        select(jobs.c.id, jobs.c.project, jobs.c.kind, jobs.c.payload, (jobs.c.attempt + 1).label("attempt"))
        .where(_is_due(at), jobs.c.kind == kind, jobs.c.id.not_in(busy))
        .order_by(jobs.c.due_at, jobs.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(due).all()
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_([row.id for row in rows]))
        .values(status="running", owner=owner, due_at=until, attempt=jobs.c.attempt + 1)
    )
    return rows


def renew(connection: Connection, owner: str, ids: Collection[str], until: float) -> dict[str, int]:
    """Prolongs the leases that `owner` still holds; returns their attempts by job id."""
    held = jobs.c.id.in_(ids) & (jobs.c.owner == owner) & (jobs.c.status == "running")
    connection.execute(update(jobs).where(held).values(due_at=until))
    return {row.id: row.attempt for row in connection.execute(select(jobs.c.id, jobs.c.attempt).where(held))}


def owners(connection: Connection) -> set[str]:
    """Everyone who holds a lease."""
    return set(connection.scalars(select(jobs.c.owner).where(jobs.c.status == "running").distinct()))


def release(connection: Connection, owner: str, at: float) -> None:
    """Ends all leases of an owner that died: its jobs are due now."""
    connection.execute(update(jobs).where(jobs.c.owner == owner, jobs.c.status == "running").values(due_at=at))


def finish(connection: Connection, project: str, job_id: str, owner: str, attempt: int) -> bool:
    """Deletes a job that is done. False when the lease was lost meanwhile."""
    done = jobs.delete().where(*_held(project, job_id, owner, attempt))
    return connection.execute(done).rowcount == 1


def put_back(
    connection: Connection,
    project: str,
    job_id: str,
    owner: str,
    attempt: int,
    *,
    due_at: float,
    error: str | None,
    counts: bool,
) -> bool:
    """Queues a running job again. `counts` says whether the attempt is used up."""
    values = {
        "status": "queued",
        "due_at": due_at,
        "owner": None,
        "attempt": attempt if counts else attempt - 1,
        "error": error,
    }
    again = update(jobs).where(*_held(project, job_id, owner, attempt)).values(values)
    return connection.execute(again).rowcount == 1


def fail(connection: Connection, project: str, job_id: str, owner: str, attempt: int, error: str) -> bool:
    """Marks a job as failed for good; the row stays, to be seen."""
    dead = update(jobs).where(*_held(project, job_id, owner, attempt)).values(status="failed", error=error)
    return connection.execute(dead).rowcount == 1


def _held(project: str, job_id: str, owner: str, attempt: int) -> tuple[Any, ...]:
    return (
        jobs.c.project == project,
        jobs.c.id == job_id,
        jobs.c.owner == owner,
        jobs.c.attempt == attempt,
        jobs.c.status == "running",
    )
