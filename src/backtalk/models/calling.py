"""Calling a model server: one POST whose answer is a stream of events, tried again while nothing of it was used."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from backtalk.core.errors import BacktalkError, UpstreamError
from backtalk.domain.model import Delta, Finish, Live
from backtalk.http.egress import ConnectionFailed, Egress, Reply, too_large
from backtalk.models.base import Upstream
from backtalk.models.health import Health
from backtalk.models.refusals import refusal
from backtalk.models.retry import PATIENCE, Again, Tries, may_pass, retry_after
from backtalk.models.sse import MAX_EVENT, EventParser

_ANSWERS = frozenset({"text/event-stream", "application/json", "text/plain", "application/octet-stream", ""})
"""What servers call an answer, some of them carelessly."""


class Reader(Protocol):
    """Makes deltas of an answer's events, and knows how it stands."""

    done: bool
    """Whether the stream has said that it is over."""
    failure: BacktalkError | None
    """What broke it, once the deltas that came before have been given."""

    @property
    def complete(self) -> bool:
        """Whether the model has said that it is done, or the server that the stream is."""
        ...

    def feed(self, events: Sequence[bytes]) -> list[Delta]:
        """The deltas of what one network read brought: the data of events, or a whole body."""
        ...

    def finish(self) -> Finish:
        """The end. Raises UpstreamError upstream_protocol_error when the stream ended before the model did."""
        ...


class Call:
    """One request to a model server. `refused` sees every error that is an answer of the server's, and may raise another
    in its place."""

    def __init__(
        self,
        server: "ModelServer",
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        model: str,
        *,
        formatted: bool = False,
        refused: Callable[[BacktalkError], None] | None = None,
    ) -> None:
        self.server = server
        self.url = server.upstream.endpoint(path)
        self.headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            **headers,
        }
        self.body = body
        self.model = model
        self.formatted = formatted
        self.refused = refused


class ModelServer:
    """One upstream as its adapter calls it."""

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self.upstream = upstream
        self.egress = egress
        self.health = Health(upstream.name, upstream.concurrency)

    async def answers(self, call: Call, reader: Callable[[], Reader]) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        tries = Tries()
        async with self.health.call():
            while True:
                begun = False
                try:
                    async with _post(call) as reply:
                        answer = _Answer(reply, reader())
                        while deltas := await answer.read():
                            if not begun:
                                begun = True
                                self.health.succeeded()
                            yield deltas
                            if not answer.ended:
                                yield answer
                    return
                except Again as again:
                    error, after = self._masked(again.error), again.after
                except ConnectionFailed as broken:
                    if begun:
                        self.health.failed(broken)
                        raise
                    error, after = broken, None
                except BacktalkError as broken:
                    self.health.failed(self._masked(broken))
                    raise
                wait = tries.wait(after)
                if wait is None or not self.health.may_retry():
                    self.health.failed(error)
                    raise error
                await asyncio.sleep(wait)

    def _masked(self, error: BacktalkError) -> BacktalkError:
        """The error without the key, which a server may tell in its stream as well as in an answer of its own."""
        if key := self.upstream.api_key:
            error.message = error.message.replace(key, "***")
            error.args = (error.message,)
        return error


@contextlib.asynccontextmanager
async def _post(call: Call) -> AsyncIterator[Reply]:
    """The reply to one try, if it is an answer."""
    async with call.server.egress.request("POST", call.url, headers=call.headers, body=call.body) as reply:
        if reply.status != 200:
            raise await _refused(reply, call)
        if reply.content_type not in _ANSWERS:
            raise UpstreamError(
                f"The model server '{call.server.upstream.name}' answered with {reply.content_type} instead of an event "
                "stream: is its base URL right, with its /v1?",
                reason="upstream_protocol_error",
            )
        yield reply


async def _refused(reply: Reply, call: Call) -> Exception:
    error = await refusal(reply, call.server.upstream, call.model, formatted=call.formatted)
    if call.refused:
        call.refused(error)
    after = retry_after(reply.headers)
    hopeless = error.code == "insufficient_quota" or (after or 0) > PATIENCE
    return error if hopeless or not may_pass(reply.status) else Again(error, after)


class _Answer(Live):
    """An answer that comes in: a stream of events, or one JSON body from a server that does not stream."""

    def __init__(self, reply: Reply, deltas: Reader) -> None:
        self._reply = reply
        self._deltas = deltas
        self._parser = EventParser(lambda: too_large(reply.origin, MAX_EVENT))
        self._json = reply.content_type == "application/json"
        self.ended = False
        self._left: list[Delta] = []  # what was read by `feed` and not handed on
        self._error: Exception | None = None  # what `feed` met when it read

    async def feed(self, take: Callable[[Sequence[Delta]], bool]) -> None:
        """As `Live.feed`."""
        failed: list[Exception] = []

        def took(read: bytes) -> bool:
            deltas = self._deltas
            try:
                out = deltas.feed(self._parser.feed(read))
            except Exception as error:
                self._error = error
                return False
            if deltas.failure or deltas.done:
                self._left = out
                return False
            try:
                return take(out) if out else True
            except Exception as error:
                failed.append(error)
                return False

        if not (self._json or self.ended):
            await self._reply.feed(took)
        if failed:
            raise failed[0]

    async def read(self) -> list[Delta]:
        """The deltas of the next network read that holds any, the last ones with the `Finish`; after them none."""
        deltas = self._deltas
        while not self.ended:
            if self._error or (deltas.failure and not self._left):
                raise self._error or deltas.failure  # type: ignore[misc]  # one of them
            out, self._left = self._left, []
            if not (out or deltas.done):
                out = deltas.feed(await self._events())
            if deltas.done or self.ended:
                self.ended = True
                self._reply.keep()
                out.append(deltas.finish())
            if out:
                return out
        return []

    async def _events(self) -> list[bytes]:
        if self._json:
            self.ended = True
            return [await self._reply.body()]
        try:
            if read := await self._reply.read():
                return self._parser.feed(read)
        except UpstreamError:
            if not self._deltas.complete:  # else the answer is whole; only the server's manners are not
                raise
        self.ended = True
        return self._parser.finish()
