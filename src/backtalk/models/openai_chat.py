"""Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, llama.cpp, Ollama, and most of the rest."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from backtalk.core.errors import BacktalkError, FormatRefused
from backtalk.domain.model import Delta, Prompt
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.calling import Call, answers
from backtalk.models.chat_body import chat_body
from backtalk.models.chat_chunks import ChatDeltas

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

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        self._refusals.check(prompt)
        body, sources = chat_body(prompt, max_tokens=self._max_tokens)
        call = Call(
            self._upstream,
            "/chat/completions",
            self._headers(prompt),
            msgspec.json.encode(body),
            prompt.model,
            formatted=(prompt.text_format or {}).get("type", "text") != "text",
            refused=partial(self._refusals.note, prompt),
        )
        server = f"The model server '{self._upstream.name}'"
        return answers(call, self._egress, lambda: ChatDeltas(server, sources))

    def _headers(self, prompt: Prompt) -> dict[str, str]:
        headers = self._upstream.headers()
        if prompt.request_id:
            headers["x-request-id"] = headers["x-client-request-id"] = prompt.request_id
        return headers


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

    def note(self, prompt: Prompt, error: BacktalkError) -> None:
        """Remembers a refusal of the prompt's format."""
        if isinstance(error, FormatRefused):
            if len(self._said) >= self._MOST:
                self._said.clear()
            self._said[self._key(prompt)] = error.message

    def _key(self, prompt: Prompt) -> bytes:
        return sha256(msgspec.json.encode([prompt.model, prompt.text_format])).digest()
