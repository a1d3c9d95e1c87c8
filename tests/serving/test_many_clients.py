"""Embeddings of many clients at once, through the front door of the whole application."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
import pytest
from held import Counted, Held
from serving_parts import EMBEDDER, NAME

from backtalk import Backtalk, Settings
from backtalk.serving import batches
from backtalk.testing import async_client, client, serve
from support import until


class House(NamedTuple):
    url: str
    held: Held
    counted: Counted


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    held = Held()
    counted = Counted(Backtalk(Settings(home=tmp_path, discover=False), embedder=held))
    with serve(counted) as url:
        yield House(url, held, counted)
        held.go.set()


async def ask(sdk: openai.AsyncOpenAI, texts: list[str], model: str = NAME, **options: Any) -> Any:
    return await sdk.embeddings.create(model=model, input=texts, **options)


async def test_each_of_many_clients_gets_its_own_vectors(tmp_path: Path) -> None:
    requests = [[f"client {number}, text {place}" for place in range(number % 4 + 1)] for number in range(64)]
    with serve(Backtalk(Settings(home=tmp_path, discover=False))) as url:
        async with async_client(url) as sdk:
            floats = [ask(sdk, texts, encoding_format="float") for texts in requests]
            answers = await asyncio.gather(*floats, *(ask(sdk, texts) for texts in requests))
    for texts, answer in zip(requests * 2, answers, strict=True):
        assert np.allclose([one.embedding for one in answer.data], EMBEDDER.embed(texts), atol=1e-6)
        assert [one.index for one in answer.data] == [*range(len(texts))]
        assert answer.usage.prompt_tokens == sum(EMBEDDER.count_tokens(texts))


async def test_one_bad_input_among_good_ones(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "backtalk")
    requests = [["held"], ["good"], ["fine", "poison"], ["better"]]
    async with async_client(house.url) as sdk:
        tasks = [asyncio.create_task(ask(sdk, texts)) for texts in requests]
        await asyncio.to_thread(until, lambda: house.counted.begun == len(requests))
        house.held.go.set()
        first, second, bad, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(bad, openai.InternalServerError)
    assert bad.code == "server_error"
    for answer, text in ((first, "held"), (second, "good"), (third, "better")):
        assert np.allclose(answer.data[0].embedding, Held.vector(text))


def test_a_client_that_leaves_is_not_worked_for(house: House) -> None:
    with contextlib.closing(left(house.url, "held")):
        until(lambda: house.held.calls)
        left(house.url, "unwanted").close()
        until(lambda: house.counted.over == 1)
        house.held.go.set()
        assert client(house.url).embeddings.create(model=NAME, input="wanted").data
    assert house.held.seen == {"held", "wanted"}


def left(url: str, text: str) -> socket.socket:
    """A connection on which a request was sent, and nobody reads."""
    body = json.dumps({"model": NAME, "input": text}).encode()
    host, port = url.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)))
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    line.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return line


async def test_small_requests_get_through_while_a_large_one_is_worked_at(house: House) -> None:
    large = [f"held {number} " + "x" * 3000 for number in range(2048)]
    async with async_client(house.url) as sdk:
        task = asyncio.create_task(ask(sdk, large, dimensions=2))
        await asyncio.to_thread(until, lambda: house.held.calls)
        small = await asyncio.gather(*(ask(sdk, [f"small {number}"]) for number in range(30)))
        assert not task.done()
        house.held.go.set()
        answer = await task
    assert [len(one.data) for one in small] == [1] * 30
    assert len(answer.data) == 2048
    assert len(house.held.calls) > 10, "it was cut into batches"
    wanted = np.array(Held.vector(large[-1])[:2])
    assert np.allclose(answer.data[-1].embedding, wanted / np.linalg.norm(wanted))


async def test_too_much_is_a_503_that_says_when_to_come_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_WAITING", 10_000)
    async with async_client(house.url) as sdk:
        tasks = [asyncio.create_task(ask(sdk, ["held"]))]
        await asyncio.to_thread(until, lambda: house.held.calls)
        tasks += [asyncio.create_task(ask(sdk, ["x" * 3000])) for _ in range(8)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        error = done.pop().exception()
        house.held.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code) == (503, "service_unavailable")
    assert int(error.response.headers["retry-after"]) >= 1
