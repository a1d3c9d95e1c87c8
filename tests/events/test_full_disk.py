"""A disk that fills up in the middle of a group commit: what was acknowledged is there, what was not is told."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from backtalk.core.errors import Overloaded, StorageFull
from backtalk.storage import open_storage


def insert(word: str) -> Any:
    return lambda connection: connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})


def prepare(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count=200")
    connection.exec_driver_sql("PRAGMA cache_size=5")  # so that the transaction spills into the file


def too_much(connection: Connection) -> None:
    for _ in range(400):
        connection.execute(text("INSERT INTO words VALUES (zeroblob(5000))"))


async def test_one_that_fills_the_disk_takes_no_other_with_it(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'full.sqlite'}")
    await storage.write(lambda connection: connection.execute(text("CREATE TABLE words (word)")))
    await storage.write(prepare)
    busy = asyncio.create_task(storage.write(lambda _: time.sleep(0.3)))
    await asyncio.sleep(0.05)  # what follows waits for the writer, and is one group
    before, big, after = await asyncio.gather(
        storage.write(insert("before")), storage.write(too_much), storage.write(insert("after")), return_exceptions=True
    )
    await busy
    assert isinstance(big, StorageFull)
    assert not isinstance(before, Exception)
    assert not isinstance(after, Exception)
    words = lambda connection: connection.execute(text("SELECT word FROM words")).scalars().all()  # noqa: E731
    assert await storage.read(words) == ["before", "after"]
    await storage.close()
    with pytest.raises(Overloaded):
        await storage.write(insert("late"))
