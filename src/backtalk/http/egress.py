"""Outbound HTTP to the origins that the operator configured: one pool of connections for the whole app.

No redirect is ever followed, so a key goes to its own origin and nowhere else; no proxy is taken from the environment;
no cookie is kept; no compressed answer is asked for, since a compressor may sit on tokens. What fails is raised as
`UpstreamError` with a reason.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache, partial
from urllib.parse import quote, unquote, urlsplit

import msgspec

from backtalk.core.errors import UpstreamError
from backtalk.http.connection import Connection, ConnectionFailed, protocol_error

__all__ = ["ConnectionFailed", "Egress", "Reply", "origin_of", "too_large"]

MAX_BODY = 16 * 2**20
"""Bytes of an answer that is read as a whole."""
_SAFE = "/:@!$&'()*+,;=-._~%?"
_PLAIN = frozenset({"", "identity"})


class _Place(msgspec.Struct, frozen=True):
    """A URL as it is dialled. `head` are the first lines of a request, but for its method."""

    origin: str
    host: str
    port: int
    tls: bool
    head: bytes


class Egress:
    """The app's outbound connections. Times are seconds: to reach a server, and that it may stay silent."""

    def __init__(self, *, connect_timeout: float = 10.0, idle_timeout: float = 60.0) -> None:
        self.connect_timeout = connect_timeout
        self.idle_timeout = idle_timeout
        self._open: set[Connection] = set()
        self._free: dict[str, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Closes every connection. Requests in flight end with an error."""
        for connection in list(self._open):
            connection.close()
        self._free.clear()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> AsyncIterator["Reply"]:
        """Sends a request and gives its reply, whatever the status but a redirect. Leaving closes an unread reply."""
        place = _place(url)
        connection = await self._exchange(place, _head(method, place, headers or {}, body), body or b"")
        reply = Reply(connection, place.origin)
        try:
            if 300 <= reply.status < 400:
                raise protocol_error(
                    f"{place.origin} answered with a redirect, which is not followed: set its final URL."
                )
            if reply.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
                raise protocol_error(f"{place.origin} sent a compressed body, which was not asked for.")
            yield reply
        finally:
            if not reply.kept:
                connection.close()

    async def _exchange(self, place: _Place, head: bytes, body: bytes) -> Connection:
        """A connection on which the answer's head has come. One that the server had left meanwhile is replaced."""
        while True:
            connection = self._take(place.origin)
            used = connection is not None
            connection = connection or await self._connect(place)
            try:
                connection.send(head, body)
                await connection.head()
                return connection
            except ConnectionFailed:
                if not (used and connection.untouched):
                    raise
            except BaseException:
                connection.close()
                raise

    def _take(self, origin: str) -> Connection | None:
        """A free connection, the one used last."""
        free = self._free.get(origin)
        while free:
            if (connection := free.pop()).usable:
                return connection
        return None

    async def _connect(self, place: _Place) -> Connection:
        tls = self._context() if place.tls else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: self._connection(place.origin), place.host, place.port, ssl=tls
                )
        except (OSError, UnicodeError) as error:  # which those of time and of TLS are
            raise _unavailable(
                f"{place.origin} cannot be reached ({_why(error)}). Is it running, and is the URL right?"
            ) from error
        self._open.add(connection)
        return connection

    def _connection(self, origin: str) -> Connection:
        free = self._free.setdefault(origin, [])
        return Connection(origin, self.idle_timeout, on_free=free.append, on_lost=partial(self._forget, free))

    def _forget(self, free: list[Connection], connection: Connection) -> None:
        self._open.discard(connection)
        if connection in free:
            free.remove(connection)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


class Reply:
    """An answer whose head has come. `content_type` is lower case and without parameters."""

    def __init__(self, connection: Connection, origin: str) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self.content_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.origin = origin
        self.kept = False
        self.read = connection.read
        """What the network brought since the last read, or b"" at the end."""
        self.feed = connection.feed
        """Hands on what it brings as it brings it."""
        self._connection = connection

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises UpstreamError upstream_too_large beyond `limit` bytes."""
        parts = []
        size = 0
        while part := await self.read():
            size += len(part)
            if size > limit:
                raise too_large(self.origin, limit)
            parts.append(part)
        self.keep()
        return b"".join(parts)

    def keep(self) -> None:
        """Says that all that matters was read: the connection may be used again."""
        if not self.kept:
            self.kept = True
            self._connection.drain()


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL: what may stand in an error message."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


@lru_cache(maxsize=256)
def _place(url: str) -> _Place:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    named = f"[{host}]" if ":" in host else host
    if parts.port:
        named += f":{parts.port}"
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE)
    head = f" {target} HTTP/1.1\r\nhost: {named}\r\naccept-encoding: identity\r\n"
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        head += f"authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    return _Place(origin_of(url), host, parts.port or (443 if tls else 80), tls, head.encode())


def _head(method: str, place: _Place, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if any("\n" in line[:-2] or "\r" in line[:-2] or "\0" in line for line in lines):
        raise protocol_error(f"A header for {place.origin} holds a line break: look at the key that is set for it.")
    if body is not None:
        lines.append(f"content-length: {len(body)}\r\n")
    return method.encode() + place.head + "".join(lines).encode("utf-8") + b"\r\n"


def too_large(origin: str, limit: int) -> UpstreamError:
    return UpstreamError(f"{origin} sent more than {limit:,} bytes in one piece.", reason="upstream_too_large")


def _unavailable(message: str) -> ConnectionFailed:
    """503 with Retry-After: the server may be back soon."""
    return ConnectionFailed(
        message, reason="upstream_unavailable", status=503, headers={"retry-after": "2", "retry-after-ms": "2000"}
    )


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
