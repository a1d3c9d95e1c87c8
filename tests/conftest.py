"""What all tests share: real databases under names of their own, made for a test and dropped after it."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import create_engine, make_url, text

from backtalk.storage import Storage, open_storage
from backtalk.storage.migrate import upgrade
from support import lacking

SERVERS = {
    "postgresql": os.environ.get("BACKTALK_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": os.environ.get("BACKTALK_TEST_MARIADB", "mariadb+pymysql://root@127.0.0.1:3306/"),
}
HOW = {
    "postgresql": "no PostgreSQL at 127.0.0.1:5432: start one, or name one in BACKTALK_TEST_POSTGRES",
    "mariadb": "no MariaDB at 127.0.0.1:3306: start one, or name one in BACKTALK_TEST_MARIADB",
}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each of the three kinds in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.sqlite'}"
        return
    server = SERVERS[request.param]
    name = f"backtalk_test_{secrets.token_hex(6)}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except Exception:
        admin.dispose()
        lacking(HOW[request.param])
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        force = " WITH (FORCE)" if request.param == "postgresql" else ""
        connection.execute(text(f"DROP DATABASE {name}{force}"))
    admin.dispose()


@pytest_asyncio.fixture
async def storage(database: str) -> AsyncIterator[Storage]:
    """A migrated database of each kind."""
    opened = await asyncio.to_thread(open_storage, database)
    await upgrade(opened)
    yield opened
    await opened.close()
