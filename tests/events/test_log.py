"""The log: durable before it is seen, gap-free, readable from any cursor, by any process, after any end."""

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from backtalk.core.errors import NotFound, Overloaded
from backtalk.core.owner import new_owner
from backtalk.domain.events import Deltas, Ended, Event, Lifecycle
from backtalk.events import Fenced, Log, Writer, store
from backtalk.events import log as events_log
from backtalk.storage import Storage

HELLO: list[Event] = [
    Lifecycle(0, "response.created", "in_progress"),
    Lifecycle(1, "response.in_progress", "in_progress"),
]


def deltas(seq: int, *texts: str) -> Deltas:
    return Deltas(seq, "output_text", 0, "msg_1", 0, list(texts))


def nothing(_: object) -> None:
    """A transaction function with nothing to do."""


async def opened(storage: Storage, response_id: str = "resp_1", project: str = "default") -> tuple[Log, Writer]:
    log = Log(storage, new_owner(), gap=0)
    return log, await log.open(project, response_id, HELLO, nothing)


async def everything(
    log: Log, response_id: str = "resp_1", after: int = -1, project: str = "default"
) -> list[tuple[int, str]]:
    """(sequence number, what) of all events above `after`, deltas one by one."""
    seen: list[tuple[int, str]] = []
    async for events in log.read(project, response_id, after):
        for event in events:
            texts = event.deltas if isinstance(event, Deltas) else [event.type] if event.span else []
            seen += [(event.seq + i, text) for i, text in enumerate(texts) if event.seq + i > after]
    return seen


async def test_a_reader_sees_everything_once_from_any_cursor(storage: Storage) -> None:
    log, writer = await opened(storage)
    live = [asyncio.create_task(everything(log, after=after)) for after in range(-1, 9)]
    for seq in range(2, 8, 2):
        await writer.append([deltas(seq, f"t{seq}", f"t{seq + 1}")])
    await writer.append([Ended(8, "response.completed")])
    whole = [(0, "response.created"), (1, "response.in_progress"), *((i, f"t{i}") for i in range(2, 8))]
    whole.append((8, "response.completed"))
    for after, task in zip(range(-1, 9), live, strict=True):
        async with asyncio.timeout(20):
            assert await task == [pair for pair in whole if pair[0] > after]
    await log.stop()
    later = Log(storage, new_owner())
    for after in range(-1, 9):
        assert await everything(later, after=after) == [pair for pair in whole if pair[0] > after]


async def test_another_process_follows_a_live_log(storage: Storage) -> None:
    log, writer = await opened(storage)
    other = Log(storage, new_owner())
    following = asyncio.create_task(everything(other))
    for seq in range(2, 30):
        await writer.append([deltas(seq, str(seq))])
    await writer.append([Ended(30, "response.completed")])
    async with asyncio.timeout(20):
        assert [seq for seq, _ in await following] == list(range(31))
    await log.stop()


async def test_many_runs_share_a_commit_and_each_reads_its_own(storage: Storage) -> None:
    log = Log(storage, new_owner(), gap=0.02)

    async def run(name: str) -> list[str]:
        writer = await log.open("default", name, HELLO, nothing)
        reading = asyncio.create_task(everything(log, name))
        for seq in range(2, 12):
            await writer.append([deltas(seq, f"{name}:{seq}")])
        await writer.append([Ended(12, "response.completed")])
        return [text for seq, text in await reading if 2 <= seq < 12]

    names = [f"resp_{i}" for i in range(20)]
    async with asyncio.timeout(30):
        for name, texts in zip(names, await asyncio.gather(*map(run, names)), strict=True):
            assert texts == [f"{name}:{seq}" for seq in range(2, 12)]
    await log.stop()
    for name in names:
        assert len(await everything(log, name)) == 13


async def test_an_ended_log_is_one_row(storage: Storage) -> None:
    log, writer = await opened(storage)
    _, other = await opened(storage, "resp_2")
    await writer.append([deltas(2, "a")])
    await writer.append([deltas(3, "b")])
    await writer.append([Ended(4, "response.completed")])
    await log.stop()
    count = lambda connection: connection.execute(select(func.count()).select_from(store.segments)).scalar_one()  # noqa: E731
    assert await storage.read(count) == 1  # the other log's first segment
    assert (await everything(log))[2:] == [(2, "a"), (3, "b"), (4, "response.completed")]
    await other.append([deltas(2, "still"), Ended(3, "response.completed")])
    assert [text for _, text in await everything(log, "resp_2")][2:] == ["still", "response.completed"]


