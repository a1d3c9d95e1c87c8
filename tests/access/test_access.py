"""Keys on real databases."""

import asyncio

import pytest
from sqlalchemy import Connection, event, text

from backtalk.access import service
from backtalk.access.service import Access, is_well_formed, new_secret
from backtalk.access.store import api_keys
from backtalk.core.errors import InvalidRequest, NotFound, Unauthorized
from backtalk.domain.caller import Caller
from backtalk.storage import Storage


async def test_a_key_opens_its_project_and_is_stored_only_as_a_hash(storage: Storage) -> None:
    access = Access(storage)
    assert await access.has_keys() is False
    record, secret = await access.create("acme", "laptop")
    assert await access.has_keys() is True
    assert await access.authenticate(secret) == Caller("acme", record.id)

    def dump(connection: Connection) -> str:
        return str(connection.execute(api_keys.select()).all())

    assert secret[11:] not in await storage.read(dump)
    assert secret.startswith(record.prefix)


async def test_other_processes_learn_of_the_first_key(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CACHE_SECONDS", 0.05)
    here, there = Access(storage), Access(storage)
    assert await here.has_keys() is False
    await there.create()
    async with asyncio.timeout(10):
        while not await here.has_keys():
            await asyncio.sleep(0.01)


async def test_revocation_works_here_at_once_and_elsewhere_soon(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CACHE_SECONDS", 0.05)
    here, there = Access(storage), Access(storage)
    record, secret = await here.create("acme")
    await there.authenticate(secret)
    await here.revoke("acme", record.id)
    with pytest.raises(Unauthorized):
        await here.authenticate(secret)
    async with asyncio.timeout(10):
        while True:
            try:
                await there.authenticate(secret)
            except Unauthorized:
                break
            await asyncio.sleep(0.01)
    assert await here.has_keys() is True, "revoking the last key must not open the server"


async def test_a_known_key_costs_no_query(storage: Storage) -> None:
    access = Access(storage)
    _, secret = await access.create()
    await access.authenticate(secret)
    statements: list[str] = []
    event.listen(storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(50):
        await access.authenticate(secret)
        await access.has_keys()
    assert statements == []


async def test_what_cannot_be_a_key_costs_no_query(storage: Storage) -> None:
    access = Access(storage)
    await access.create()
    statements: list[str] = []
    event.listen(storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for secret in ("", "sk-test", "bt_", "bt_" + "x" * 49, "bt_é", "bt_\ud800", new_secret()[:-1] + "~"):
        with pytest.raises(Unauthorized):
            await access.authenticate(secret)
    assert statements == []


async def test_a_well_formed_stranger_is_refused(storage: Storage) -> None:
    access = Access(storage)
    _, secret = await access.create()
    with pytest.raises(Unauthorized):
        await access.authenticate(new_secret())
    body = secret[3:11] + new_secret()[11:-6]
    same_prefix = f"bt_{body}{service._checksum(body)}"
    assert is_well_formed(same_prefix)
    with pytest.raises(Unauthorized):
        await access.authenticate(same_prefix)


async def test_keys_expire(storage: Storage) -> None:
    access = Access(storage)
    _, secret = await access.create(expires_in=0)
    with pytest.raises(Unauthorized):
        await access.authenticate(secret)


async def test_the_list_shows_use_and_revocation_of_one_project(storage: Storage) -> None:
    access = Access(storage)
    used, secret = await access.create("acme", "used")
    revoked, _ = await access.create("acme", "revoked")
    await access.create("other")
    await access.authenticate(secret)
    await access.revoke("acme", revoked.id)
    first_time = {key.id: key.revoked_at for key in await access.list("acme")}
    await access.revoke("acme", revoked.id)
    keys = {key.id: key for key in await access.list("acme")}
    assert {key.id: key.revoked_at for key in keys.values()} == first_time
    assert set(keys) == {used.id, revoked.id}
    assert keys[used.id].last_used_at is not None
    assert keys[used.id].revoked_at is None
    assert keys[revoked.id].revoked_at is not None


async def test_a_foreign_key_cannot_be_revoked(storage: Storage) -> None:
    access = Access(storage)
    record, secret = await access.create("acme")
    with pytest.raises(NotFound):
        await access.revoke("other", record.id)
    assert (await access.authenticate(secret)).project == "acme"


async def test_use_is_noted_but_never_in_the_way(storage: Storage) -> None:
    """The database may be read-only or full: whoever has a key still gets in."""
    access = Access(storage)
    _, secret = await access.create()
    await storage.write(_refuse_updates, storage.dialect)
    assert (await access.authenticate(secret)).project == "default"


def _refuse_updates(connection: Connection, dialect: str) -> None:
    if dialect == "sqlite":
        connection.execute(text("CREATE TRIGGER no BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'full'); END"))
    elif dialect == "postgresql":
        connection.execute(text("CREATE RULE no AS ON UPDATE TO api_keys DO INSTEAD SELECT 1/0"))
    else:
        connection.execute(text("CREATE TRIGGER no BEFORE UPDATE ON api_keys FOR EACH ROW SIGNAL SQLSTATE '45000'"))


@pytest.mark.parametrize(
    ("project", "name"), [("", "x"), ("x" * 129, "x"), ("a\nb", "x"), ("ok", "x\0"), ("ok", "x" * 201)]
)
async def test_names_are_checked(storage: Storage, project: str, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await Access(storage).create(project, name)


def test_secrets_are_long_and_checkable() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) == 52 and is_well_formed(secret) for secret in secrets)
    one = secrets.pop()
    typos = [one[:at] + ("a" if one[at] != "a" else "b") + one[at + 1 :] for at in range(len(one))]
    assert not any(is_well_formed(typo) for typo in typos)
