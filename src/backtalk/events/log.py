"""Appending with group commit, reading from a cursor, and taking over what a dead process left."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import NotFound, Overloaded, StorageFull
from backtalk.core.owner import is_dead
from backtalk.domain.events import Ended, Event
from backtalk.events import store
from backtalk.events.channel import Channel, Tail, join
from backtalk.storage import Storage

log = logging.getLogger("backtalk.events")

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
WATCH_SECONDS = 1.5 * RENEW_SECONDS
"""How long a lease that ran out is watched: a living writer renews it meanwhile, whatever its clock says."""
POLL_SECONDS = 0.1
RETRY_SECONDS = 0.2
COMPACT_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
"""How long a commit is tried again while the database is locked or away. A log's first events fail at once: a client
waits for them, and is told to come again."""
Fenced = store.FencedError


class Writer:
    """The one who may append to a log: it holds the lease, under an attempt number that fences off all others."""

    def __init__(self, log: "Log", project: str, response_id: str, attempt: int = 1) -> None:
        self.project = project
        self.response_id = response_id
        self.attempt = attempt
        self.channel = Channel()
        self.on_lost: Callable[[], None] | None = None
        """Called when the lease is found to be another's."""
        self.joinable: store.Entry | None = None  # queued and not yet taken into a commit: what follows can join it
        self.failure: Exception | None = None
        self._log = log

    def offer(self, events: list[Event]) -> bool:
        """Queues events for the next commit. Readers see them when they are durable. False: the log is far behind, wait
        with `settle`. Raises what an earlier commit failed with."""
        return self._log.offer(self, events)

    async def settle(self) -> None:
        """Returns when the log is not far behind."""
        if self.joinable and len(self.joinable.events) > _MOST_JOINED:
            await self._log.commit(self, [])

    async def push(self, events: list[Event]) -> None:
        """`offer` and `settle`."""
        if not self.offer(events):
            await self.settle()

    async def append(self, events: list[Event], *, also: store.Also | None = None) -> None:
        """Returns once the events, and what `also` did, are durable; readers wake then. Raises `Fenced`.

        An `Ended` event at the end closes the log.
        """
        ends = bool(events) and type(events[-1]) is Ended
        await self._log.commit(self, events, also=also, ends=ends)

    def abandon(self) -> None:
        """Gives the lease up without an end: someone recovers the run when the lease has run out."""
        self._log.release(self)


class EphemeralWriter:
    """A writer whose log lives in memory only (`store: false`): not durable, not resumable, gone at the end."""

    def __init__(self) -> None:
        self.channel = Channel(keep_all=True)

    async def append(self, events: list[Event], *, also: store.Also | None = None) -> None:
        self.channel.publish(events)

    def offer(self, events: list[Event]) -> bool:
        self.channel.publish(events)
        return True

    async def settle(self) -> None:
        pass

    async def push(self, events: list[Event]) -> None:
        self.channel.publish(events)

    def abandon(self) -> None:
        self.channel.close()

    async def follow(self) -> AsyncGenerator[list[Event] | Tail, None]:
        """As `Log.follow`."""
        position = 0
        while True:
            events = self.channel.since(position) or []
            position += len(events)
            if events:
                yield events
            elif self.channel.closed:
                return
            else:
                tail = Tail(self.channel, position)
                yield tail
                position = tail.position


def ephemeral() -> EphemeralWriter:
    """A log for a response that is not to be stored."""
    return EphemeralWriter()


class Dead(msgspec.Struct, frozen=True):
    """A log whose owner is gone."""

    project: str
    response_id: str
    attempt: int
    lease_until: float


_Queued: TypeAlias = "tuple[store.Entry, Writer, asyncio.Future[None] | None, float]"
"""What waits for a commit, who waits for it, and the (monotonic) time until which it is tried."""
_MOST_JOINED = 256
"""Events of one run that wait for a commit before the run waits too."""


