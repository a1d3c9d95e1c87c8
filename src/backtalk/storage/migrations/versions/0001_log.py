"""The log, its leases, responses, items and conversations."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    pass
