"""Objects of typed resources, and the vector stores of the searchable ones."""

from alembic import op
from sqlalchemy import BigInteger, Column, UniqueConstraint

from backtalk.storage.schema import TABLE_OPTIONS, Id, Json, RowId

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "resources",
        Column("number", RowId, primary_key=True, autoincrement=True),
        Id("id", nullable=False),
        Id("project", nullable=False),
        Id("kind", nullable=False),
        Column("data", Json, nullable=False),
        Id("document"),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        UniqueConstraint("id"),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_resources_project_kind_number", "resources", ["project", "kind", "number"])
    op.create_index("ix_resources_document", "resources", ["document"])
    op.create_table(
        "resource_stores",
        Id("project", primary_key=True),
        Id("kind", primary_key=True),
        Id("store_id", nullable=False),
        **TABLE_OPTIONS,
    )
