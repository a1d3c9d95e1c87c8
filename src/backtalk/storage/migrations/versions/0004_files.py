"""Uploaded files."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, UniqueConstraint

from backtalk.storage.schema import TABLE_OPTIONS, Id, RowId, SmallText

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "files",
        Column("seq", RowId, primary_key=True, autoincrement=True),
        Id("id", nullable=False),
        Id("project", nullable=False),
        Column("filename", SmallText, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("purpose", String(32), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        UniqueConstraint("id"),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_files_project_seq", "files", ["project", "seq"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
