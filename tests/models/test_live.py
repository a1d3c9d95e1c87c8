"""What a model server sends, handed on in the moment in which it comes: the same as when it is read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from fake_upstream import USAGE, Behaviour, FakeUpstream, Line, delta, fake_upstream, finish

from backtalk.core.errors import UpstreamError
from backtalk.domain.model import Delta, Finish, Live, Prompt, TextDelta
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.openai_chat import OpenAIChat

WORDS = [f"word{number} " for number in range(20)]
PROMPT = Prompt(model="m", items=[{"type": "message", "role": "user", "content": "hi"}])


def speaking(*, breaks: bool = False, waits: bool = False) -> Behaviour:
    """Each word in a packet of its own."""

    async def speak(line: Line) -> None:
        await line.head()
        for word in WORDS:
            await line.event(delta(content=word))
            await asyncio.sleep(0.002)
        if waits:
            await asyncio.sleep(30)
        if breaks:
            line.cut()
            return
        for payload in (finish(), USAGE, b"[DONE]"):
            await line.event(payload)
        await line.end()

    return speak


@contextlib.asynccontextmanager
async def model(behaviour: Behaviour) -> AsyncIterator[tuple[OpenAIChat, FakeUpstream]]:
    egress = Egress(connect_timeout=2.0, idle_timeout=5.0)
    async with fake_upstream(behaviour) as upstream:
        try:
            yield OpenAIChat(Upstream("fake", upstream.url), egress), upstream
        finally:
            await egress.close()


async def listen(model: OpenAIChat, take: Callable[[Sequence[Delta]], bool], read: list[Delta]) -> int:
    """Collects what was not handed to `take`; returns how often there was something to feed from."""
    fed = 0
    async with contextlib.aclosing(model.stream(PROMPT)) as stream:
        async for deltas in stream:
            if isinstance(deltas, Live):
                fed += 1
                await deltas.feed(take)
            else:
                read.extend(deltas)
    return fed


def texts(deltas: Sequence[Delta]) -> list[str]:
    return [one.text for one in deltas if isinstance(one, TextDelta)]


async def test_nearly_all_of_it_comes_live() -> None:
    live: list[Delta] = []
    read: list[Delta] = []

    def take(deltas: Sequence[Delta]) -> bool:
        live.extend(deltas)
        return True

    async with model(speaking()) as (speaker, upstream):
        await listen(speaker, take, read)
        assert len(live) > len(WORDS) / 2
        assert [type(one) for one in read if not isinstance(one, TextDelta)] == [Finish]
        assert sorted(texts(live + read)) == sorted(WORDS)
        assert texts(live) == [word for word in WORDS if word in texts(live)], "in order"
        again = [one async for deltas in speaker.stream(PROMPT) for one in deltas]
        assert texts(again) == WORDS, "who does not take it live reads all of it"
        assert upstream.connections == 1, "the connection was used again"


async def test_who_wants_no_more_reads_on() -> None:
    heard: list[Delta] = []

    def take(deltas: Sequence[Delta]) -> bool:
        heard.extend(deltas)
        return False

    class Both(list[Delta]):
        """Reads go into the same list, in order."""

        def extend(self, deltas: object) -> None:
            heard.extend(deltas)  # type: ignore[arg-type]

    async with model(speaking()) as (speaker, _):
        assert await listen(speaker, take, Both()) > 1
        assert texts(heard) == WORDS


async def test_a_server_that_breaks_off_is_told_behind_what_came() -> None:
    heard: list[Delta] = []

    def take(deltas: Sequence[Delta]) -> bool:
        heard.extend(deltas)
        return True

    async with model(speaking(breaks=True)) as (speaker, _):
        with pytest.raises(UpstreamError) as failure:
            await listen(speaker, take, first := [])
        assert failure.value.reason == "upstream_error"
        assert texts([*first, *heard]) == WORDS


async def test_what_the_taker_raises_is_the_takers() -> None:
    def take(deltas: Sequence[Delta]) -> bool:
        raise KeyError("mine")

    async with model(speaking()) as (speaker, upstream):
        with pytest.raises(KeyError, match="mine"):
            await listen(speaker, take, [])
        await asyncio.wait_for(upstream.left.wait(), 20)
        assert speaker.server.health.report().state in ("up", "unknown"), "the server did nothing wrong"


async def test_who_is_cancelled_meanwhile_leaves_the_server() -> None:
    async with model(speaking(waits=True)) as (speaker, upstream):
        came = asyncio.Event()

        def take(deltas: Sequence[Delta]) -> bool:
            came.set()
            return True

        listening = asyncio.create_task(listen(speaker, take, []))
        await asyncio.wait_for(came.wait(), 20)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert listening.cancelled()
        await asyncio.wait_for(upstream.left.wait(), 20)
