"""Runs the jobs of the queue: claims them under a lease, keeps the lease alive, retries, and gives up in the end.

A job runs at least once. Its handler may be cut off anywhere and be run again, here or in another process, so it must
be able to start over.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from backtalk.core.owner import is_dead
from backtalk.jobs import store
from backtalk.storage import Storage

log = logging.getLogger("backtalk.jobs")

MAX_ATTEMPTS = 5


class Job(msgspec.Struct, frozen=True):
    """One run of a job. `attempt` counts from 1; a run that a crash cut off has counted too."""

    id: str
    project: str
    kind: str
    payload: dict[str, Any]
    attempt: int


Handler: TypeAlias = Callable[[Job], Awaitable[None]]
OnDead: TypeAlias = Callable[[Job, str], Awaitable[None]]


class _Kind(msgspec.Struct):
    handler: Handler
    on_dead: OnDead | None
    concurrency: int


class Jobs:
    """This process's share of the queue. `lease`, `poll` and `backoff` are seconds."""

    def __init__(
        self, storage: Storage, owner: str, *, lease: float = 10.0, poll: float = 1.0, backoff: float = 1.0
    ) -> None:
        self._storage = storage
        self._owner = owner
        self._lease = lease
        self._poll = poll
        self._backoff = backoff
        self._kinds: dict[str, _Kind] = {}
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def register(self, kind: str, handler: Handler, *, on_dead: OnDead | None = None, concurrency: int = 2) -> None:
        """`handler(job)` runs jobs of `kind`, `concurrency` at once in this process.

        `on_dead(job, error)` is told, at least once, of a job that failed for good; `error` is a line of text.
        """
        self._kinds[kind] = _Kind(handler, on_dead, concurrency)

    def wake(self) -> None:
        """Says that a job was just enqueued, so that it need not wait for the next poll."""
        self._wake.set()

    async def start(self) -> None:
        """Begins to claim jobs, those of dead processes on this machine first."""
        await self._bury_the_dead()
        self._loops = [asyncio.create_task(self._work()), asyncio.create_task(self._keep())]

    async def stop(self, grace: float = 5.0) -> None:
        """Claims no more, waits `grace` seconds for what runs, and puts the rest back into the queue."""
        await _cancel(self._loops)
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        await _cancel(tasks)

    async def _work(self) -> None:
        """Claims whenever something may be due: at a wake-up, when a job ends, and at every poll."""
        while True:
            self._wake.clear()
            try:
                await self._claim()
            except Exception as error:
                log.warning("cannot claim jobs: %s", error)
            # not wait_for: in Python 3.11 it may swallow a cancellation that comes together with the wake-up
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()

    async def _keep(self) -> None:
        """Renews the leases of what runs here and ends those of dead neighbours."""
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self._renew()
                await self._bury_the_dead()
            except Exception as error:
                log.warning("cannot renew leases: %s", error)

    async def _claim(self) -> None:
        for name in await self._storage.read(store.due_kinds, time.time()) & self._kinds.keys():
            free = self._kinds[name].concurrency - sum(job.kind == name for job, _ in self._running.values())
            if free <= 0:
                continue
            at = time.time()
            rows = await self._storage.write(
                store.claim,
                self._owner,
                name,
                most=free,
                at=at,
                until=at + self._lease,
                busy=list(self._running),
            )
            for row in rows:
                job = Job(row.id, row.project, row.kind, row.payload, row.attempt)
                self._running[job.id] = (job, asyncio.create_task(self._run(job)))

    async def _run(self, job: Job) -> None:
        try:
            await self._attempt(job)
        except asyncio.CancelledError:
            await self._put_back(job, due_at=time.time(), error=None, counts=False)
            raise
        except Exception as error:
            log.warning("job %s (%s): its outcome was not recorded: %s", job.id, job.kind, error)
        finally:
            self._running.pop(job.id, None)
            self.wake()

    async def _attempt(self, job: Job) -> None:
        if job.attempt > MAX_ATTEMPTS:
            await self._give_up(job, f"The server died {MAX_ATTEMPTS} times while it worked on this.")
            return
        try:
            await self._kinds[job.kind].handler(job)
        except Exception as error:
            log.info("job %s (%s) failed, attempt %d", job.id, job.kind, job.attempt, exc_info=error)
            await self._retry(job, _line(error))
        else:
            await self._storage.write(store.finish, job.project, job.id, self._owner, job.attempt)

    async def _retry(self, job: Job, error: str) -> None:
        if job.attempt >= MAX_ATTEMPTS:
            await self._give_up(job, error)
            return
        wait = self._backoff * 2 ** (job.attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # jitter, not a secret
        await self._put_back(job, due_at=time.time() + wait, error=error, counts=True)

    async def _give_up(self, job: Job, error: str) -> None:
        """Tells `on_dead` before the row says so: a crash between the two tells it again instead of never."""
        on_dead = self._kinds[job.kind].on_dead
        if on_dead is not None:
            try:
                await on_dead(job, error)
            except Exception:
                log.exception("job %s (%s): on_dead failed", job.id, job.kind)
        await self._storage.write(store.fail, job.project, job.id, self._owner, job.attempt, error)

    async def _put_back(self, job: Job, *, due_at: float, error: str | None, counts: bool) -> None:
        await self._storage.write(
            store.put_back,
            job.project,
            job.id,
            self._owner,
            job.attempt,
            due_at=due_at,
            error=error,
            counts=counts,
        )

    async def _renew(self) -> None:
        """Renews; a job whose lease another process has taken over is stopped here."""
        running = dict(self._running)
        if not running:
            return
        held = await self._storage.write(store.renew, self._owner, list(running), time.time() + self._lease)
        for job, task in running.values():
            if held.get(job.id) != job.attempt:
                task.cancel()

    async def _bury_the_dead(self) -> None:
        for owner in await self._storage.read(store.owners):
            if is_dead(owner, self._owner):
                await self._storage.write(store.release, owner, time.time())
                self.wake()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _line(error: Exception) -> str:
    """An error in one line that every database can store."""
    words = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode().replace("\0", "")
    return " ".join(words.split())[:2000]
