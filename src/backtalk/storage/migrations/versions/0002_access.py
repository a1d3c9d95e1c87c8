"""API keys."""

from alembic import op
from sqlalchemy import BigInteger, Column, String

from backtalk.storage.schema import TABLE_OPTIONS, Id, SmallText

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
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
        **TABLE_OPTIONS,
    )
    op.create_index("ix_api_keys_prefix", "api_keys", ["prefix"])
