"""A model server that does as it is told, down to the bytes: what no well-behaved stand-in can show."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Line:
    """The connection as a behaviour sees it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def head(self, status: int = 200, content_type: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, payload: Any) -> None:
        await self.chunk(
            b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"
        )

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        self.writer.transport.abort()


Behaviour = Callable[[Line], Awaitable[None]]


class FakeUpstream:
    """Behaves once for each request, the last behaviour for all that follow; records what came and when it left."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.requests: list[Request] = []
        self.connections = 0
        self.left = asyncio.Event()
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while request := await self._request(reader):
                self.requests.append(request)
                behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                await self._while_connected(reader, behave(Line(writer)))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _while_connected(self, reader: asyncio.StreamReader, behaviour: Awaitable[None]) -> None:
        """Runs a behaviour and notices when the client goes away in the middle of it."""
        task = asyncio.ensure_future(behaviour)
        while not task.done():
            await asyncio.wait([task], timeout=0.005)
            if (reader.at_eof() or reader.exception()) and not task.done():
                self.left.set()
                task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        except ConnectionError:
            self.left.set()

    async def _request(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, path, headers, json.loads(body) if body else None)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def fake_upstream(*behaviours: Behaviour) -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream(*behaviours)
    server = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield fake
    finally:
        server.close()
        fake.stop()
        await asyncio.sleep(0)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}


def events(*payloads: Any, done: bool = True) -> Behaviour:
    """A proper stream of these payloads."""

    async def behave(line: Line) -> None:
        await line.head()
        for payload in payloads:
            await line.event(payload)
        if done:
            await line.event(b"[DONE]")
        await line.end()

    return behave


def tokens(*texts: str) -> Behaviour:
    return events(*(delta(content=text) for text in texts), finish(), USAGE)


def status(code: int, body: Any = None, content_type: str = "application/json", **headers: str) -> Behaviour:
    async def behave(line: Line) -> None:
        await line.head(code, content_type, **headers)
        await line.chunk(body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "no"}}).encode())
        await line.end()

    return behave
