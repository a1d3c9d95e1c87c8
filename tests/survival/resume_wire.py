"""Clients whose connection breaks: what they had seen until then, and what they read when they come back."""

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import struct
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from backtalk.testing import check_transcript, read_transcript
from support import until

T = TypeVar("T")

ROUNDS = int(os.environ.get("ROUNDS", "1"))
DONE = b"data: [DONE]\n\n"
_AT_ONCE = 16
_RESET = struct.pack("ii", 1, 0)


class Line:
    """Raw connections to one server; each call is one of its own, and what is broken off is never tidied up."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)

    async def post(self, body: dict[str, Any], cut: int | None = None, path: str = "/v1/responses") -> bytes:
        """The body of a streamed answer, as far as it came before the cut behind so many bytes."""
        data = json.dumps({**body, "stream": True}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        return unchunked(await self._read(head.encode() + data, cut))

    async def replay(self, response_id: str, after: int | None = None) -> bytes:
        """A stored stream, whole or behind an event."""
        return unchunked(await self.raw(response_id, after))

    async def raw(self, response_id: str, after: int | None = None, cut: int | None = None) -> bytes:
        """The same with what HTTP puts around each chunk, up to the cut."""
        query = "" if after is None else f"&starting_after={after}"
        head = f"GET /v1/responses/{response_id}?stream=true{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        return await self._read(head.encode(), cut)

    async def _read(self, request: bytes, cut: int | None) -> bytes:
        """What follows the head of the answer. A cut is a reset behind an odd number of bytes, else a close."""
        async with self._opened(reset=bool(cut and cut % 2)) as line:
            await asyncio.get_running_loop().sock_sendall(line, request)
            data = await _head(line)
            with contextlib.suppress(ConnectionError):  # the server was killed
                while not data.endswith(b"\r\n0\r\n\r\n") and (cut is None or len(data) < cut):
                    most = 65536 if cut is None else cut - len(data)
                    more = await asyncio.get_running_loop().sock_recv(line, most)
                    if not more:
                        break
                    data += more
        return data[:cut]

    @asynccontextmanager
    async def _opened(self, *, reset: bool) -> AsyncIterator[socket.socket]:
        with socket.socket() as line:
            line.setblocking(False)
            if reset:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await asyncio.get_running_loop().sock_connect(line, self._address)
            yield line


async def _head(line: socket.socket) -> bytes:
    """Reads the head of a 200; returns what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await asyncio.get_running_loop().sock_recv(line, 65536)
        assert more, data
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data
    return rest


def unchunked(data: bytes) -> bytes:
    """The body in some bytes of a chunked answer, which may end anywhere."""
    body = b""
    while data:
        size, ended, data = data.partition(b"\r\n")
        if not ended:
            break
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return body


def seen(body: bytes) -> tuple[bytes, int]:
    """(the whole events in some bytes of a stream, the number of the last one)."""
    frames = [frame + b"\n\n" for frame in body.split(b"\n\n")[:-1] if not frame.startswith((b":", b"data: [DONE]"))]
    last = int(json.loads(frames[-1].split(b"data: ", 1)[1])["sequence_number"]) if frames else -1
    return b"".join(frames), last


def frames(whole: bytes) -> list[bytes]:
    """The events of a whole stream."""
    return [frame + b"\n\n" for frame in whole.removesuffix(DONE).split(b"\n\n")[:-1]]


def response_id(body: bytes) -> str:
    """The id that a stream names in its first event."""
    return str(read_transcript(body.partition(b"\n\n")[0])[0]["response"]["id"])


def checked(body: bytes) -> list[dict[str, Any]]:
    """The events of a whole stream, which keep to the grammar."""
    assert body.endswith(DONE)
    events = read_transcript(body)
    check_transcript(events)
    return events


async def all_of(work: Sequence[Awaitable[T]]) -> list[T]:
    """Some at a time, results in order."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(task: Awaitable[T]) -> T:
        async with free:
            return await task

    return list(await asyncio.gather(*map(one, work)))


def filled_store(http: httpx2.Client) -> str:
    """The id of a vector store with one file."""
    file = http.post(
        "/files", files={"file": ("a.txt", b"The Panthers gave up 308 points.")}, data={"purpose": "assistants"}
    )
    store = http.post("/vector_stores", json={"file_ids": [file.json()["id"]]}).json()["id"]
    until(lambda: http.get(f"/vector_stores/{store}").json()["file_counts"]["completed"])
    return str(store)


def states(home: Path, table: str, column: str) -> set[str]:
    """What one column of a server's own database holds."""
    with contextlib.closing(sqlite3.connect(home / "backtalk.sqlite")) as database:
        return {row[0] for row in database.execute(f"SELECT DISTINCT {column} FROM {table}")}
