"""The table of API keys. A key itself is never stored, only its SHA-256: 256 random bits need no slower hash.

Looking a key up is a system statement: the key is what tells the project.
"""

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, String, select, update

from backtalk.core.clock import now
from backtalk.storage.schema import Id, SmallText, table


class ApiKey(msgspec.Struct, frozen=True):
    """What is known of a key. `prefix` is its beginning, to tell it by. Times are Unix seconds."""

    id: str
    project: str
    name: str
    prefix: str
    hash: str
    created_at: int
    expires_at: int | None = None
    last_used_at: int | None = None
    revoked_at: int | None = None


api_keys = table(
    "api_keys",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Column("name", SmallText, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index(None, "prefix"),
)

_KEY = [api_keys.c[name] for name in ApiKey.__struct_fields__]


def insert(connection: Connection, key: ApiKey) -> None:
    connection.execute(api_keys.insert().values(msgspec.structs.asdict(key)))


def find_by_prefix(connection: Connection, prefix: str) -> list[ApiKey]:
    """Keys that begin so, revoked ones too: one, but for a chance of one in 2^48."""
    return [ApiKey(*row) for row in connection.execute(select(*_KEY).where(api_keys.c.prefix == prefix))]


def any_key(connection: Connection) -> bool:
    """Whether a key was ever made. Revoked ones count: revoking the last key must not open the server."""
    return connection.execute(select(api_keys.c.id).limit(1)).first() is not None


def find_all(connection: Connection, project: str) -> list[ApiKey]:
    """A project's keys, oldest first."""
    wanted = select(*_KEY).where(api_keys.c.project == project).order_by(api_keys.c.created_at, api_keys.c.id)
    return [ApiKey(*row) for row in connection.execute(wanted)]


def revoke(connection: Connection, project: str, key_id: str) -> bool:
    """Whether there was such a key. Revoking twice keeps the first time."""
    mine = (api_keys.c.project == project) & (api_keys.c.id == key_id)
    connection.execute(update(api_keys).where(mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=now()))
    return connection.execute(select(api_keys.c.id).where(mine)).first() is not None


def touch(connection: Connection, project: str, key_id: str) -> None:
    """Notes that the key was used just now."""
    mine = (api_keys.c.project == project) & (api_keys.c.id == key_id)
    connection.execute(update(api_keys).where(mine).values(last_used_at=now()))
