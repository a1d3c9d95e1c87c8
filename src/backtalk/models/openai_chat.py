"""Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, llama.cpp, Ollama, and most of the rest."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from backtalk.core.errors import UpstreamError
from backtalk.domain.model import Delta, Prompt
from backtalk.http.egress import ConnectionFailed, Egress, Reply, too_large
from backtalk.models.base import Upstream
from backtalk.models.chat_body import Source, chat_body
from backtalk.models.chat_chunks import ChatDeltas
from backtalk.models.refusals import refusal
from backtalk.models.retry import PATIENCE, Again, Tries, may_pass, retry_after
from backtalk.models.sse import MAX_EVENT, EventParser

_ANSWERS = frozenset({"text/event-stream", "application/json", "text/plain", "application/octet-stream", ""})
"""What servers call an answer, some of them carelessly."""


class OpenAIChat:
    """A model server behind `POST /chat/completions`."""

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self._upstream = upstream
        self._egress = egress
        native = "//api.openai.com" in upstream.url
        self._max_tokens = "max_completion_tokens" if native else "max_tokens"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        body, sources = chat_body(prompt, max_tokens=self._max_tokens)
        data = msgspec.json.encode(body)
        tries = Tries()
        while True:
            begun = False
            try:
                async with self._post(prompt, data) as reply:
                    answer = _Answer(reply, self._upstream.name, sources)
                    while deltas := await answer.read():
                        begun = True
                        yield deltas
                return
            except Again as again:
                error, after = again.error, again.after
            except ConnectionFailed as broken:
                if begun:
                    raise
                error, after = broken, None
            wait = tries.wait(after)
            if wait is None:
                raise error
            await asyncio.sleep(wait)

    @contextlib.asynccontextmanager
    async def _post(self, prompt: Prompt, data: bytes) -> AsyncIterator[Reply]:
        """The reply to one try, if it is an answer."""
        url = self._upstream.endpoint("/chat/completions")
        async with self._egress.request("POST", url, headers=self._headers(prompt), body=data) as reply:
            if reply.status != 200:
                raise await self._refused(reply, prompt.model)
            if reply.content_type not in _ANSWERS:
                raise UpstreamError(
                    f"The model server '{self._upstream.name}' answered with {reply.content_type} instead of an event "
                    "stream: is its base URL right, with its /v1?",
                    reason="upstream_protocol_error",
                )
            yield reply

    def _headers(self, prompt: Prompt) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            **self._upstream.headers(),
        }
        if prompt.request_id:
            headers["x-request-id"] = headers["x-client-request-id"] = prompt.request_id
        return headers

    async def _refused(self, reply: Reply, model: str) -> Exception:
        error = await refusal(reply, self._upstream, model)
        after = retry_after(reply.headers)
        hopeless = error.code == "insufficient_quota" or (after or 0) > PATIENCE
        return error if hopeless or not may_pass(reply.status) else Again(error, after)


class _Answer:
    """An answer that comes in: a stream of events, or one JSON body from a server that does not stream."""

    def __init__(self, reply: Reply, server: str, sources: Sequence[Source]) -> None:
        self._reply = reply
        self._deltas = ChatDeltas(f"The model server '{server}'", sources)
        self._parser = EventParser(lambda: too_large(reply.origin, MAX_EVENT))
        self._json = reply.content_type == "application/json"
        self._ended = False

    async def read(self) -> list[Delta]:
        """The deltas of the next network read that holds any, the last ones with the `Finish`; after them none."""
        deltas = self._deltas
        while not self._ended:
            if deltas.failure:
                raise deltas.failure
            out = deltas.feed(await self._events())
            if deltas.done or self._ended:
                self._ended = True
                self._reply.keep()
                out.append(deltas.finish())
            if out:
                return out
        return []

    async def _events(self) -> list[bytes]:
        if self._json:
            self._ended = True
            return [await self._reply.body()]
        try:
            if read := await self._reply.read():
                return self._parser.feed(read)
        except UpstreamError:
            if not self._deltas.complete:  # else the answer is whole; only the server's manners are not
                raise
        self._ended = True
        return self._parser.finish()
