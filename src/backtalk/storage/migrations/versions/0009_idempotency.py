"""Idempotency keys, and what became of their requests."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String

from backtalk.storage.schema import TABLE_OPTIONS, Blob, Id, Json, RowId

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
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
        **TABLE_OPTIONS,
    )
    op.create_index("ix_idempotency_keys_key", "idempotency_keys", ["project", "key"], unique=True)
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
