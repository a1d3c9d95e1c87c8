"""Server-sent events, cheaply: one `send` for each chunk that the reader yields, whatever it holds."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT_SECONDS = 15.0
STOP_SECONDS = 5.0
"""How long a stopping server's stream may take to its end."""
DONE = b"data: [DONE]\n\n"
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(Response):
    """Streams chunks of whole frames; pings a quiet line; tells `on_leave` when the client went before the end."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], None] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.chunks = chunks
        self.on_leave = on_leave
        self.init_headers({**_HEADERS, **(headers or {})})
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_all(send))
        left = True
        try:
            left = await is_left(receive, sending)
        finally:
            sending.cancel()
            if left and self.on_leave:
                self.on_leave()
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    async def _send_all(self, send: Send) -> None:
        heartbeat = _Heartbeat(send)
        try:
            async with contextlib.aclosing(self.chunks) as chunks:
                async for chunk in chunks:
                    heartbeat.postpone()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            heartbeat.stop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def is_left(receive: Receive, task: "asyncio.Task[Any]") -> bool:
    """Waits until `task` is done or its client has gone, and tells whether it has.

    It is cancelled when the server stops: then all responses are about to be ended, and the task has `STOP_SECONDS`.
    """
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, watching), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await asyncio.wait((task,), timeout=STOP_SECONDS)
    finally:
        watching.cancel()
    return not task.done()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Heartbeat:
    """Sends a comment when nothing else was sent for a while. Costs one assignment for each chunk."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS, self._due)

    def postpone(self) -> None:
        self._last = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task:
            self._task.cancel()

    def _due(self) -> None:
        if self._loop.time() - self._last >= HEARTBEAT_SECONDS:
            ping = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
            self._task = self._loop.create_task(self._ping(ping))
            self._last = self._loop.time()
        wait = self._last + HEARTBEAT_SECONDS - self._loop.time()
        self._timer = self._loop.call_later(max(wait, 0.01), self._due)

    async def _ping(self, message: dict[str, object]) -> None:
        await self._send(message)
