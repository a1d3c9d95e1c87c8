"""The wire that a response came by: chat completions are listed."""

from alembic import op
from sqlalchemy import Column, String, inspect

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    known = inspect(op.get_bind())
    if "wire" not in {column["name"] for column in known.get_columns("responses")}:
        op.add_column("responses", Column("wire", String(16)))
    indexes = {index["name"] for index in known.get_indexes("responses")}
    if "ix_responses_wire" not in indexes:
        op.create_index("ix_responses_wire", "responses", ["project", "wire", "created_at", "id"])
    if "ix_responses_project" in indexes:  # the new one begins as it did
        op.drop_index("ix_responses_project", "responses")
