"""What a connection may do before there is a request that an application could refuse."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from shape import KEYS
from websockets.asyncio.client import connect

from backtalk import Backtalk, Settings
from backtalk.http import protocol
from backtalk.testing import Server, serve

HEAD = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"
POST = b"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    return int(head.split(b" ")[1]), await reader.readexactly(int(lines[b"content-length"]))


async def flooded(url: str, start: bytes, more: bytes, most: int = 100) -> tuple[tuple[int, bytes] | None, int]:
    """Sends a start and then `more` until it is cut off: the answer, if it could still be read, and how much was sent.

    Who is in the middle of sending when the other side closes may lose what it said last; that is TCP.
    """
    async with connection(url) as (reader, writer):
        answer = asyncio.ensure_future(answer_of(reader))
        writer.write(start)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < most and not answer.done():
                writer.write(more)
                sent += 1
                await asyncio.wait_for(writer.drain(), 1)
                await asyncio.sleep(0)
        try:
            return await answer, sent
        except (ConnectionError, asyncio.IncompleteReadError):
            return None, sent


MEGABYTE = 2**20
ENDLESS = {
    "headers": (HEAD, (b"x-a: " + b"y" * 1000 + b"\r\n") * 1000),
    "one header": (HEAD + b"x-a: ", b"y" * MEGABYTE),
    "the name of a header": (HEAD, b"y" * MEGABYTE),
    "address": (b"GET /", b"y" * MEGABYTE),
    "trailers": (
        POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        (b"x-a: " + b"y" * 1000 + b"\r\n") * 1000,
    ),
    "one trailer": (POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-a: ", b"y" * MEGABYTE),
    "the extension of a chunk": (POST + b"transfer-encoding: chunked\r\n\r\n2;x=", b"y" * MEGABYTE),
    "empty lines": (b"\r\n", b"\r\n" * (MEGABYTE // 2)),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_has_no_end_is_cut_off(server: str, name: str) -> None:
    """The parser takes in what it is sent; 100 MB of it would be 100 MB of memory."""
    answer, sent = await flooded(server, *ENDLESS[name])
    assert sent < 50
    if answer:
        assert answer[0] in (400, 431)
        assert json.loads(answer[1])["error"].keys() == KEYS


@pytest.mark.parametrize("args", [[], ["--workers", "2"]])
async def test_backtalk_serve_bounds_heads_too(tmp_path: Path, args: list[str]) -> None:
    with Server(tmp_path, args=args) as started:
        await test_headers_that_come_in_pieces_add_up(started.url)


async def test_headers_that_come_in_pieces_add_up(server: str) -> None:
    line = b"x-a: " + b"y" * 500 + b"\r\n"
    data = HEAD + line * (protocol.MAX_HEAD // len(line) + 1)
    async with connection(server) as (reader, writer):
        for at in range(0, protocol.MAX_HEAD + 1, 10_000):
            writer.write(data[at : min(at + 10_000, protocol.MAX_HEAD + 1)])
            await asyncio.sleep(0.01)
        status, body = await answer_of(reader)
    assert (status, "65,536 bytes" in json.loads(body)["error"]["message"]) == (431, True)


async def test_many_requests_over_one_connection_do_not_add_up(server: str) -> None:
    async with connection(server) as (reader, writer):
        for _ in range(40):
            writer.write(HEAD + b"x-a: " + b"y" * 10_000 + b"\r\n\r\n")
            assert (await answer_of(reader))[0] == 200


async def test_a_head_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with serve(Backtalk(Settings(home=tmp_path, discover=False))) as url:
        for start in (b"G", HEAD, HEAD + b"x-a: y"):
            async with connection(url) as (reader, writer):
                writer.write(start)
                status, body = await answer_of(reader)
                assert (status, json.loads(body)["error"].keys()) == (408, KEYS)
                assert await asyncio.wait_for(reader.read(), 10) == b""
        async with connection(url) as (reader, _):  # it says nothing at all
            assert await asyncio.wait_for(reader.read(), 10) == b""
        async with connection(url) as (reader, writer):  # the second request over a connection
            writer.write(HEAD + b"\r\n")
            assert (await answer_of(reader))[0] == 200
            writer.write(HEAD)
            assert (await answer_of(reader))[0] == 408


async def test_a_slow_answer_is_not_a_slow_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with serve(Backtalk(Settings(home=tmp_path, discover=False, model="backtalk/extractive"))) as url:
        async with connection(url) as (reader, writer):
            writer.write(POST + b"content-length: 14\r\n\r\n")
            await asyncio.sleep(1)
            writer.write(b'{"input": "x"}')
            assert (await answer_of(reader))[0] == 200


async def test_a_websocket_is_no_head_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with serve(Backtalk(Settings(home=tmp_path, discover=False, model="backtalk/extractive"))) as url:
        async with connect(f"{url.replace('http', 'ws')}/v1/responses") as line:
            await asyncio.sleep(1)
            await line.send('{"type": "response.create", "input": "x"}')
            assert json.loads(await asyncio.wait_for(line.recv(), 20))["type"] == "response.created"


async def test_nonsense_behind_good_requests(server: str) -> None:
    """The parser reads ahead of the answers: whichever comes first, nothing is spliced and the connection ends."""
    async with connection(server) as (reader, writer):
        writer.write((HEAD + b"\r\n") * 3 + b"nonsense\r\n\r\n")
        status, body = await answer_of(reader)
        assert status in (200, 400) and json.loads(body)
        rest = await asyncio.wait_for(reader.read(), 10)
        assert rest == b"" or rest.startswith(b"HTTP/1.1 ")
