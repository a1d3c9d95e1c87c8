"""A stream that one process drives is gone on with in another, also when the first one is killed."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from resume_model import KINDS, EveryKind, every_kind
from resume_wire import ROUNDS, Line, all_of, checked, filled_store, frames, response_id, seen

from backtalk.testing import Server

RUNS = 12 * ROUNDS


class Pair:
    """Two processes on one database, and a vector store in it."""

    def __init__(self, a: Server, b: Server) -> None:
        self.a = a
        self.line_a, self.line_b = Line(a.url), Line(b.url)
        with httpx2.Client(base_url=f"{a.url}/v1", timeout=30) as http:
            self.store = filled_store(http)


@pytest.fixture
def pair(database: str, tmp_path: Path) -> Iterator[Pair]:
    env = {
        "BACKTALK_DATABASE": database,
        "BACKTALK_MODELS": f"{EveryKind.__module__}:{EveryKind.__name__}",
        "BACKTALK_MODEL": EveryKind.id,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with Server(tmp_path / "a", env) as a, Server(tmp_path / "b", env) as b:
        yield Pair(a, b)


async def test_another_process_goes_on_with_a_stream_and_ends_it_when_its_own_is_killed(pair: Pair) -> None:
    await _goes_on(pair)
    await _is_killed(pair)


async def _goes_on(pair: Pair) -> None:
    """Clients of A leave at some bytes; they and others come to B at some events while A still writes."""
    chance = random.Random(3)

    async def leave(cut: int) -> None:
        body = every_kind(pair.store, "[[pace:0.01]]", background=True)
        before, last = seen(await pair.line_a.post(body, cut))
        name = response_id(before)
        afters = [last, -1, chance.randrange(50), chance.randrange(50)]
        rests = await asyncio.gather(*(pair.line_b.replay(name, after) for after in afters))
        whole = await pair.line_a.replay(name)
        assert [item["type"] for item in checked(whole)[-1]["response"]["output"]] == KINDS
        assert before + rests[0] == rests[1] == whole
        for after, rest in zip(afters, rests, strict=True):
            assert b"".join(frames(whole)[: after + 1]) + rest == whole

    await all_of([leave(chance.randrange(1500, 15000)) for _ in range(RUNS)])


async def _is_killed(pair: Pair) -> None:
    """A dies with runs in all their phases: the slower one is, the less of it has been said."""
    bodies = [
        every_kind(pair.store, f"[[pace:{0.02 * 1.3**i:.4f}]]", background=i % 3 > 0)
        for i in (r % 12 for r in range(RUNS))
    ]
    clients = [asyncio.create_task(pair.line_a.post(body)) for body in bodies]
    watched = response_id(await pair.line_a.post({**bodies[4], "background": True}, cut=2000))
    watching = asyncio.create_task(pair.line_b.replay(watched))
    await asyncio.sleep(0.8)
    await asyncio.to_thread(pair.a.kill)
    ends = [await _ended_by(pair.line_b, await client) for client in clients]
    assert ends.count("response.failed") > RUNS / 2
    assert set(ends) <= {"response.failed", "response.completed", ""}
    assert await watching == await pair.line_b.replay(watched)


async def _ended_by(line: Line, body: bytes) -> str:
    """How a stream ends that its client saw the beginning of, once a process that lives has ended it."""
    before, last = seen(body)
    if not before:  # it was killed so early that its client does not know what to ask for
        return ""
    name = response_id(before)
    rest, whole = await asyncio.gather(line.replay(name, last), line.replay(name))
    events = checked(whole)
    assert before + rest == whole
    for after in range(-1, len(events), 5):
        assert b"".join(frames(whole)[: after + 1]) + await line.replay(name, after) == whole
    async with httpx2.AsyncClient(base_url=f"{line.url}/v1") as http:
        assert (await http.get(f"/responses/{name}")).json()["status"] == events[-1]["response"]["status"]
    return str(events[-1]["type"])