async def test_what_an_append_does_besides_lives_and_dies_with_it(storage: Storage) -> None:
    log, writer = await opened(storage)

    def fail(_: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await writer.append([deltas(2, "never")], also=fail)
    await writer.append([deltas(2, "yes"), Ended(3, "")])
    assert [text for _, text in await everything(log)][2:] == ["yes"]
    await log.stop()


async def test_a_takeover_fences_the_old_attempt_off(storage: Storage) -> None:
    _, zombie = await opened(storage)
    await zombie.append([deltas(2, "before")])
    other = Log(storage, new_owner(), gap=0)
    running = await other.find_running("default", "resp_1")
    assert running is not None
    writer = await other.take_over(running)
    assert writer is not None
    assert await other.take_over(running) is None  # only once
    with pytest.raises(Fenced):
        await zombie.append([deltas(3, "zombie")])
    await writer.append([Ended(3, "response.failed")])
    with pytest.raises(Fenced):
        await zombie.append([Ended(3, "response.completed")])
    assert (await everything(other))[2:] == [(2, "before"), (3, "response.failed")]
    await other.stop()


async def test_a_log_of_a_dead_process_is_found_and_a_living_one_is_not(storage: Storage) -> None:
    await opened(storage)
    host, pid, _ = new_owner().split(":")
    dead = Log(storage, f"{host}:{pid}:earlier")  # this process id, in an earlier life
    await dead.open("default", "resp_dead", HELLO, nothing)
    third = Log(storage, new_owner())
    found = [entry.response_id for entry in await third.find_dead()]
    assert "resp_dead" in found


async def test_a_foreign_log_is_as_one_that_never_was(storage: Storage) -> None:
    log, writer = await opened(storage)
    for project, response_id in (("other", "resp_1"), ("default", "resp_none")):
        with pytest.raises(NotFound):
            await everything(log, response_id, project=project)
    await writer.append([Ended(2, "")])
    await log.stop()


async def test_a_reader_that_falls_off_the_ring_goes_on_in_the_database(storage: Storage) -> None:
    log, writer = await opened(storage)
    reading = log.read("default", "resp_1")
    first = await anext(reading)
    assert first[0].seq == 0
    for start in range(2, 5002, 50):
        await writer.append([deltas(seq, str(seq)) for seq in range(start, start + 50)])
    await writer.append([Ended(5002, "response.completed")])
    rest = [event.seq + i async for events in reading for event in events for i in range(event.span)]
    assert rest == list(range(2, 5003))
    await log.stop()


class Away:
    """A database that is away for its next `times` writes."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.times = 0
        self.read = storage.read

    async def write(self, function: Any, *args: Any) -> Any:
        if self.times:
            self.times -= 1
            raise Overloaded("The database is away.")
        return await self._storage.write(function, *args)


async def test_a_database_that_is_away_costs_no_event(storage: Storage) -> None:
    away = Away(storage)
    log = Log(away, new_owner(), gap=0)  # type: ignore[arg-type]
    writer = await log.open("default", "resp_1", HELLO, nothing)
    away.times = 3
    cut = asyncio.create_task(writer.append([deltas(2, "a")]))
    await asyncio.sleep(0)
    cut.cancel()  # whoever waited is gone; the events are not
    await writer.append([deltas(3, "b")])
    await writer.append([Ended(4, "response.completed")])
    assert (await everything(log))[2:] == [(2, "a"), (3, "b"), (4, "response.completed")]
    away.times = 1
    with pytest.raises(Overloaded):  # a client waits for the first events: it is told to come again
        await log.open("default", "resp_2", HELLO, nothing)
    await log.stop()


async def test_after_events_that_were_given_up_nothing_is_written(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_log, "PATIENCE_SECONDS", 0.0)
    away = Away(storage)
    log = Log(away, new_owner(), gap=0)  # type: ignore[arg-type]
    writer = await log.open("default", "resp_1", HELLO, nothing)
    away.times = 1
    with pytest.raises(Overloaded):
        await writer.append([deltas(2, "a")])
    with pytest.raises(Fenced):
        await writer.append([deltas(3, "b"), Ended(4, "response.completed")])
    assert await log.events("default", "resp_1") == HELLO
    await log.stop()


async def test_a_deadlock_is_no_failure_of_the_run_that_met_it(storage: Storage) -> None:
    log, writer = await opened(storage)
    _, other = await opened(storage, "resp_2")
    met: list[str] = []

    def deadlock_once(_: object) -> None:
        met.append("deadlock")
        if len(met) == 1:
            raise OperationalError("UPDATE", {}, Exception(1213, "Deadlock found"))

    other._log = log  # both in one commit
    await asyncio.gather(
        writer.append([deltas(2, "mine"), Ended(3, "response.completed")], also=deadlock_once),
        other.append([deltas(2, "its")]),
    )
    assert len(met) == 2
    assert (await everything(log))[2:] == [(2, "mine"), (3, "response.completed")]
    assert await log.events("default", "resp_2") == [*HELLO, deltas(2, "its")]
    await log.stop()


async def test_a_log_that_was_taken_over_leaves_no_segments_behind(storage: Storage) -> None:
    _, zombie = await opened(storage)
    await zombie.append([deltas(2, "before")])
    other = Log(storage, new_owner(), gap=0)
    running = await other.find_running("default", "resp_1")
    assert running
    writer = await other.take_over(running)
    assert writer
    await writer.append([Ended(3, "response.failed")])
    await other.stop()
    count = lambda connection: connection.execute(select(func.count()).select_from(store.segments)).scalar_one()  # noqa: E731
    assert await storage.read(count) == 0
    assert (await everything(other))[2:] == [(2, "before"), (3, "response.failed")]


async def test_a_lease_that_was_renewed_is_not_taken_from_its_owner(storage: Storage) -> None:
    log, writer = await opened(storage)
    other = Log(storage, new_owner(), gap=0)
    running = await other.find_running("default", "resp_1")
    assert running
    earlier = msgspec.structs.replace(running, lease_until=1.0)  # seen when it had run out
    assert await other.take_over(earlier) is None
    await writer.append([Ended(2, "")])
    await log.stop()


async def test_a_silent_writer_learns_that_its_lease_is_lost(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_log, "RENEW_SECONDS", 0.05)
    log = Log(storage, new_owner(), gap=0)
    await log.start()
    writer = await log.open("default", "resp_1", HELLO, nothing)
    kept = await log.open("default", "resp_2", HELLO, nothing)
    lost = asyncio.Event()
    writer.on_lost = lost.set
    reading = asyncio.create_task(everything(log))
    other = Log(storage, new_owner(), gap=0)
    running = await other.find_running("default", "resp_1")
    assert running
    thief = await other.take_over(running)
    assert thief
    await thief.append([Ended(2, "")])
    async with asyncio.timeout(20):
        await lost.wait()
        assert len(await reading) == 2
    await kept.append([Ended(2, "")])
    await other.stop()
    await log.stop()
