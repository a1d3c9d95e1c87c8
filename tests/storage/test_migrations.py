"""The hand-written migrations make exactly the tables that the rooms declare, however many processes start at once."""

import asyncio
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

import backtalk
from backtalk.storage import Storage, open_storage
from backtalk.storage.migrate import HERE, current, head, upgrade
from backtalk.storage.schema import metadata

SOURCE = Path(backtalk.__file__).parent
STARTERS = 8


def import_every_store() -> None:
    for path in SOURCE.rglob("store.py"):
        importlib.import_module(".".join(["backtalk", *path.relative_to(SOURCE).with_suffix("").parts]))


def differences(connection: Connection) -> list[str]:
    def belongs_here(thing: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        """Full-text tables of SQLite make shadow tables; an index may be meant for some databases only (`ddl_if`)."""
        if kind == "table":
            return "fts" not in (name or "")
        condition = getattr(thing, "_ddl_if", None)
        return condition is None or condition._should_execute(None, thing, connection)

    options = {"compare_type": True, "compare_server_default": True, "include_object": belongs_here}
    context = MigrationContext.configure(connection, opts={**options, "target_metadata": metadata})
    return [str(difference) for difference in compare_metadata(context, metadata)]


async def test_the_migrated_schema_is_what_the_rooms_declare(storage: Storage) -> None:
    import_every_store()
    assert metadata.tables, "no tables were found: this test would prove nothing"
    assert await storage.write(differences) == []


async def test_a_difference_would_be_seen(storage: Storage) -> None:
    """The test above can fail: it notices a lost index, a lost column, another type, a lost uniqueness."""
    import_every_store()

    def damage_and_compare(connection: Connection) -> list[str]:
        connection.execute(text("ALTER TABLE api_keys ADD COLUMN stray INTEGER"))
        on_table = " ON jobs" if connection.dialect.name in ("mysql", "mariadb") else ""
        connection.execute(text(f"DROP INDEX ix_jobs_status_due_at{on_table}"))
        return differences(connection)

    found = "\n".join(await storage.write(damage_and_compare))
    assert "ix_jobs_status_due_at" in found
    assert "stray" in found


async def test_every_text_is_utf8_and_compared_byte_by_byte(storage: Storage) -> None:
    if storage.dialect not in ("mysql", "mariadb"):
        assert await storage.read(lambda connection: connection.scalar(text("SELECT 'a' = 'A'"))) in (False, 0)
        return
    loose = text(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND collation_name NOT LIKE 'utf8mb4%bin' AND table_name <> 'alembic_version'"
    )
    assert await storage.read(lambda connection: connection.execute(loose).all()) == []


async def test_upgrading_again_changes_nothing(storage: Storage) -> None:
    before = await storage.read(lambda connection: sorted(inspect(connection).get_table_names()))
    await upgrade(storage)
    assert await storage.read(current) == head()
    assert await storage.read(lambda connection: sorted(inspect(connection).get_table_names())) == before


def test_migrations_are_one_line_of_numbers() -> None:
    found = sorted(path.stem for path in (HERE / "versions").glob("[0-9]*.py"))
    assert [name[:4] for name in found] == [f"{number:04}" for number in range(1, len(found) + 1)]


START = """
import asyncio, sys
from backtalk.storage import open_storage
from backtalk.storage.migrate import current, head, upgrade

async def main():
    storage = open_storage(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await upgrade(storage)
    assert await storage.read(current) == head()
    await storage.close()

asyncio.run(main())
"""


async def test_processes_that_start_at_once_all_come_up(database: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    starting = [
        subprocess.Popen([sys.executable, "-c", START, database], text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(STARTERS)
    ]
    for process in starting:
        assert process.stdout.readline() == "ready\n"
    for process in starting:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in starting))
    assert [(process.returncode, end[1]) for process, end in zip(starting, ends, strict=True)] == [(0, "")] * STARTERS


@pytest.mark.parametrize("url", ["oracle://x", "nonsense://x", "mysql://user@127.0.0.1:1/none"])
async def test_a_database_that_cannot_be_opened_says_so_in_words(url: str) -> None:
    with pytest.raises(Exception) as raised:
        storage = open_storage(url)
        try:
            await upgrade(storage)
        finally:
            await storage.close()
    assert str(raised.value)
    assert "Traceback" not in str(raised.value)
