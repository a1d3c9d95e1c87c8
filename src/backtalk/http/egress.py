"""Outbound HTTP to the origins that the operator configured: one pool of connections for the whole app, on aiohttp.

No redirect is ever followed, so a key goes to its own origin and nowhere else; no proxy is taken from the environment
unless told to; no cookie is kept. What fails is raised as `UpstreamError` with a reason.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backtalk.core.errors import UpstreamError

if TYPE_CHECKING:
    import aiohttp

MAX_BODY = 16 * 2**20
"""Bytes of an answer that is read as a whole."""
_DRAIN_SECONDS = 1.0


class ConnectionFailed(UpstreamError):
    """No connection, or one that broke off: the next one may hold."""


class Egress:
    """The app's outbound connections. Times are seconds: to reach a server, and that it may stay silent."""

    def __init__(
        self, *, connect_timeout: float = 10.0, idle_timeout: float = 60.0, proxy_from_env: bool = False
    ) -> None:
        self.connect_timeout = connect_timeout
        self.idle_timeout = idle_timeout
        self.proxy_from_env = proxy_from_env
        self._session: aiohttp.ClientSession | None = None
        self._drains: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Opens the pool now instead of at the first request."""
        self._open_session()

    async def close(self) -> None:
        """Closes every connection. Requests in flight end with an error."""
        for task in self._drains:
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> AsyncIterator["Reply"]:
        """Sends a request and gives its reply, whatever the status but a redirect. Leaving closes an unread reply."""
        session = self._open_session()
        origin = origin_of(url)
        try:
            response = await session.request(method, url, headers=headers, data=body, allow_redirects=False)
        except Exception as error:
            raise _upstream_error(error, origin, begun=False) from error
        reply = None
        try:
            if 300 <= response.status < 400:
                raise _protocol_error(f"{origin} answered with a redirect, which is not followed: set its final URL.")
            reply = Reply(response, origin, self._drains)
            yield reply
        finally:
            if not (reply and reply.kept):
                response.close()

    def _open_session(self) -> "aiohttp.ClientSession":
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> "aiohttp.ClientSession":
        import aiohttp  # noqa: PLC0415  # lazy: 0.2 s that an app without a model server never pays

        timeout = aiohttp.ClientTimeout(
            total=None, connect=self.connect_timeout, sock_connect=self.connect_timeout, sock_read=self.idle_timeout
        )
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self.proxy_from_env,
        )


class Reply:
    """An answer whose head has come. `content_type` is lower case and without parameters."""

    def __init__(self, response: "aiohttp.ClientResponse", origin: str, drains: "set[asyncio.Task[None]]") -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.origin = origin
        self.kept = False
        self._response = response
        self._drains = drains

    async def read(self) -> bytes:
        """What the network brought since the last read, or b"" at the end."""
        try:
            return await self._response.content.readany()
        except Exception as error:
            raise _upstream_error(error, self.origin, begun=True) from error

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises UpstreamError upstream_too_large beyond `limit` bytes."""
        parts = []
        size = 0
        while part := await self.read():
            size += len(part)
            if size > limit:
                raise too_large(self.origin, limit)
            parts.append(part)
        return b"".join(parts)

    def keep(self) -> None:
        """Says that all that matters was read: the rest is read away behind the scenes, to use the connection again."""
        self.kept = True
        if not self._response.content.is_eof():
            task = asyncio.ensure_future(self._drain())
            self._drains.add(task)
            task.add_done_callback(self._drained)

    async def _drain(self) -> None:
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self.body(limit=65_536)

    def _drained(self, task: "asyncio.Task[None]") -> None:
        self._drains.discard(task)
        self._response.close()  # does nothing to a connection that went back to the pool


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL: what may stand in an error message."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def too_large(origin: str, limit: int) -> UpstreamError:
    return UpstreamError(f"{origin} sent more than {limit:,} bytes in one piece.", reason="upstream_too_large")


def _protocol_error(message: str) -> UpstreamError:
    return UpstreamError(message, reason="upstream_protocol_error")


def _upstream_error(error: Exception, origin: str, *, begun: bool) -> UpstreamError:
    """What aiohttp raised, as ours. `begun` says that the head of the answer had come."""
    import aiohttp  # noqa: PLC0415  # lazy: already loaded when an error of its kind comes

    unreached = isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, ssl.SSLError))
    if isinstance(error, TimeoutError) and not unreached:
        return UpstreamError(f"{origin} stayed silent for too long.", reason="upstream_timeout", status=504)
    if unreached or (not begun and isinstance(error, (aiohttp.ClientConnectionError, OSError))):
        return _unavailable(f"{origin} cannot be reached ({_why(error)}). Is it running, and is the URL right?")
    if isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError):
        return _protocol_error(f"{origin} sent a body that cannot be decompressed.")
    if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)):
        return ConnectionFailed(f"{origin} broke off its answer.", reason="upstream_error")
    return _protocol_error(f"{origin} did not answer with proper HTTP ({type(error).__name__}).")


def _unavailable(message: str) -> ConnectionFailed:
    """503 with Retry-After: the server may be back soon."""
    return ConnectionFailed(
        message, reason="upstream_unavailable", status=503, headers={"retry-after": "2", "retry-after-ms": "2000"}
    )


def _why(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
