"""Any server that speaks OpenAI's Chat Completions: OpenAI, vLLM, llama.cpp, Ollama, and most of the rest."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec

from backtalk.domain.model import Delta, Prompt
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.calling import Call, ModelServer
from backtalk.models.chat_body import chat_body
from backtalk.models.chat_chunks import ChatDeltas
from backtalk.models.refusals import FormatRefusals

_OPENAI = "api.openai.com"
_TAKE_FILES = frozenset({_OPENAI, "openrouter.ai"})


class OpenAIChat:
    """A model server behind `POST /chat/completions`.

    `structured`: it is asked to keep to `Prompt.text_format`, and raises FormatRefused where the server does not know
    how to; `files`: whether the server takes `input_file` parts as they are.
    """

    structured = True

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self.server = ModelServer(upstream, egress)
        host = urlsplit(upstream.url).hostname
        self.files = host in _TAKE_FILES
        self._native = host == _OPENAI
        self._refusals = FormatRefusals()

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        self._refusals.check(prompt)
        body, sources = chat_body(
            prompt, max_tokens="max_completion_tokens" if self._native else "max_tokens", native=self._native
        )
        call = Call(
            self.server,
            "/chat/completions",
            self._headers(prompt),
            msgspec.json.encode(body),
            prompt.model,
            formatted=(prompt.text_format or {}).get("type", "text") != "text",
            refused=partial(self._refusals.note, prompt),
        )
        name = f"The model server '{self.server.upstream.name}'"
        return self.server.answers(call, lambda: ChatDeltas(name, sources))

    def _headers(self, prompt: Prompt) -> dict[str, str]:
        headers = self.server.upstream.headers()
        if prompt.request_id:
            headers["x-request-id"] = headers["x-client-request-id"] = prompt.request_id
        return headers
