"""Row 18: a SQLite file that is damaged. It is refused, with the file and what to do, and it is not touched."""

import random
from pathlib import Path

import pytest

from backtalk import Backtalk, Settings
from backtalk.core.errors import StorageDamaged
from backtalk.storage import Connection, Storage, open_storage
from backtalk.storage.migrate import upgrade
from backtalk.testing import ScriptedModel, client, serve
from support import until

FLIPS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a few responses in it, closed."""
    with serve(Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()])) as url:
        for number in range(8):
            client(url).responses.create(model="scripted", input=f"Hello {number}")
    path = tmp_path / "backtalk.sqlite"
    until(lambda: (tmp_path / "backtalk.sqlite.seal").exists())
    return path


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM responses").scalar_one())


async def opened(path: Path) -> int:
    """The number of responses in it."""
    storage: Storage = open_storage(f"sqlite:///{path}")
    try:
        return await storage.read(count)
    finally:
        await storage.close()


async def test_row_18_a_flipped_bit_anywhere_is_refused(path: Path) -> None:
    whole, chance = path.read_bytes(), random.Random(18)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(StorageDamaged, match=r"backtalk\.sqlite is damaged.*backtalk restore"):
            await opened(path)
        assert path.read_bytes() == damaged, "it was touched"
    path.write_bytes(whole)
    for _ in range(2):  # closed again, it is sealed again
        assert await opened(path) == 8


async def test_row_18_a_file_that_a_crash_left_open_is_looked_at(path: Path) -> None:
    """Without a seal it is SQLite that looks: it sees what does not fit together."""
    whole, seal = path.read_bytes(), path.with_name("backtalk.sqlite.seal")
    page = 4096
    for damaged in (
        b"nonsense" + whole[8:],
        whole[: len(whole) // 2],
        whole[: 5 * page] + bytes(20 * page) + whole[25 * page :],
        whole[: 3 * page] + whole[page : 2 * page] + whole[4 * page :],
    ):
        path.write_bytes(damaged)
        seal.unlink(missing_ok=True)
        with pytest.raises(StorageDamaged, match=r"backtalk\.sqlite is damaged"):
            await opened(path)


async def test_row_18_two_that_have_it_open_seal_it_once_both_are_done(path: Path) -> None:
    seal = path.with_name("backtalk.sqlite.seal")
    first, second = open_storage(f"sqlite:///{path}"), open_storage(f"sqlite:///{path}")
    await upgrade(first)
    assert await second.read(count) == 8
    assert not seal.exists()
    await first.close()
    assert not seal.exists()
    assert await second.read(count) == 8
    await second.close()
    assert seal.exists()
    assert await opened(path) == 8
