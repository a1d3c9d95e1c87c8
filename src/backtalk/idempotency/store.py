"""Idempotency keys in SQL. A key is kept as its SHA-256: what clients put into one is theirs."""

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, String, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from backtalk.storage.schema import Blob, Id, Json, RowId, table

RUNNING, MADE, DONE = "running", "made", "done"

keys = table(
    "idempotency_keys",
    Column("number", RowId, primary_key=True, autoincrement=True),
    Id("project", nullable=False),
    Column("key", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Id("owner", nullable=False),
    Column("state", String(8), nullable=False),
    Id("response_id"),
    Column("status", Integer),
    Column("headers", Json),
    Column("body", Blob),
    Column("created_at", BigInteger, nullable=False),
)
Index("ix_idempotency_keys_key", keys.c.project, keys.c.key, unique=True)
Index("ix_idempotency_keys_created_at", keys.c.created_at)


def claim(connection: Connection, project: str, key: str, fingerprint: str, owner: str, at: int) -> Any | None:
    """Takes a key that nobody has; returns what is known of one that somebody has."""
    if found := _find(connection, project, key):
        return found
    row = {"project": project, "key": key, "fingerprint": fingerprint, "owner": owner, "state": RUNNING}
    try:
        with connection.begin_nested():
            connection.execute(insert(keys).values({**row, "created_at": at}))
    except IntegrityError:  # somebody was quicker
        return _find(connection, project, key)
    return None


def take_over(connection: Connection, project: str, key: str, dead: str, owner: str) -> bool:
    """Takes a key over from a dead process that had not carried its request out."""
    mine = update(keys).where(_is(project, key), keys.c.owner == dead, keys.c.state == RUNNING)
    return connection.execute(mine.values(owner=owner)).rowcount == 1


def made(connection: Connection, project: str, key: str, response_id: str | None) -> None:
    """The request was carried out, in this transaction."""
    connection.execute(update(keys).where(_is(project, key)).values(state=MADE, response_id=response_id))


def done(
    connection: Connection, project: str, key: str, status: int, headers: list[list[str]], body: bytes | None
) -> None:
    """Its answer has gone out; a stream of a stored response is not kept a second time."""
    values = {"state": DONE, "status": status, "headers": headers, "body": body}
    connection.execute(update(keys).where(_is(project, key)).values(values))


def release(connection: Connection, project: str, key: str) -> None:
    """Nothing was made: the key may be used again."""
    connection.execute(delete(keys).where(_is(project, key)))


def sweep(connection: Connection, before: int) -> int:
    """System statement: forgets the keys of all projects that are older."""
    return connection.execute(delete(keys).where(keys.c.created_at < before)).rowcount


def _find(connection: Connection, project: str, key: str) -> Any | None:
    return connection.execute(select(keys).where(_is(project, key))).one_or_none()


def _is(project: str, key: str) -> Any:
    return (keys.c.project == project) & (keys.c.key == key)
