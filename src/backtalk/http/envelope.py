"""Pure ASGI around every request: a request id, OpenAI's response headers, and a limit on the body's size."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk.core.errors import TooLarge
from backtalk.core.ids import new_id
from backtalk.http.errors import render
from backtalk.http.paths import path_of


class Envelope:
    """Gives each request a `scope["state"]["request_id"]` and each answer `x-request-id`; cuts off bodies over the limit.

    `limit` tells the most bytes that a path may receive; None means that the path is not ours to guard.
    """

    def __init__(self, app: ASGIApp, *, limit: Callable[[str], int | None]) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.limit(path_of(scope)) if scope["type"] == "http" else None
        if limit is None:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                elapsed = round((time.perf_counter() - started) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", b"%d" % elapsed),
                    (b"openai-version", b"2020-10-01"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        if _content_length(scope) > limit:
            await render(_too_large(limit))(scope, receive, send_with_headers)
            return
        try:
            await self.app(scope, receive_within_limit, send_with_headers)
        except TooLarge as error:
            if begun:
                raise
            await render(error)(scope, receive, send_with_headers)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit:,} bytes that are allowed here.")


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
