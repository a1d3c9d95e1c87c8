"""How a failing or busy model server is spared, through the front door."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_upstream import Behaviour, Line, delta, events, finish, status, tokens
from test_chain import House, house, mute

from backtalk.core.errors import InvalidRequest, RateLimited, UpstreamError
from backtalk.models import health
from backtalk.models.health import FAILURES, Health
from backtalk.models.retry import Tries

GOOD = tokens("fine")
SOON = {"retry_after_ms": "1"}
BROKEN = status(500, {"error": {"message": "kaputt"}}, **SOON)
LIMITED = status(429, **SOON)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Tries.wait
    monkeypatch.setattr(Tries, "wait", lambda self, after=None: wait(self, 0.001 if after is None else after))
    monkeypatch.setattr(health, "COOLING", 0.4)


async def fails(h: House, times: int = 1) -> Any:
    """The last of some calls that fail."""
    for _ in range(times):
        with pytest.raises(openai.APIStatusError) as caught:
            await h.ask("a/m")
    return caught.value


async def comes(h: House, number: int) -> None:
    """Returns when so many requests have reached `a`."""
    async with asyncio.timeout(10):
        while h.asked()["a"] < number:
            await asyncio.sleep(0.01)


async def state(h: House, name: str = "a/m") -> Any:
    cards = {card.id: card for card in (await h.sdk.models.list()).data}
    return cards[name].backtalk  # type: ignore[attr-defined]  # a field of ours


def slow(seconds: float, text: str = "fine") -> Behaviour:
    async def behave(line: Line) -> None:
        await line.head()
        await asyncio.sleep(seconds)
        for payload in (delta(content=text), finish(), b"[DONE]"):
            await line.event(payload)
        await line.end()

    return behave


# ── the circuit ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_fails_and_fails_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "COOLING", 60.0)
    async with house(tmp_path, BROKEN) as h:
        assert await state(h) == {"state": "unknown"}
        await fails(h)
        assert await state(h) == {"state": "failing"}
        assert (await fails(h, FAILURES - 1)).status_code == 502
        assert await state(h) == {"state": "down"}
        reached = h.asked()["a"]
        refused = await fails(h)
        assert refused.status_code == 503 and "kaputt" in refused.message
        assert 1 <= int(refused.response.headers["retry-after"]) <= 60
        assert 0 < int(refused.response.headers["retry-after-ms"]) <= 60_000
        assert h.asked()["a"] == reached
        assert (await h.ask("b/m")).status == "completed"
        assert await state(h, "b/m") == {"state": "up"}
        assert (await h.ask("fast")).backtalk["model"] == "b/m", "a chain goes on at once"
        assert h.asked()["a"] == reached


async def test_after_a_rest_one_call_tries_and_its_success_is_everybodys(tmp_path: Path) -> None:
    async with house(tmp_path, BROKEN) as h:
        await fails(h, FAILURES)
        reached = h.asked()["a"]
        h.fakes["a"].behaviours[:] = [slow(0.3)]
        await asyncio.sleep(0.5)
        five = await asyncio.gather(*(h.ask("a/m") for _ in range(5)), return_exceptions=True)
        assert sum(not isinstance(one, Exception) for one in five) == 1
        assert h.asked()["a"] == reached + 1
        assert await state(h) == {"state": "up"}
        h.fakes["a"].behaviours[:] = [GOOD]
        five = await asyncio.gather(*(h.ask("a/m") for _ in range(5)))
        assert {one.output_text for one in five} == {"fine"}


async def test_a_try_that_fails_is_not_repeated_until_the_next_rest_is_over(tmp_path: Path) -> None:
    async with house(tmp_path, BROKEN) as h:
        await fails(h, FAILURES)
        reached = h.asked()["a"]
        await asyncio.sleep(0.5)
        assert (await fails(h)).status_code == 502
        assert (await fails(h)).status_code == 503
        assert h.asked()["a"] == reached + 1


async def test_a_try_that_says_nothing_of_the_server_leaves_it_to_the_next(tmp_path: Path) -> None:
    """One whose client was wrong, or has left, must not cost everybody another rest."""
    async with house(tmp_path, BROKEN) as h:
        await fails(h, FAILURES)
        h.fakes["a"].behaviours[:] = [status(400), mute, GOOD]
        await asyncio.sleep(0.5)
        assert (await fails(h)).status_code == 400
        leaver = asyncio.create_task(h.ask("a/m"))
        reached = h.asked()["a"]
        await comes(h, reached + 1)
        leaver.cancel()
        await asyncio.wait_for(h.fakes["a"].left.wait(), 10)
        await asyncio.sleep(0.05)
        assert (await h.ask("a/m")).output_text == "fine"


async def test_what_a_client_did_wrong_is_no_failure(tmp_path: Path) -> None:
    async with house(tmp_path, status(400)) as h:
        await fails(h, 2 * FAILURES)
        assert h.asked()["a"] == 2 * FAILURES
        h.fakes["a"].behaviours[:] = [LIMITED]
        assert (await fails(h, 2 * FAILURES)).status_code == 429


async def test_a_success_between_failures_keeps_it_going(tmp_path: Path) -> None:
    async with house(tmp_path, status(501)) as h:
        for _ in range(3):
            h.fakes["a"].behaviours[:] = [status(501)]
            await fails(h, FAILURES - 1)
            h.fakes["a"].behaviours[:] = [GOOD]
            assert (await h.ask("a/m")).output_text == "fine"


async def test_a_server_that_breaks_off_midway_has_failed(tmp_path: Path) -> None:
    async with house(tmp_path, events(delta(content="a"), done=False)) as h:
        await fails(h)
        assert await state(h) == {"state": "failing"}


def test_a_failure_of_a_server_that_never_answered_is_reported() -> None:
    one = Health("far")
    one.failed(InvalidRequest("no"))
    one.failed(RateLimited("slow"))
    assert (one.report().state, one.report().last_error) == ("unknown", None)
    one.failed(UpstreamError("x" * 1000))
    report = one.report()
    assert (report.state, report.failures, report.last_error) == ("failing", 1, "x" * 300)
    one.succeeded()
    assert (one.report().state, one.report().failures, one.report().last_error) == ("up", 0, "x" * 300)


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_retries_have_a_budget(tmp_path: Path) -> None:
    """Where everything fails, tries again must not be a storm of their own."""
    async with house(tmp_path, LIMITED) as h:
        for _ in range(10):
            ten = await asyncio.gather(*(h.ask("a/m") for _ in range(10)), return_exceptions=True)
            assert all(isinstance(one, openai.RateLimitError) for one in ten)
        assert 100 < h.asked()["a"] <= 100 * 1.1 + 10


async def test_a_circuit_that_opens_ends_the_tries_of_the_others(tmp_path: Path) -> None:
    async with house(tmp_path, BROKEN) as h:
        await asyncio.gather(*(h.ask("a/m") for _ in range(50)), return_exceptions=True)
        assert h.asked()["a"] <= 50 * 1.1 + 10


# ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Busy:
    """Answers slowly, and counts how many it answers at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = self.most = 0

    async def __call__(self, line: Line) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await slow(self.seconds)(line)
        finally:
            self.now -= 1


