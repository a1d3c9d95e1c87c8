"""uvicorn's protocols, with bounds on what no application sees: a request's head before it is complete, clients that do
not read, and how many there are."""

import asyncio
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from backtalk.core.errors import BacktalkError, HeadersTooLarge, InvalidRequest, Overloaded, TooSlow
from backtalk.core.ids import new_id
from backtalk.http.direct import Direct
from backtalk.http.errors import render

MAX_HEAD = 64 * 2**10
"""Bytes of a request line and headers, as they are sent; `envelope.MAX_HEADERS` is what an application takes of them."""
HEAD_SECONDS = 30.0
"""How long a new connection may take until its request's head is there, and one that is used again."""
MAX_UNSENT = 32 * 2**10
"""Bytes that wait in here for a client to take them, before its stream waits too."""
WRITE_SECONDS = 60.0
MAX_CONNECTIONS = 10_000
_ALWAYS = "/healthz"
"""Answered however many connections there are: a server that is full is not dead."""


class Stall:
    """Cuts a connection off when its client takes not a byte for `seconds`. Costs nothing while it does.

    `pause` and `resume` are called when the transport's buffer is full, and when there is room again.
    """

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        transport.set_write_buffer_limits(MAX_UNSENT)

    def pause(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._seconds, self._look)

    def resume(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self.pause()
        else:
            self._transport.abort()


class SocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose client is cut off when it does not read. Give it to uvicorn as `ws`."""

    _stall: Stall

    def __init__(self, *, write_seconds: float = WRITE_SECONDS, **options: Any) -> None:
        super().__init__(**options)
        self._write_seconds = write_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._stall = Stall(self.transport, self._write_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stall.resume()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.resume()


class Protocol(HttpToolsProtocol):
    """Refuses a head that is endless (431) or does not come (408), what is no HTTP (400), and whoever is one too many
    (503), in OpenAI's shape; cuts off who does not read.

    Give it to uvicorn as `http`; `backtalk serve` does.
    """

    _pending = 0  # bytes that came and are neither a whole head nor a body: also trailers and chunk extensions
    _head_timer: asyncio.TimerHandle | None = None
    _upgraded = False
    _stall: Stall

    def __init__(self, *, most: int = MAX_CONNECTIONS, write_seconds: float = WRITE_SECONDS, **options: Any) -> None:
        super().__init__(**options)
        self._most = most
        self._write_seconds = write_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._stall = Stall(transport, self._write_seconds)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stall.resume()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.resume()

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD:
            self._refuse(HeadersTooLarge(f"The request's head is larger than {MAX_HEAD:,} bytes."))
        elif self._head_timer is None and not self._upgraded and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def on_headers_complete(self) -> None:
        self._pending = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser cannot read."""
        self._refuse(InvalidRequest(f"{msg} This is an HTTP/1.1 server."))

    def handle_websocket_upgrade(self) -> None:
        if self._is_full():
            self._refuse(_full())
        else:
            self._upgraded = True  # no head follows: the line is the WebSocket's from now on
            super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_full() and cycle.scope["path"] != _ALWAYS:
            app = _last(_full())
        offers: dict[str, Any] = {Direct.NAME: Direct(cycle)}
        cycle.scope["extensions"] = offers
        super()._start_asgi_task(cycle, app)

    def _is_full(self) -> bool:
        return len(self.connections) > self._most

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        """A connection that has said nothing is closed in silence, as an idle one is."""
        if self._pending:
            self._refuse(TooSlow(f"The request's head did not come within {HEAD_SECONDS:g} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: BacktalkError) -> None:
        """Answers, unless another answer is half on its way, and closes the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            response = _last(error)
            headers = [*self.server_state.default_headers, *response.raw_headers]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()


def _full() -> Overloaded:
    return Overloaded("Too many connections are open here; try again in a moment.")


def _last(error: BacktalkError) -> Response:
    """An answer after which the connection is closed."""
    response = render(error)
    response.headers["x-request-id"] = new_id("req")
    response.headers["connection"] = "close"
    return response
