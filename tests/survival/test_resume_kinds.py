"""Streams of every kind, finished and live: readers that come back at any event, several at once, read the same bytes."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from resume_bodies import STORED
from resume_wire import DONE, ROUNDS, Line, all_of, checked, frames, response_id, seen

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

READERS = 6 * ROUNDS
LONG = {"input": "[[think]] [[pace:0.01]] [[tokens:5000]]", "background": True}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = Backtalk(Settings(home=tmp_path_factory.mktemp("kinds"), discover=False), models=[ScriptedModel()])
    with serve(app) as served:
        yield served


@pytest.mark.parametrize(("body", "status"), STORED.values(), ids=STORED)
async def test_a_finished_stream_resumes_behind_each_event(url: str, body: dict[str, Any], status: str) -> None:
    line = Line(url)
    whole = await line.post(body)
    assert checked(whole)[-1]["type"] == f"response.{status}"
    assert await line.replay(response_id(whole)) == whole
    parts = frames(whole)
    rests = await all_of([line.replay(response_id(whole), after) for after in range(-1, len(parts) + 2)])
    for after, rest in enumerate(rests, -1):
        assert b"".join(parts[: after + 1]) + rest == whole


@pytest.mark.parametrize(("body", "status"), STORED.values(), ids=STORED)
async def test_a_live_stream_is_read_by_many_from_where_they_left(url: str, body: dict[str, Any], status: str) -> None:
    """All leave and come back while it runs, one of them at once behind the last event that it saw."""
    line, chance = Line(url), random.Random(7)
    slow = {**body, "input": f"[[pace:0.01]] {body['input']}", "background": True}
    begun = await line.post(slow, cut=1600 + chance.randrange(600))
    before, last = seen(begun)
    name = response_id(before)
    afters = [last, -1, *(chance.randrange(-1, 30) for _ in range(READERS))]
    rests = await asyncio.gather(*(line.replay(name, after) for after in afters))
    whole = await line.replay(name)
    parts = frames(whole)
    assert checked(whole)[-1]["type"] == f"response.{status}"
    assert before + rests[0] == rests[1] == whole
    for after, rest in zip(afters, rests, strict=True):
        assert b"".join(parts[: after + 1]) + rest == whole


async def test_a_stream_that_is_cancelled_keeps_what_was_seen(url: str) -> None:
    line = Line(url)
    before, last = seen(await line.post(LONG, cut=9001))
    name = response_id(before)
    readers = [asyncio.create_task(line.replay(name, after)) for after in (last, -1, last + 5, 10**6)]
    await asyncio.sleep(0.1)
    async with httpx2.AsyncClient(base_url=f"{url}/v1") as http:
        cancelled = await http.post(f"/responses/{name}/cancel")
    whole = await line.replay(name)
    parts = frames(whole)
    rests = [await reader for reader in readers]
    assert cancelled.json()["status"] == "cancelled"
    assert before + rests[0] == rests[1] == whole
    assert b"".join(parts[: last + 6]) + rests[2] == whole
    assert rests[3] == DONE
    for after in range(-1, len(parts), 7):
        assert b"".join(parts[: after + 1]) + await line.replay(name, after) == whole
