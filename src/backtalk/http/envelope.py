"""Pure ASGI around every request: a request id, OpenAI's response headers, a limit on the body's size, and its record."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk.core.errors import HeadersTooLarge, Overloaded, TooLarge, TooSlow
from backtalk.core.ids import new_id
from backtalk.http.access_log import Observer, exchange_of
from backtalk.http.errors import render, unexpected
from backtalk.http.paths import path_of

log = logging.getLogger("backtalk")
MAX_HEADERS = 32 * 2**10
_LONGEST_ID = 512
"""Characters of an id that a client gives its request, as OpenAI has it."""
_NOBODY_WAITED = 499
"""The status, as nginx writes it, of a request whose client left before the answer began."""


class Allowance(NamedTuple):
    """What a request's body may take: bytes, and seconds until it is here. `held`: it lies in memory until the request
    is over."""

    size: int
    seconds: float
    held: bool = True


class Held:
    """Bytes of bodies that lie in memory, of all requests; `most` at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0

    def take(self, size: int) -> None:
        """Raises Overloaded, and takes nothing, where it would be too much."""
        if self.size and self.size + size > self._most:
            raise Overloaded("The bodies of other requests fill the memory that is set aside for them; try again.")
        self.size += size

    def give_back(self, size: int) -> None:
        self.size -= size


class Envelope:
    """Gives each request a `scope["state"]["request_id"]` and each answer `x-request-id`; cuts off what is over a limit.

    `allowance` tells what a path's body may be; None means that the path is not ours to guard. `strict` has our routes
    refuse unknown body fields. Each of the `observers` is told of every request, when it is over. `max_held` are the
    bytes of bodies that may lie in memory, of all requests together.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowance: Callable[[str], "Allowance | None"],
        observers: Sequence[Observer] = (),
        strict: bool = False,
        max_held: int = 256 * 2**20,
    ) -> None:
        self.app = app
        self.allowance = allowance
        self.observers = observers
        self.strict = strict
        self.held = Held(max_held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        allowed = self.allowance(path_of(scope))
        started = time.perf_counter()
        headers = headers_for(scope) if allowed else []
        status = 0
        scope.setdefault("state", {})["strict"] = self.strict

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if allowed:
                    elapsed = (b"openai-processing-ms", b"%d" % round((time.perf_counter() - started) * 1000))
                    message["headers"] = [*message.get("headers", ()), *headers, elapsed]
            await send(message)

        try:
            if allowed is None:
                await self.app(scope, receive, send_with_headers)
            else:
                await self._within(allowed, scope, receive, send_with_headers)
        except (TooLarge, TooSlow, HeadersTooLarge, Overloaded) as error:
            if allowed is None or status:
                raise
            await render(error)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if allowed is None or not _is_stopping():
                raise
            if not status:  # else the stream is cut: what another process goes on with is resumed there
                words = "The server stopped before it could answer; try again in a moment."
                await render(Overloaded(words))(scope, receive, send_with_headers)
        except Exception as error:
            if allowed is None or status:
                status = status or 500
                raise
            log.error("unexpected error at %s %s", scope["method"], path_of(scope), exc_info=error)
            await render(unexpected(error))(scope, receive, send_with_headers)
        finally:
            self._tell(scope, status or _NOBODY_WAITED, started)

    async def _within(self, allowed: "Allowance", scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooLarge for a body that is, or is announced to be; TooSlow; HeadersTooLarge; Overloaded."""
        received = 0
        held = 0
        deadline = asyncio.get_running_loop().time() + allowed.seconds
        complete = False

        async def receive_within_limit() -> Message:
            nonlocal received, complete, held
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(f"The body did not come within {allowed.seconds:g} seconds.") from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > allowed.size:
                raise _too_large(allowed.size)
            if allowed.held and received > held:
                self.held.take(received - held)
                held = received
            return message

        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise HeadersTooLarge(f"The request's headers are larger than {MAX_HEADERS:,} bytes.")
        announced = _content_length(scope)
        if announced > allowed.size:
            raise _too_large(allowed.size)
        try:
            if allowed.held:
                self.held.take(announced)
                held = announced
            await self.app(scope, receive_within_limit, send)
        finally:
            self.held.give_back(held)

    def _tell(self, scope: Scope, status: int, started: float) -> None:
        if self.observers:
            exchange = exchange_of(scope, status, started)
            for observe in self.observers:
                observe(exchange)


def _is_stopping() -> bool:
    """Whether the server itself cancelled this request: it stops, and has waited as long as it may."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def headers_for(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers of an answer of ours; the request has its id from now on, and keeps the one that its client gave it."""
    request_id = new_id("req")
    state = scope.setdefault("state", {})
    state["request_id"] = request_id
    headers = [
        (b"x-request-id", request_id.encode()),
        (b"request-id", request_id.encode()),  # its name in Anthropic's API
        (b"openai-version", b"2020-10-01"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if theirs := _client_request_id(scope):
        state["client_request_id"] = theirs.decode()
        headers.append((b"x-client-request-id", theirs))
    return headers


def _client_request_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if (
            name == b"x-client-request-id"
            and len(value) <= _LONGEST_ID
            and value.isascii()
            and value.decode().isprintable()
        ):
            found: bytes = value
            return found
    return None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit:,} bytes that are allowed here.")


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
