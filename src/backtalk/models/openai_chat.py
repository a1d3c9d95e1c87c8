"""Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, llama.cpp, Ollama, and most of the rest."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from backtalk.core.errors import FormatRefused, UpstreamError
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
_OPENAI = "api.openai.com"
_TAKE_FILES = frozenset({_OPENAI, "openrouter.ai"})


class OpenAIChat:
    """A model server behind `POST /chat/completions`.

    `structured`: it is asked to keep to `Prompt.text_format`, and raises FormatRefused where the server does not know
    how to; `files`: whether the server takes `input_file` parts as they are.
    """

    structured = True

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self._upstream = upstream
        self._egress = egress
        host = urlsplit(upstream.url).hostname
        self.files = host in _TAKE_FILES
        self._max_tokens = "max_completion_tokens" if host == _OPENAI else "max_tokens"
        self._refusals = _Refusals()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        self._refusals.check(prompt)
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
                raise await self._refused(reply, prompt)
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

    async def _refused(self, reply: Reply, prompt: Prompt) -> Exception:
        formatted = (prompt.text_format or {}).get("type", "text") != "text"
        error = await refusal(reply, self._upstream, prompt.model, formatted=formatted)
        if isinstance(error, FormatRefused):
            self._refusals.add(prompt, error.message)
        after = retry_after(reply.headers)
        hopeless = error.code == "insufficient_quota" or (after or 0) > PATIENCE
        return error if hopeless or not may_pass(reply.status) else Again(error, after)


class _Refusals:
    """Formats that models have refused, with the server's words.

    Remembered to the letter: a schema that a server cannot compile says nothing of the next one.
    """

    _MOST = 1000

    def __init__(self) -> None:
        self._said: dict[bytes, str] = {}

    def check(self, prompt: Prompt) -> None:
        """Raises FormatRefused if asking again is of no use."""
        if self._said and prompt.text_format and (said := self._said.get(self._key(prompt))):
            raise FormatRefused(said, param="text.format")

    def add(self, prompt: Prompt, said: str) -> None:
        if len(self._said) >= self._MOST:
            self._said.clear()
        self._said[self._key(prompt)] = said

    def _key(self, prompt: Prompt) -> bytes:
        return sha256(msgspec.json.encode([prompt.model, prompt.text_format])).digest()


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
