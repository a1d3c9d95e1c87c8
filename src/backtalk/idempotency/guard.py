"""Pure ASGI: a POST with an `Idempotency-Key` is carried out once; whoever sends it again gets the first answer.

Requests without the header pass untouched.
"""

import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk.core.errors import BacktalkError, Conflict, InvalidRequest
from backtalk.http.direct import refuse
from backtalk.http.errors import render
from backtalk.http.paths import path_of
from backtalk.idempotency.service import Claim, Keys
from backtalk.storage.once import marking

log = logging.getLogger("backtalk.idempotency")

MOST_KEPT = 8 * 2**20
"""Bytes of an answer that are kept; a longer one is told to be lost."""
_LONGEST = 255
_KEPT_HEADERS = (b"content-type",)
_PASSING = (408, 409, 425, 429)
"""Refusals that may be none the next time: the key stays free, as after a mistake of the server's."""
_RESPONSES = "/v1/responses"
_ENDS = (b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n')
"""With what streams end, for those who read them."""
_REPLAYED = (b"idempotent-replayed", b"true")


class Idempotency:
    """Guards the POSTs on the paths that `is_ours` claims. Stands behind the gate: the caller is known."""

    def __init__(self, app: ASGIApp, keys: Keys, is_ours: Callable[[str], bool]) -> None:
        self.app = app
        self.keys = keys
        self.is_ours = is_ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None or not self.is_ours(path_of(scope)):
            await self.app(scope, receive, send)
            return
        refuse(scope)  # what is sent is to be kept
        try:
            if not 0 < len(key) <= _LONGEST:
                raise InvalidRequest(f"An Idempotency-Key has 1 to {_LONGEST} characters.", code="invalid_value")
            body = await _read(receive)
            if body is None:
                return
            found = await self.keys.claim(scope["state"]["caller"].project, key, _fingerprint(scope, body))
        except BacktalkError as error:
            await render(error)(scope, receive, send)
            return
        if isinstance(found, Claim):
            await self._carry_out(found, scope, _given(body, receive), send)
        else:
            await self._replay(found, body, scope, receive, send)

    async def _carry_out(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        try:
            with marking(claim.mark):
                await self.app(scope, receive, answer.send)
        except Exception:
            await claim.release()
            raise
        left = not answer.complete  # the client has gone in the middle of a stream
        if answer.passes or (left and not claim.made):
            await claim.release()
        else:
            kept = None if left or (claim.made and _is_logged(scope, answer)) else answer.body
            try:
                await claim.done(answer.status, answer.headers, kept)
            except Exception:  # the answer is the client's all the same; whoever repeats it hears that it was lost
                log.exception("The answer to an Idempotency-Key was not kept.")
        await answer.finish()

    async def _replay(self, row: Any, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """The first answer: as it was kept, or out of the log of the response that it was the stream of."""

        async def send_replayed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _REPLAYED]}
            await send(message)

        if row.body is not None:
            headers = [(name.encode(), value.encode()) for name, value in row.headers]
            await send_replayed({"type": "http.response.start", "status": row.status, "headers": headers})
            await send_replayed({"type": "http.response.body", "body": row.body})
        elif row.response_id is not None and path_of(scope) == _RESPONSES:
            stream = _wants(body, "stream")
            if not stream and not _wants(body, "background"):  # as the first, it comes with the end
                await self.app(_reading(scope, row.response_id, stream=True), _given(b"", receive), _to_nobody)
            await self.app(_reading(scope, row.response_id, stream=stream), _given(b"", receive), send_replayed)
        else:
            words = "The request was carried out, but its answer was not kept: it was too long, or its client had left."
            lost = Conflict(words, code="idempotency_answer_lost")
            await render(lost)(scope, receive, send)


class _Answer:
    """Sends on, and remembers what was sent. The end waits for `finish`: whoever has seen it may ask again at once; so
    does all of an answer that frees the key, for its status is enough to ask again.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._end: list[Message] = []
        self._parts: list[bytes] = []
        self._size = 0
        self.status = 0
        self.headers: list[list[str]] = []
        self.complete = False

    @property
    def body(self) -> bytes | None:
        return b"".join(self._parts) if self._size <= MOST_KEPT else None

    @property
    def passes(self) -> bool:
        """Whether it may be another the next time."""
        return self.status >= 500 or self.status in _PASSING

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.passes:
                self._end.append(message)
                return
            kept = [(name, value) for name, value in message.get("headers", ()) if name in _KEPT_HEADERS]
            self.headers = [[name.decode(), value.decode()] for name, value in kept]
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self._size += len(part)
            if self._size <= MOST_KEPT:
                self._parts.append(part)
            self.complete = not message.get("more_body", False)
            if self._end or self.complete or part.endswith(_ENDS):
                self._end.append(message)
                return
        await self._send(message)

    async def finish(self) -> None:
        """Sends the end."""
        for message in self._end:
            await self._send(message)


def _key(scope: Scope) -> str | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    found = next((value for name, value in scope["headers"] if name == b"idempotency-key"), None)
    return None if found is None else found.decode("latin-1").strip()


def _fingerprint(scope: Scope, body: bytes) -> str:
    digest = sha256(f"{path_of(scope)}\n{scope['query_string'].decode('latin-1')}\n".encode())
    digest.update(body)
    return digest.hexdigest()


async def _read(receive: Receive) -> bytes | None:
    """The body; None if the client left before all of it was here: the key stays free for when it asks again."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    """The body again, and then whatever else comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return left.pop() if left else await receive()

    return receive_again


def _is_logged(scope: Scope, answer: _Answer) -> bool:
    """Whether the answer is the stream of a stored response: its log has it."""
    stream = any(value.startswith("text/event-stream") for _, value in answer.headers)
    return stream and path_of(scope) == _RESPONSES


def _reading(scope: Scope, response_id: str, *, stream: bool) -> Scope:
    """The request that reads a response, or its events."""
    path = f"{_RESPONSES}/{response_id}"
    query = b"stream=true" if stream else b""
    return {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query}


async def _to_nobody(message: Message) -> None:
    """Takes an answer that is only waited for."""


def _wants(body: bytes, field: str) -> bool:
    """Whether a body says `true` to a field."""
    found = msgspec.json.decode(body)
    return isinstance(found, dict) and found.get(field) is True