async def test_a_server_has_no_more_calls_than_it_takes(tmp_path: Path) -> None:
    busy = Busy(0.1)
    async with house(tmp_path, busy, given={"a": {"concurrency": 2}}) as h:
        answers = await asyncio.gather(*(h.ask("a/m") for _ in range(8)))
        assert {answer.output_text for answer in answers} == {"fine"}
        assert busy.most == 2
    freely = Busy(0.3)
    async with house(tmp_path / "two", freely) as h:
        await asyncio.gather(*(h.ask("a/m") for _ in range(8)))
        assert freely.most > 2


async def test_who_waits_too_long_for_a_place_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WAIT_SECONDS", 0.2)
    async with house(tmp_path, slow(2.0), given={"a": {"concurrency": 1}}) as h:
        first = asyncio.create_task(h.ask("a/m"))
        await comes(h, 1)
        refused = await fails(h)
        assert (refused.status_code, refused.response.headers["retry-after"]) == (503, "2")
        assert (await h.ask("fast")).backtalk["model"] == "b/m", "a chain asks somebody who has time"
        assert (await first).output_text == "fine"
        assert h.asked()["a"] == 1
        assert await state(h) == {"state": "up"}, "to be busy is no failure"


async def test_a_place_is_free_again_whatever_became_of_its_call(tmp_path: Path) -> None:
    async with house(tmp_path, mute, given={"a": {"concurrency": 1}}) as h:
        leaver = asyncio.create_task(h.ask("a/m"))
        await comes(h, 1)
        leaver.cancel()
        await asyncio.wait_for(h.fakes["a"].left.wait(), 10)
        h.fakes["a"].behaviours[:] = [status(400), events(delta(content="a"), done=False), GOOD]
        await fails(h, 2)
        started = time.monotonic()
        assert (await h.ask("a/m")).output_text == "fine"
        assert time.monotonic() - started < health.WAIT_SECONDS / 2


async def test_who_waited_while_the_server_went_down_is_not_sent_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "COOLING", 60.0)

    async def breaks(line: Line) -> None:
        await asyncio.sleep(0.1)
        await status(501)(line)

    async with house(tmp_path, breaks, given={"a": {"concurrency": 1}}) as h:
        results: list[Any] = await asyncio.gather(*(h.ask("a/m") for _ in range(10)), return_exceptions=True)
        assert h.asked()["a"] == FAILURES
        assert sorted(one.status_code for one in results) == [502] * FAILURES + [503] * (10 - FAILURES)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_list_tells_what_a_name_stands_for(tmp_path: Path) -> None:
    async with house(tmp_path, aliases={"fast": ["a/m", "b/m"], "best": "b/m"}) as h:
        assert (await state(h, "fast")) == {"stands_for": ["a/m", "b/m"]}
        assert (await state(h, "best")) == {"stands_for": ["b/m"]}
        assert (await state(h, "b/m")) == {"state": "unknown"}
