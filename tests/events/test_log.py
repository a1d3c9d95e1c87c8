"""The log: durable before it is seen, gap-free, readable from any cursor, by any process, after any end."""

import asyncio

import pytest
from sqlalchemy import func, select

from backtalk.core.errors import NotFound
from backtalk.core.owner import new_owner
from backtalk.domain.events import Deltas, Ended, Event, Lifecycle
from backtalk.events import Fenced, Log, Writer, store
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
