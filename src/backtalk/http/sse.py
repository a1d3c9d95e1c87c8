"""Server-sent events, cheaply: one `send` for each chunk that the reader yields, whatever it holds."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backtalk.core.errors import Overloaded
from backtalk.http.direct import Direct, offered

log = logging.getLogger("backtalk")
HEARTBEAT_SECONDS = 15.0
STOP_SECONDS = 5.0
"""How long a stopping server's stream may take to its end."""
DONE = b"data: [DONE]\n\n"
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


Write: TypeAlias = Callable[[bytes], bool]
"""Writes a chunk at once. False: the line is full, write no more."""
Chunks: TypeAlias = AsyncGenerator[bytes | Callable[[Write], Awaitable[None]], None]
"""Chunks of whole frames. In place of one may come a function that writes chunks as they arise, until it returns."""


class EventStream(Response):
    """Streams chunks of whole frames; pings a quiet line; tells `on_leave` when the client went before the end."""

    def __init__(
        self,
        chunks: Chunks,
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
        sending = asyncio.create_task(self._send_all(send, offered(scope)))
        left = True
        try:
            left = await is_left(receive, sending)
        finally:
            sending.cancel()
            if left and self.on_leave:
                self.on_leave()
        try:
            await sending
        except asyncio.CancelledError:
            pass
        except Overloaded as error:  # the database is away, or closed already: the stream is cut, its client resumes it
            log.warning("a stream was cut: %s", error)

    async def _send_all(self, send: Send, direct: Direct | None) -> None:
        heartbeat = _Heartbeat(send)
        try:
            async with contextlib.aclosing(self.chunks) as chunks:
                line = _Line(send, heartbeat, direct)
                async for chunk in chunks:
                    if isinstance(chunk, bytes):
                        heartbeat.postpone()
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    else:
                        await chunk(line.write)
                        await line.flush()
        finally:
            heartbeat.stop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Line:
    """Sends from outside the task that it belongs to, so that an event need not wake a task to get out.

    Where the server offers it, a chunk goes straight to the connection. Else an ASGI `send` seldom has to wait: it is
    taken one step, in the name of its task; if it does have to wait, or fails, the task does the rest in `flush`.
    """

    def __init__(self, send: Send, heartbeat: "_Heartbeat", direct: Direct | None) -> None:
        self._send = send
        self._direct = direct
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._rest: _Rest | None = None
        self._error: BaseException | None = None

    def write(self, chunk: bytes) -> bool:
        self._heartbeat.postpone()
        if self._direct and self._direct.write(chunk):
            return True
        sending = self._send({"type": "http.response.body", "body": chunk, "more_body": True}).__await__()
        caller = asyncio.current_task()
        _switch(self._loop, caller, self._task)
        try:
            self._rest = _Rest(sending, next(sending))
        except StopIteration:
            return True
        except BaseException as error:  # it belongs to the task of the line
            self._error = error
        finally:
            _switch(self._loop, self._task, caller)
        return False

    async def flush(self) -> None:
        """Finishes what `write` could not. Raises what it failed with."""
        error, self._error = self._error, None
        rest, self._rest = self._rest, None
        if error:
            raise error
        if rest:
            await rest


class _Rest:
    """A coroutine that was begun elsewhere and waits for a future."""

    def __init__(self, coroutine: Generator[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._waits_for
        except BaseException as error:  # a cancellation: it has to see that
            try:
                waits_for = self._coroutine.throw(error)
            except StopIteration:
                return
            yield waits_for
        yield from self._coroutine


def _switch(loop: asyncio.AbstractEventLoop, old: "asyncio.Task[Any] | None", new: "asyncio.Task[Any] | None") -> None:
    """Makes `new` the current task, as an event loop's own tasks do for each step."""
    if old:
        asyncio.tasks._leave_task(loop, old)
    if new:
        asyncio.tasks._enter_task(loop, new)


async def is_left(receive: Receive, task: "asyncio.Future[Any]") -> bool:
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
        waiting = self._task is not None and not self._task.done()  # on a line that is full one ping is enough
        if self._loop.time() - self._last >= HEARTBEAT_SECONDS and not waiting:
            ping = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
            self._task = self._loop.create_task(self._ping(ping))
            self._last = self._loop.time()
        wait = self._last + HEARTBEAT_SECONDS - self._loop.time()
        self._timer = self._loop.call_later(max(wait, 0.01), self._due)

    async def _ping(self, message: dict[str, object]) -> None:
        await self._send(message)
