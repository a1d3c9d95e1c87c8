"""OpenAI's own client breaks streams off and goes on: the events are those of the uncut run, one by one."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx2
import pytest
from resume_bodies import STORED
from resume_model import EveryKind, every_kind
from resume_wire import filled_store

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, async_client, client, serve

PACE = "[[pace:0.005]]"


class Place:
    def __init__(self, url: str, store: str) -> None:
        self.url = url
        self.body = {**every_kind(store, PACE), "stream": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = Settings(home=tmp_path_factory.mktemp("sdks"), discover=False)
    app = Backtalk(settings, models=[ScriptedModel(), EveryKind()])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        yield Place(url, filled_store(http))


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("events", [1, 2, 6, 17, 29, 38, 44])
def test_a_stream_is_closed_and_resumed(place: Place, events: int, background: bool) -> None:
    with client(place.url) as sdk:
        with sdk.responses.create(**place.body, background=background) as stream:
            seen = list(islice(stream, events))
        name = seen[0].response.id
        rest = list(sdk.responses.retrieve(name, stream=True, starting_after=seen[-1].sequence_number))
        whole = list(sdk.responses.retrieve(name, stream=True))
    assert seen + rest == whole
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert whole[-1].type in ("response.completed", "response.completed" if background else "response.incomplete")


async def test_many_streams_are_closed_and_resumed_at_once(place: Place) -> None:
    async with async_client(place.url) as sdk:

        async def leave(events: int) -> None:
            stream = await sdk.responses.create(**place.body, background=True)
            seen = [await anext(stream) for _ in range(events)]  # type: ignore[call-overload]
            await stream.close()
            name = seen[0].response.id
            after = seen[-1].sequence_number
            twice = [await sdk.responses.retrieve(name, stream=True, starting_after=after) for _ in range(2)]
            first, second = await asyncio.gather(*map(_all, twice))
            assert first == second
            assert seen + first == await _all(await sdk.responses.retrieve(name, stream=True))

        await asyncio.gather(*(leave(events) for events in range(1, 50, 6)))


@pytest.mark.parametrize("kind", [None, *STORED])
def test_a_finished_stream_is_resumed_behind_each_event(place: Place, kind: str | None) -> None:
    body = place.body if kind is None else {"model": "scripted", **STORED[kind][0], "stream": True}
    with client(place.url) as sdk:
        whole = list(sdk.responses.create(**body))
        name = whole[0].response.id
        for after in range(-1, len(whole), 1 if kind is None else 3):
            assert list(sdk.responses.retrieve(name, stream=True, starting_after=after)) == whole[after + 1 :]


async def _all(stream: Any) -> list[Any]:
    return [event async for event in stream]
