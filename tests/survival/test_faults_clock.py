"""Row 22: the wall clock jumps. Streams go on, leases hold, what was said stays in order, work is done."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.events import log as events_log
from backtalk.testing import ScriptedModel, check_transcript, read_transcript
from backtalk.turn import runner
from running import served

HOUR = 3600.0


class Clock:
    """The wall clock of this process, to be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.shift)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(events_log, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(runner, "RECOVER_SECONDS", 0.05)
    return Clock(monkeypatch)


@pytest.mark.parametrize("jump", [HOUR, -HOUR, -1.0])
async def test_row_22_a_clock_that_jumps_disturbs_no_stream_and_no_order(
    jump: float, clock: Clock, tmp_path: Path
) -> None:
    app = Backtalk(Settings(home=tmp_path, model=["scripted"], discover=False), models=[ScriptedModel()])
    async with served(app, lifespan="on") as url, httpx2.AsyncClient(base_url=f"{url}/v1", timeout=60) as http:
        talk = (await http.post("/conversations", json={})).json()["id"]
        for number in range(3):
            clock.shift = jump if number % 2 else 0.0
            body: Any = {"input": f"[[pace:0.01]] [[tokens:25]] {number}", "conversation": talk, "stream": True}
            events = await jumping(http, body, clock, jump)
            check_transcript(events)
            assert events[-1]["type"] == "response.completed"
            replay = await http.get(f"/responses/{events[0]['response']['id']}", params={"stream": True})
            assert read_transcript(replay.content) == events
        items = (await http.get(f"/conversations/{talk}/items", params={"order": "asc"})).json()["data"]
        assert [item["role"] for item in items] == ["user", "assistant"] * 3
        assert [item["content"][0]["text"][-1] for item in items[::2]] == list("012")


async def jumping(http: httpx2.AsyncClient, body: Any, clock: Clock, jump: float) -> list[dict[str, Any]]:
    """The events of a stream in the middle of which the clock jumps."""
    seen = b""
    async with http.stream("POST", "/responses", json=body) as reply:
        async for piece in reply.aiter_bytes():
            if not seen:
                clock.shift = jump - clock.shift
            seen += piece
    return read_transcript(seen)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_row_22_work_that_comes_after_a_jump_is_done(jump: float, clock: Clock, tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, model=["scripted"], discover=False), models=[ScriptedModel()])
    async with served(app, lifespan="on") as url, httpx2.AsyncClient(base_url=f"{url}/v1", timeout=60) as http:
        clock.shift = jump
        files = {"file": ("a.txt", b"The gate opens with 4711.")}
        file = (await http.post("/files", data={"purpose": "assistants"}, files=files)).json()
        made = (await http.post("/vector_stores", json={"file_ids": [file["id"]]})).json()
        async with asyncio.timeout(30):
            while made["status"] == "in_progress":
                await asyncio.sleep(0.05)
                made = (await http.get(f"/vector_stores/{made['id']}")).json()
        assert made["file_counts"]["completed"] == 1