class Log:
    """All logs of one database. `gap`: least seconds between the starts of two commits; an idle server commits at once.

    With `behind`, readers see pushed events before the commit.
    """

    def __init__(self, storage: Storage, owner: str, *, gap: float = 0.01, behind: bool = False) -> None:
        self.storage = storage
        self.owner = owner
        self._gap = gap
        self._behind = behind
        self._live: dict[str, Writer] = {}
        self._queue: list[_Queued] = []
        self._patience = PATIENCE_SECONDS
        self._committing: asyncio.Task[None] | None = None
        self._last_start = 0.0
        self._tending: asyncio.Task[None] | None = None
        self._unswept = True
        self._ended_writers: list[Writer] = []
        self._compacting: asyncio.Task[None] | None = None
        self._expired: dict[tuple[str, float], float] = {}
        """Leases that ran out, and since when (monotonic) they are known to."""

    # ── the life of the log ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._tending = asyncio.create_task(self._tend_for_ever())
        for row in await self.storage.read(store.ended_logs):
            await self.storage.write(store.compact, row.project, row.id)
        await self._sweep()

    async def stop(self) -> None:
        if self._tending:
            self._tending.cancel()
        self._patience = 0
        while self._committing or self._compacting:
            tasks = [task for task in (self._committing, self._compacting) if task]
            await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):  # the next start does it
            await self._sweep()
        for writer in list(self._live.values()):
            self.release(writer)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, project: str, response_id: str, events: list[Event], also: store.Also) -> Writer:
        """A new log with its first events, durable together with what `also` writes (the response's own row)."""
        writer = Writer(self, project, response_id)
        self._live[response_id] = writer
        try:
            await self.commit(writer, events, also=also, opens=True)
        except BaseException:
            self.release(writer)
            raise
        return writer

    async def commit(
        self,
        writer: Writer,
        events: list[Event],
        *,
        also: store.Also | None = None,
        opens: bool = False,
        ends: bool = False,
    ) -> None:
        """Queues events for the next group commit and awaits it. Use `Writer.append`."""
        lease = store.Lease(self.owner, time.time() + LEASE_SECONDS) if opens else None
        entry = store.Entry(writer.project, writer.response_id, writer.attempt, events, also, lease, ends)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.joinable = None  # what is pushed later must not overtake this
        self._enqueue((entry, writer, future, time.monotonic() + (0 if opens else self._patience)))
        await future

    def offer(self, writer: Writer, events: list[Event]) -> bool:
        """Use `Writer.offer`."""
        if writer.failure:
            raise writer.failure
        entry = writer.joinable
        if self._behind:
            writer.channel.publish(events)
        if entry is None:
            writer.joinable = entry = store.Entry(writer.project, writer.response_id, writer.attempt, events)
            self._enqueue((entry, writer, None, time.monotonic() + self._patience))
        elif self._behind:  # readers hold the structs
            entry.events = [*entry.events, *events]
        else:
            join(entry.events, events)
        return len(entry.events) <= _MOST_JOINED

    def _enqueue(self, queued: _Queued) -> None:
        self._queue.append(queued)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_queued())

    async def _commit_queued(self) -> None:
        try:
            while self._queue:
                wait = self._last_start + self._gap - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                self._last_start = time.monotonic()
                group, self._queue = self._queue, []
                for _, writer, _, _ in group:
                    writer.joinable = None
                await self._commit_group(self._without_lost(group))
        finally:
            self._committing = None

    def _without_lost(self, group: list[_Queued]) -> list[_Queued]:
        """The entries whose writer may still write: what follows on events that were given up would leave a gap."""
        for entry, writer, future, _ in group:
            if writer.channel.closed:
                self._settle(entry, writer, future, Fenced(entry.response_id))
        return [queued for queued in group if not queued[1].channel.closed]

    async def _commit_group(self, group: list[_Queued]) -> None:
        try:
            outcomes = await self.storage.write(store.commit, [entry for entry, *_ in group])
        except Exception as error:
            await self._put_off(group, error)
            return
        for (entry, writer, future, _), outcome in zip(group, outcomes, strict=True):
            if future or outcome or self._behind:
                self._settle(entry, writer, future, outcome)
            else:
                writer.channel.publish(entry.events)

    async def _put_off(self, group: list[_Queued], error: Exception) -> None:
        """Nothing of the group was written. What may wait is tried again in the same order; the rest is given up."""
        now = time.monotonic()
        waiting = [queued for queued in group if isinstance(error, (Overloaded, StorageFull)) and queued[3] > now]
        for queued in group:
            if queued not in waiting:
                entry, writer, future, _ = queued
                self.release(writer)
                self._settle(entry, writer, future, error)
        if waiting:
            self._queue[:0] = waiting
            await asyncio.sleep(min(RETRY_SECONDS, self._patience))

    def _settle(self, entry: store.Entry, writer: Writer, future: asyncio.Future[None] | None, outcome: Any) -> None:
        """Tells the run and the readers how the commit of one entry went."""
        if isinstance(outcome, Exception):
            if isinstance(outcome, Fenced):
                self.release(writer)
            if future is None:
                writer.failure = outcome
                if self._behind:
                    log.error("events were shown but could not be stored: %s", outcome)
            elif not future.done():
                future.set_exception(outcome)
            return
        if future or not self._behind:
            writer.channel.publish(entry.events)
        if entry.ends:
            self._ended(writer)
        if future and not future.done():
            future.set_result(None)

    def _ended(self, writer: Writer) -> None:
        self.release(writer)
        self._ended_writers.append(writer)
        if self._compacting is None:
            self._compacting = asyncio.create_task(self._compact())

    async def _compact(self) -> None:
        """Tidies up after the ends of a moment. What fails here is tried again at the next start."""
        try:
            while self._ended_writers:
                await asyncio.sleep(COMPACT_SECONDS if self._patience else 0)
                writers, self._ended_writers = self._ended_writers, []
                whole = [t for writer in writers if (t := _transcript(writer))]
                with contextlib.suppress(Exception):
                    if whole:
                        await self.storage.write(store.compact_all, whole)
                for writer in writers:
                    if _transcript(writer) is None:
                        await self._compact_from_rows(writer)
        finally:
            self._compacting = None
            self._unswept = True

    async def _compact_from_rows(self, writer: Writer) -> None:
        with contextlib.suppress(Exception):
            await self.storage.write(store.compact, writer.project, writer.response_id)

    def release(self, writer: Writer) -> None:
        """This process writes the log no more: the lease is not renewed, readers go on in the database."""
        if self._live.get(writer.response_id) is writer:
            del self._live[writer.response_id]
        writer.channel.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self, project: str, response_id: str, after: int = -1) -> AsyncGenerator[list[Event] | Tail, None]:
        """Events above sequence number `after`, as they become durable, until the end. Raises NotFound.

        The first struct may begin at or below `after` where it stands for several events (`Event.span`). When there is
        nothing more to read yet, a `Tail` comes: wait with it, or be fed by it, and go on.
        """
        row = 0
        while True:
            writer = self._live.get(response_id)
            if writer and writer.project == project and (position := writer.channel.position(after)) is not None:
                channel = writer.channel
                while (events := channel.since(position)) is not None:
                    if events:
                        position += len(events)
                        after = _last(events, after)
                        yield events
                        if type(events[-1]) is Ended:
                            return
                    elif channel.closed:
                        break
                    else:
                        tail = Tail(channel, position)
                        yield tail
                        position = tail.position
                        after = _last([tail.last], after) if tail.last else after
                if response_id in self._live and self._live[response_id] is writer:
                    continue  # it fell off the ring
            found = await self.storage.read(store.read, project, response_id, after, row)
            if found is None:
                raise NotFound(f"Response with id '{response_id}' not found.")
            row = found.row
            if found.events:
                after = _last(found.events, after)
                yield found.events
                if type(found.events[-1]) is Ended:
                    return
            elif found.ended:
                return
            elif response_id not in self._live:
                await asyncio.sleep(POLL_SECONDS)  # another process writes it

    async def read(self, project: str, response_id: str, after: int = -1) -> AsyncGenerator[list[Event], None]:
        """As `follow`, waiting for more by itself."""
        async for events in batches(self.follow(project, response_id, after)):
            yield events

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _tend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(Exception):  # a database that is away: tried again in a moment
                await self._renew()
                await self._sweep()

    async def _sweep(self) -> None:
        """Removes what logs have left behind that are compacted by now."""
        if not self._unswept or self.storage.dialect != "sqlite":
            return
        self._unswept = False
        row = 0
        while row := await self.storage.write(store.sweep, row):
            pass

    async def _renew(self) -> None:
        """Renews all leases, and lets go of logs that another process has taken over meanwhile."""
        mine = {name: writer for name, writer in self._live.items() if writer.channel.begun}
        if not mine:
            return
        held = await self.storage.write(store.renew, self.owner, list(mine), time.time() + LEASE_SECONDS)
        for name, writer in mine.items():
            if name not in held and not writer.channel.closed:
                self.release(writer)
                if writer.on_lost:
                    writer.on_lost()

    async def find_dead(self) -> list[Dead]:
        """Logs whose writer is gone: it ran on this machine and its process is no more, or its lease ran out and was
        not renewed while we watched, which no jump of a clock can feign."""
        now, watch = time.time(), time.monotonic()
        rows = await self.storage.read(store.open_logs)
        known, self._expired = self._expired, {}
        dead = []
        for row in rows:
            if row.id in self._live:
                continue
            gone = is_dead(row.owner, self.owner)
            if not gone and row.lease_until < now:
                since = known.get((row.id, row.lease_until), watch)
                self._expired[row.id, row.lease_until] = since
                gone = watch - since >= WATCH_SECONDS
            if gone:
                dead.append(Dead(row.project, row.id, row.attempt, row.lease_until))
        return dead

    async def find_running(self, project: str, response_id: str) -> Dead | None:
        """An open log, whoever writes it: what `take_over` needs to cancel it."""
        rows = await self.storage.read(store.open_logs, response_id)
        return next((Dead(project, row.id, row.attempt, store.NEVER) for row in rows if row.project == project), None)

    async def take_over(self, dead: Dead) -> Writer | None:
        """The right to write on where a dead process stopped; None when another was quicker, or it is not dead."""
        lease = store.Lease(self.owner, time.time() + LEASE_SECONDS)
        seen = (dead.attempt, dead.lease_until)
        if not await self.storage.write(store.take_over, dead.response_id, dead.project, seen, lease):
            return None
        return Writer(self, dead.project, dead.response_id, dead.attempt + 1)

    async def events(self, project: str, response_id: str) -> list[Event]:
        """All that is in a log now."""
        found = await self.storage.read(store.read, project, response_id, -1, 0)
        return found.events if found else []


def _transcript(writer: Writer) -> store.Transcript | None:
    """All of a writer's log, if it is still in memory."""
    events = writer.channel.whole()
    if events is None or writer.attempt > 1:
        return None
    return store.Transcript(writer.project, writer.response_id, events)


async def batches(following: AsyncGenerator[list[Event] | Tail, None]) -> AsyncGenerator[list[Event], None]:
    """Only the events of who follows a log."""
    async with contextlib.aclosing(following):
        async for events in following:
            if isinstance(events, Tail):
                await events.wait()
            else:
                yield events


def _last(events: Sequence[Event], after: int) -> int:
    return max(after, events[-1].seq + events[-1].span - 1)
