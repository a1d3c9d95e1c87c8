"""The queue on real databases: nothing is lost, nothing is run by two at once, and giving up is visible."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Connection, select

from backtalk.core.owner import new_owner
from backtalk.jobs import store
from backtalk.jobs.service import MAX_ATTEMPTS, Job, Jobs
from backtalk.storage import Storage

Handler = Callable[[Job], Awaitable[None]]


def rows(connection: Connection) -> list[tuple[str, str, int, str | None]]:
    table = store.jobs.c
    found = connection.execute(select(table.id, table.status, table.attempt, table.error).order_by(table.id))
    return [tuple(row) for row in found]


def worker(storage: Storage, owner: str | None = None, **options: float) -> Jobs:
    return Jobs(storage, owner or new_owner(), **{"lease": 1.0, "poll": 0.02, "backoff": 0.01, **options})


@asynccontextmanager
async def started(jobs: Jobs) -> AsyncIterator[Jobs]:
    await jobs.start()
    try:
        yield jobs
    finally:
        await jobs.stop(grace=0)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def is_empty(storage: Storage) -> bool:
    return not await storage.read(rows)


async def test_a_job_runs_with_its_payload_and_leaves_nothing_behind(storage: Storage) -> None:
    seen: list[Job] = []

    async def handler(job: Job) -> None:
        seen.append(job)

    jobs = worker(storage, poll=60)
    jobs.register("work", handler)
    async with started(jobs):
        job_id = await storage.write(store.enqueue, "p", "work", {"text": "häh \0 ✓"})
        jobs.wake()
        await until(lambda: is_empty(storage))
    assert seen == [Job(job_id, "p", "work", {"text": "häh \0 ✓"}, 1)]


async def test_a_job_that_was_rolled_back_never_runs(storage: Storage) -> None:
    def enqueue_and_fail(connection: Connection) -> None:
        store.enqueue(connection, "p", "work", {})
        raise ValueError("the room's own rows failed")

    with pytest.raises(ValueError, match="own rows"):
        await storage.write(enqueue_and_fail)
    assert await is_empty(storage)


async def test_failures_are_retried_and_then_stay_visible(storage: Storage) -> None:
    attempts: list[int] = []
    dead: list[tuple[str, str]] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)
        raise RuntimeError("broken\0 \ud800 thing\nsecond line")

    async def on_dead(job: Job, error: str) -> None:
        dead.append((job.id, error))

    jobs = worker(storage)
    jobs.register("work", handler, on_dead=on_dead)
    async with started(jobs):
        job_id = await storage.write(store.enqueue, "p", "work", {})

        async def failed() -> bool:
            return [row[1] for row in await storage.read(rows)] == ["failed"]

        await until(failed)
    assert attempts == [1, 2, 3, 4, 5]
    error = "RuntimeError: broken ? thing second line"
    assert dead == [(job_id, error)]
    assert await storage.read(rows) == [(job_id, "failed", MAX_ATTEMPTS, error)]


async def test_it_succeeds_when_a_later_attempt_does(storage: Storage) -> None:
    async def handler(job: Job) -> None:
        if job.attempt < 3:
            raise RuntimeError("not yet")

    jobs = worker(storage)
    jobs.register("work", handler)
    async with started(jobs):
        await storage.write(store.enqueue, "p", "work", {})
        await until(lambda: is_empty(storage))


async def test_workers_share_the_queue_and_never_a_job(storage: Storage) -> None:
    ran: list[str] = []
    most = 0
    now = 0

    async def handler(job: Job) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        ran.append(job.id)
        await asyncio.sleep(0.005)
        now -= 1

    workers = [worker(storage, lease=30) for _ in range(3)]
    ids = [await storage.write(store.enqueue, "p", "work", {"n": n}) for n in range(40)]
    for jobs in workers:
        jobs.register("work", handler, concurrency=2)
    async with started(workers[0]), started(workers[1]), started(workers[2]):
        await until(lambda: is_empty(storage))
    assert sorted(ran) == sorted(ids)
    assert most <= 6


async def test_a_delayed_job_waits(storage: Storage) -> None:
    ran: list[str] = []

    async def handler(job: Job) -> None:
        ran.append(job.payload["name"])

    jobs = worker(storage)
    jobs.register("work", handler)
    async with started(jobs):
        await storage.write(store.enqueue, "p", "work", {"name": "later"}, delay=3600)
        await storage.write(store.enqueue, "p", "work", {"name": "now"})

        async def one_left() -> bool:
            return len(await storage.read(rows)) == 1

        await until(one_left)
    assert ran == ["now"]


async def test_an_expired_lease_is_taken_over_and_the_loser_stopped(storage: Storage) -> None:
    stopped = asyncio.Event()
    took_over = asyncio.Event()

    async def sleeps(job: Job) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async def finishes(job: Job) -> None:
        assert job.attempt == 2
        took_over.set()

    job_id = await storage.write(store.enqueue, "p", "work", {})
    first, second = worker(storage, lease=0.6), worker(storage)
    first.register("work", sleeps)
    second.register("work", finishes)
    async with started(first):

        async def taken() -> bool:
            return (await storage.read(rows))[0][1] == "running"

        await until(taken)
        await storage.write(_expire, job_id)
        async with started(second):
            await asyncio.wait_for(took_over.wait(), 10)
            await asyncio.wait_for(stopped.wait(), 10)
            await until(lambda: is_empty(storage))


def _expire(connection: Connection, job_id: str) -> None:
    """As if the owner had been frozen for longer than its lease."""
    connection.execute(store.jobs.update().where(store.jobs.c.id == job_id).values(due_at=0, owner="elsewhere:1:x"))


async def test_a_dead_owner_on_this_machine_is_noticed_at_once(storage: Storage) -> None:
    mine = new_owner()
    pid = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True).stdout
    dead = f"{mine.rsplit(':', 2)[0]}:{pid.strip()}:gone"
    await storage.write(store.enqueue, "p", "work", {})
    await storage.write(store.claim, dead, "work", most=1, at=1e12, until=1e12)
    jobs = worker(storage, mine)
    attempts: list[int] = []

    async def handler(job: Job) -> None:
        attempts.append(job.attempt)

    jobs.register("work", handler)
    async with started(jobs):
        await until(lambda: is_empty(storage))
    assert attempts == [2]


async def test_a_job_that_kills_its_server_is_given_up(storage: Storage) -> None:
    dead: list[str] = []

    async def handler(job: Job) -> None:
        raise AssertionError("must not run again")

    async def on_dead(job: Job, error: str) -> None:
        dead.append(error)

    await storage.write(store.enqueue, "p", "work", {})
    for _ in range(MAX_ATTEMPTS):
        assert len(await storage.write(store.claim, "gone:1:a", "work", most=1, at=1e12, until=0)) == 1
    jobs = worker(storage)
    jobs.register("work", handler, on_dead=on_dead)
    async with started(jobs):

        async def failed() -> bool:
            return (await storage.read(rows))[0][1] == "failed"

        await until(failed)
    assert dead == ["The server died 5 times while it worked on this."]


async def test_stopping_puts_unfinished_work_back_uncounted(storage: Storage) -> None:
    begun = asyncio.Event()

    async def handler(job: Job) -> None:
        begun.set()
        await asyncio.sleep(60)

    jobs = worker(storage)
    jobs.register("work", handler)
    job_id = await storage.write(store.enqueue, "p", "work", {})
    await jobs.start()
    await asyncio.wait_for(begun.wait(), 10)
    await jobs.stop(grace=0)
    assert await storage.read(rows) == [(job_id, "queued", 0, None)]


async def test_stopping_waits_for_what_is_nearly_done(storage: Storage) -> None:
    begun = asyncio.Event()

    async def handler(job: Job) -> None:
        begun.set()
        await asyncio.sleep(0.1)

    jobs = worker(storage)
    jobs.register("work", handler)
    await storage.write(store.enqueue, "p", "work", {})
    await jobs.start()
    await asyncio.wait_for(begun.wait(), 10)
    await jobs.stop(grace=20)
    assert await is_empty(storage)


async def test_jobs_of_an_unknown_kind_wait_for_someone_who_knows_it(storage: Storage) -> None:
    done = asyncio.Event()

    async def handler(job: Job) -> None:
        done.set()

    jobs = worker(storage)
    jobs.register("known", handler)
    async with started(jobs):
        await storage.write(store.enqueue, "p", "unknown", {})
        await storage.write(store.enqueue, "p", "known", {})
        await asyncio.wait_for(done.wait(), 10)
        assert [row[1:3] for row in await storage.read(rows) if row[1] == "queued"] == [("queued", 0)]
