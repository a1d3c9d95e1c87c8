"""One HTTP/1.1 connection to a server, as cheap per read as Python allows: parsed in the protocol's callbacks by llhttp.

A streamed token is one small read. A client of general use spends several times what this one does on it; this one does
what Backtalk needs: one exchange after another, a body that is read as it comes, back-pressure, and time-outs.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from backtalk.core.errors import UpstreamError

KEEP_SECONDS = 15.0
"""How long a connection waits for its next exchange."""
MAX_HEAD = 64 * 2**10
_HIGH_WATER = 256 * 2**10
_DRAIN_SECONDS = 1.0
_DRAIN_BYTES = 64 * 2**10


class ConnectionFailed(UpstreamError):
    """No connection, or one that broke off: the next one may hold."""


class Connection(asyncio.Protocol):
    """Sends a request, gives the answer's head and body, and is then free for the next exchange.

    `on_free` is called when an exchange has come to its end and the server keeps the connection open, `on_lost` when it
    is closed. Errors of the exchange are `UpstreamError`s that name `origin`.
    """

    def __init__(
        self,
        origin: str,
        idle_timeout: float,
        *,
        on_free: Callable[["Connection"], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Of the answer; names in lower case, repeated ones joined by commas."""
        self.complete = False
        self.untouched = True  # nothing has come since the request was sent
        self._origin = origin
        self._idle_timeout = idle_timeout
        self._on_free = on_free
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None  # while an exchange goes on
        self._head_size = 0
        self._headed = False
        self._keeps = False  # whether the server will take another request
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._draining = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ── what the egress does ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def usable(self) -> bool:
        """Whether another exchange can begin."""
        return self._parser is None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Begins an exchange."""
        self.status, self.headers = 0, {}
        self.complete = self._headed = self._draining = False
        self.untouched = True
        self._head_size = self._size = 0
        self._chunks.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._heard = self._loop.time()
        self._watch(self._idle_timeout, self._look)
        self._transport.write(head + body if len(body) < _HIGH_WATER else head)
        if len(body) >= _HIGH_WATER:
            self._transport.write(body)

    async def head(self) -> None:
        """Returns when `status` and `headers` are there."""
        while not self._headed:
            await self._more()

    async def read(self) -> bytes:
        """What came since the last read, or b"" at the end."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._more()
        chunks = self._chunks
        self._chunks, self._size = [], 0
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def feed(self, take: Callable[[bytes], bool]) -> None:
        """Hands on what comes in the moment in which it comes, until `take` has returned False or an answer, or the
        connection, has ended. Returns at once when there is something to `read`. `take` must not raise."""
        if self._chunks or self.complete or self._error:
            return
        self._take = take
        try:
            await self._more()
        finally:
            self._take = None

    def drain(self) -> None:
        """Throws the rest of the answer away, if it is short and comes soon, so that the connection can be used again."""
        self._draining = True
        self._chunks.clear()
        if self.complete:
            self._free()
        else:
            self._size = 0
            self._watch(_DRAIN_SECONDS, self.close)

    def close(self) -> None:
        """At once, whatever is under way."""
        self._watch(None)
        self._transport.abort()

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _more(self) -> None:
        if self._error:
            raise self._error
        self._waiter = waiter = self._loop.create_future()
        await waiter

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if not self.complete:
            self._error = self._error or error
        self._wake()
        self.close()

    def _watch(self, seconds: float | None, callback: Callable[[], None] | None = None) -> None:
        """Sets the one timer; None stops it."""
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, callback) if seconds is not None and callback else None

    def _look(self) -> None:
        """Is the server silent? Looked at now and then, so that a read costs no timer."""
        left = self._heard + self._idle_timeout - self._loop.time()
        if self._paused:
            left = self._idle_timeout
        if left > 0:
            self._watch(left, self._look)
        else:
            self._fail(
                UpstreamError(f"{self._origin} stayed silent for too long.", reason="upstream_timeout", status=504)
            )

    def _free(self) -> None:
        self._parser = None
        if self._keeps and not self._transport.is_closing():
            self._watch(KEEP_SECONDS, self.close)
            self._on_free(self)
        else:
            self.close()

    # ── what the transport says ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:  # nothing was asked
            self.close()
            return
        self._heard = self._loop.time()
        self.untouched = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(protocol_error(f"{self._origin} did not answer with proper HTTP ({type(error).__name__})."))
            return
        if self._take and self._chunks:
            self._hand_on(self._take)
        else:
            self._wake()

    def _hand_on(self, take: Callable[[bytes], bool]) -> None:
        read = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if not take(read) or self.complete:
            self._take = None
            self._wake()

    def resume_writing(self) -> None:
        """A part of a large request went out: the server is not silent, it listens."""
        self._heard = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        self._watch(None)
        self._on_lost(self)
        if self._parser is None or self.complete:
            return
        if self._headed and not error and self._ends_with_connection():
            self.complete = True
            self._wake()
        else:
            self._fail(ConnectionFailed(f"{self._origin} broke off its answer.", reason="upstream_error"))

    def _ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    # ── what the parser says ─────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that nothing asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            raise ValueError("too long a head")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        assert self._parser  # noqa: S101  # it is the one who calls
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._headed = True
        else:  # an interim answer, such as 100: the real one follows
            self.headers = {}

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._draining:
            if self._size > _DRAIN_BYTES:
                self.close()
            return
        self._chunks.append(body)
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._headed:
            return
        assert self._parser  # noqa: S101  # it is the one who calls
        self.complete = True
        self._keeps = self._parser.should_keep_alive()
        self._watch(None)
        if self._draining:
            self._loop.call_soon(self._free)  # the parser is still at work


def protocol_error(message: str) -> UpstreamError:
    return UpstreamError(message, reason="upstream_protocol_error")
