"""The job queue."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, Integer, String

from backtalk.storage.schema import TABLE_OPTIONS, Id, Json, LongText

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
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
        **TABLE_OPTIONS,
    )
    op.create_index("ix_jobs_status_due_at", "jobs", ["status", "due_at"])
