"""A database that is closed already, because the server stops."""

import pytest

from backtalk.core.errors import Overloaded
from backtalk.storage import Storage
from backtalk.storage.migrate import current


async def test_who_comes_too_late_is_told_to_come_again(storage: Storage) -> None:
    assert await storage.read(current)
    await storage.close()
    for transact in (storage.read, storage.write):
        with pytest.raises(Overloaded):
            await transact(current)
