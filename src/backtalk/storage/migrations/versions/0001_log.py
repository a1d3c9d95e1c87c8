"""The log, its leases, responses, items and conversations."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, String

from backtalk.storage.schema import TABLE_OPTIONS, Blob, Id, Json, RowId

revision = "0001"
down_revision = None


def upgrade() -> None:
    _log()
    _responses()
    _conversations()


def _log() -> None:
    op.create_table(
        "logs",
        Id("id", primary_key=True),
        Id("project", nullable=False),
        Column("owner", String(255), nullable=False),
        Column("lease_until", Double, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("first_segment", BigInteger, nullable=False),
        Column("state", String(16), nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_logs_state", "logs", ["state"])
    op.create_table(
        "segments",
        Column("id", RowId, primary_key=True, autoincrement=True),
        Id("project", nullable=False),
        Id("response_id", nullable=False),
        Column("data", Blob, nullable=False),
        sqlite_autoincrement=True,
        **TABLE_OPTIONS,
    )
    if op.get_context().dialect.name != "sqlite":
        op.create_index("ix_segments_response_id", "segments", ["response_id", "id"])
    op.create_table(
        "transcripts",
        Id("id", primary_key=True),
        Id("project", nullable=False),
        Column("data", Blob, nullable=False),
        **TABLE_OPTIONS,
    )


def _responses() -> None:
    op.create_table(
        "responses",
        Id("id", primary_key=True),
        Id("project", nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("status", String(16), nullable=False),
        Column("background", Boolean(create_constraint=False), nullable=False),
        Id("conversation_id"),
        Id("previous_response_id"),
        Id("leaf_id"),
        Column("head", Json, nullable=False),
        Column("state", Json),
        Column("receipt", Json),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_responses_project", "responses", ["project", "created_at"])


def _conversations() -> None:
    op.create_table(
        "conversations",
        Column("number", RowId, primary_key=True, autoincrement=True),
        Id("id", nullable=False, unique=True),
        Id("project", nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("metadata", Json, nullable=False),
        Column("title", String(512)),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "items",
        Column("number", RowId, primary_key=True, autoincrement=True),
        Id("id", nullable=False, unique=True),
        Id("project", nullable=False),
        Id("parent_id"),
        Id("response_id"),
        Column("kind", String(8), nullable=False),
        Id("conversation_id"),
        Column("position", BigInteger),
        Column("created_at", Integer, nullable=False),
        Column("data", Json, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_items_response_id", "items", ["response_id", "number"])
    op.create_index("ix_items_conversation_id", "items", ["conversation_id", "position"])
    op.create_index("ix_items_parent_id", "items", ["parent_id"])
