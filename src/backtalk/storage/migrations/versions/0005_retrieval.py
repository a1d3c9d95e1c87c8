"""Vector stores, their files, batches and chunks."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    pass
