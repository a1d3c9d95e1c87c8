"""What the store promises to jobs that come late, twice, or at the same time."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, func, select

from backtalk.jobs.store import jobs
from backtalk.retrieval import store
from backtalk.retrieval.store import Batch, Chunk, StoreFile, StoreRecord
from backtalk.storage import Storage

STORE = StoreRecord("vs_1", "p", "name", {}, "embedder", 2, 100, 100)
VECTOR = b"\0\0\0\0"


def file(file_id: str = "f1", revision: str = "r1", batch_id: str | None = None) -> StoreFile:
    return StoreFile("p", "vs_1", file_id, f"{file_id}.txt", {}, 800, 400, revision, 100, batch_id)


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(n, n + len(text), text, VECTOR) for n, text in enumerate(texts)]


async def texts(storage: Storage, *file_ids: str) -> list[str]:
    return sorted(text for _, _, text in await storage.read(store.texts, "p", "vs_1", file_ids or ["f1"]))


async def version(storage: Storage) -> int:
    return (await storage.read(store.docs, "p", "vs_1"))[0]


@pytest.fixture
async def opened(storage: Storage) -> Storage:
    await storage.write(store.insert_store, STORE, [file()])
    return storage


async def test_a_file_is_there_with_its_chunks_or_not_at_all(opened: Storage) -> None:
    assert await opened.read(store.docs, "p", "vs_1") == (0, {})
    assert await opened.write(store.complete, file(), chunks("one", "two"), 10)
    assert await opened.read(store.docs, "p", "vs_1") == (1, {"f1": "r1"})
    assert await texts(opened) == ["one", "two"]


async def test_a_job_that_runs_twice_changes_nothing_the_second_time(opened: Storage) -> None:
    assert await opened.write(store.complete, file(), chunks("one"), 10)
    assert not await opened.write(store.complete, file(), chunks("other"), 10)
    await opened.write(store.fail, file(), "server_error", "late")
    assert await texts(opened) == ["one"]
    assert await version(opened) == 1


async def test_two_jobs_at_once_leave_the_chunks_of_one(opened: Storage) -> None:
    done = await asyncio.gather(*(opened.write(store.complete, file(), chunks(f"{n}"), 1) for n in range(4)))
    assert sorted(done) == [False, False, False, True]
    assert len(await texts(opened)) == 1


async def test_files_completed_at_once_all_raise_the_version(opened: Storage) -> None:
    ids = [f"f{n}" for n in range(2, 12)]
    assert await opened.write(store.attach, "p", "vs_1", [file(id_) for id_ in ids], 100)
    await asyncio.gather(*(opened.write(store.complete, file(id_), chunks(id_), 1) for id_ in ids))
    assert await version(opened) == 10
    assert await texts(opened, *ids) == sorted(ids)


async def test_old_chunks_are_found_until_the_new_ones_are_there(opened: Storage) -> None:
    await opened.write(store.complete, file(), chunks("old"), 1)
    await opened.write(store.attach, "p", "vs_1", [file(revision="r2")], 100)
    assert (await opened.read(store.docs, "p", "vs_1"))[1] == {"f1": "r1"}
    assert not await opened.write(store.complete, file(revision="r1"), chunks("zombie"), 1)
    assert await texts(opened) == ["old"]
    assert await opened.write(store.complete, file(revision="r2"), chunks("new"), 1)
    assert (await texts(opened), await opened.read(store.docs, "p", "vs_1")) == (["new"], (2, {"f1": "r2"}))


async def test_a_failed_second_reading_takes_the_old_chunks_along(opened: Storage) -> None:
    await opened.write(store.complete, file(), chunks("old"), 1)
    await opened.write(store.attach, "p", "vs_1", [file(revision="r2")], 100)
    await opened.write(store.fail, file(revision="r2"), "invalid_file", "damaged")
    found = await opened.read(store.find_file, "p", "vs_1", "f1")
    assert found is not None
    assert (found.status, found.last_error) == ("failed", {"code": "invalid_file", "message": "damaged"})
    assert (await texts(opened), await opened.read(store.docs, "p", "vs_1")) == ([], (2, {}))


def delete_store(connection: Connection) -> None:
    assert store.delete_store(connection, "p", "vs_1")


def detach(connection: Connection) -> None:
    assert store.detach(connection, "p", "vs_1", "f1")


def forget(connection: Connection) -> None:
    store.forget_file(connection, "p", "f1")


@pytest.mark.parametrize("gone", [delete_store, detach, forget])
async def test_what_is_gone_is_not_brought_back(opened: Storage, gone: Callable[[Connection], None]) -> None:
    await opened.write(gone)
    assert not await opened.write(store.complete, file(), chunks("late"), 1)
    await opened.write(store.fail, file(), "server_error", "late")
    assert await texts(opened) == []
    assert await opened.read(store.find_file, "p", "vs_1", "f1") is None


async def test_a_cancelled_file_stays_cancelled(opened: Storage) -> None:
    await opened.write(store.insert_batch, Batch("b1", "p", "vs_1", 100), [file("f2", batch_id="b1")], 100)
    await opened.write(store.cancel_batch, "p", "vs_1", "b1")
    assert not await opened.write(store.complete, file("f2", batch_id="b1"), chunks("late"), 1)
    found = await opened.read(store.find_batch, "p", "vs_1", "b1")
    assert found is not None
    assert (found[0].cancelled, found[1].cancelled) == (1, 1)


async def test_an_attached_file_always_has_its_job(storage: Storage) -> None:
    await storage.write(store.insert_store, STORE, [file("f1"), file("f2")])
    queued = await storage.read(lambda connection: connection.execute(select(jobs.c.kind, jobs.c.payload)).all())
    assert sorted(row.payload["file_id"] for row in queued) == ["f1", "f2"]
    assert not await storage.write(store.attach, "p", "vs_none", [file("f3")], 100)
    assert await storage.read(lambda connection: connection.scalar(select(func.count(jobs.c.id)))) == 2


async def test_one_file_attached_by_many_at_once_is_there_once(opened: Storage) -> None:
    await asyncio.gather(*(opened.write(store.attach, "p", "vs_1", [file("f9", f"r{n}")], 100) for n in range(6)))
    counts = await opened.read(store.counts, "p", ["vs_1"])
    assert counts["vs_1"].in_progress == 2


async def test_chunk_ids_are_never_used_again(opened: Storage) -> None:
    await opened.write(store.complete, file(), chunks("one"), 1)
    ((first, *_),) = await opened.read(store.texts, "p", "vs_1", ["f1"])
    await opened.write(store.detach, "p", "vs_1", "f1")
    await opened.write(store.attach, "p", "vs_1", [file(revision="r2")], 100)
    await opened.write(store.complete, file(revision="r2"), chunks("two"), 1)
    ((second, *_),) = await opened.read(store.texts, "p", "vs_1", ["f1"])
    assert second > first


async def test_nothing_is_found_under_another_project(opened: Storage) -> None:
    await opened.write(store.complete, file(), chunks("one"), 1)
    ((chunk_id, *_),) = await opened.read(store.texts, "p", "vs_1", ["f1"])
    assert await opened.read(store.found, "q", [chunk_id]) == {}
    assert await opened.read(store.docs, "q", "vs_1") == (0, {})
    assert await opened.read(store.content, "q", "vs_1", "f1") == []
    assert not await opened.write(store.delete_store, "q", "vs_1")
    assert list(await opened.read(store.found, "p", [chunk_id])) == [chunk_id]
