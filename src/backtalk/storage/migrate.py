"""Bringing a database up to the schema that this version knows, with any number of processes starting at once."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from backtalk.storage.base import Storage

HERE = Path(__file__).parent / "migrations"
LOCK = 8_224_417_113  # any number that nobody else's advisory lock uses


def head() -> str:
    """The newest migration: files are named `0001_what.py`, and their number is the revision."""
    return max(path.name[:4] for path in (HERE / "versions").glob("[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """The revision that a database stands at, None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


async def upgrade(storage: Storage) -> None:
    """Runs the migrations that are missing. Exactly one process does; the others wait and find nothing to do."""
    if await storage.read(current) != head():
        await storage.write(_upgrade, storage.dialect)


def _upgrade(connection: Connection, dialect: str) -> None:
    _lock(connection, dialect)
    try:
        if current(connection) != head():
            _run_alembic(connection)
    finally:
        if dialect in ("mysql", "mariadb"):
            connection.execute(text("SELECT RELEASE_LOCK(CONCAT('backtalk.', DATABASE()))"))


def _lock(connection: Connection, dialect: str) -> None:
    """SQLite's writer already holds BEGIN IMMEDIATE, so there the transaction itself is the lock."""
    if dialect == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    elif dialect in ("mysql", "mariadb"):
        connection.execute(text("SELECT GET_LOCK(CONCAT('backtalk.', DATABASE()), 120)"))


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  # lazy: a database that is up to date never needs Alembic
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
