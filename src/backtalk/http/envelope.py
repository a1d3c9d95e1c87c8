"""Pure ASGI around every request: a request id, OpenAI's response headers, a limit on the body's size, and its record."""

import logging
import time
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk.core.errors import TooLarge
from backtalk.core.ids import new_id
from backtalk.http.access_log import Observer, exchange_of
from backtalk.http.errors import render, unexpected
from backtalk.http.paths import path_of

log = logging.getLogger("backtalk")
_NOBODY_WAITED = 499
"""The status, as nginx writes it, of a request whose client left before the answer began."""


class Envelope:
    """Gives each request a `scope["state"]["request_id"]` and each answer `x-request-id`; cuts off bodies over the limit.

    `strict` has our routes refuse unknown body fields. `limit` tells the most bytes that a path may receive; None means that the path is not ours to guard. Each of the
    `observers` is told of every request, when it is over.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: Callable[[str], int | None],
        observers: Sequence[Observer] = (),
        strict: bool = False,
    ) -> None:
        self.app = app
        self.limit = limit
        self.observers = observers
        self.strict = strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(path_of(scope))
        started = time.perf_counter()
        headers = _headers_for(scope) if limit is not None else []
        status = 0
        scope.setdefault("state", {})["strict"] = self.strict

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if limit is not None:
                    elapsed = (b"openai-processing-ms", b"%d" % round((time.perf_counter() - started) * 1000))
                    message["headers"] = [*message.get("headers", ()), *headers, elapsed]
            await send(message)

        try:
            if limit is None:
                await self.app(scope, receive, send_with_headers)
            else:
                await self._within(limit, scope, receive, send_with_headers)
        except TooLarge as error:
            if limit is None or status:
                raise
            await render(error)(scope, receive, send_with_headers)
        except Exception as error:
            if limit is None or status:
                status = status or 500
                raise
            log.error("unexpected error at %s %s", scope["method"], path_of(scope), exc_info=error)
            await render(unexpected())(scope, receive, send_with_headers)
        finally:
            self._tell(scope, status or _NOBODY_WAITED, started)

    async def _within(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooLarge for a body of more than `limit` bytes, announced or received."""
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        if _content_length(scope) > limit:
            raise _too_large(limit)
        await self.app(scope, receive_within_limit, send)

    def _tell(self, scope: Scope, status: int, started: float) -> None:
        if self.observers:
            exchange = exchange_of(scope, status, started)
            for observe in self.observers:
                observe(exchange)


def _headers_for(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers of an answer of ours; the request has its id from now on."""
    request_id = new_id("req")
    scope.setdefault("state", {})["request_id"] = request_id
    return [
        (b"x-request-id", request_id.encode()),
        (b"openai-version", b"2020-10-01"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit:,} bytes that are allowed here.")


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
