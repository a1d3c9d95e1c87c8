"""uvicorn's HTTP/1.1 protocol, with bounds on what no application sees before it is complete: a request's head."""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backtalk.core.errors import BacktalkError, HeadersTooLarge, InvalidRequest, TooSlow
from backtalk.core.ids import new_id
from backtalk.http.errors import render

MAX_HEAD = 64 * 2**10
"""Bytes of a request line and headers, as they are sent; `envelope.MAX_HEADERS` is what an application takes of them."""
HEAD_SECONDS = 30.0
"""How long a new connection may take until its request's head is there, and one that is used again."""


class Protocol(HttpToolsProtocol):
    """Refuses a head that is endless (431) or does not come (408), and what is no HTTP (400), in OpenAI's shape.

    Give it to uvicorn as `http`; `backtalk serve` does.
    """

    _pending = 0  # bytes that came and are neither a whole head nor a body: also trailers and chunk extensions
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD:
            self._refuse(HeadersTooLarge(f"The request's head is larger than {MAX_HEAD:,} bytes."))
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
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
            response = render(error)
            headers = [
                *self.server_state.default_headers,
                *response.raw_headers,
                (b"x-request-id", new_id("req").encode()),
                (b"connection", b"close"),
            ]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()
