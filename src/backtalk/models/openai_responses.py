"""Any server that speaks OpenAI's Responses API: OpenAI and Azure, and those that took the wire over, such as ours."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec

from backtalk.domain.model import Delta, Prompt
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.calling import Call, ModelServer
from backtalk.models.refusals import FormatRefusals
from backtalk.models.responses_body import responses_body
from backtalk.models.responses_events import ResponsesDeltas
from backtalk.models.stops import cut

_OPENAI = "api.openai.com"
_OF_OPENAI = (f".{_OPENAI}", ".openai.azure.com")


class OpenAIResponses:
    """A model server behind `POST /responses`.

    `structured`: it is asked to keep to `Prompt.text_format`, and raises FormatRefused where the server does not know
    how to; `files`: it takes `input_file` parts as they are. Nothing is stored there: the talk is ours, and thinking
    goes back and forth sealed, marked with the upstream's name, since no other server can read it.
    """

    structured = True
    files = True

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self.server = ModelServer(upstream, egress)
        self._mark = f"{upstream.name}:"
        host = urlsplit(upstream.url).hostname or ""
        self._openai = host == _OPENAI or host.endswith(_OF_OPENAI)
        self._refusals = FormatRefusals()

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        self._refusals.check(prompt)
        body, sources = responses_body(prompt, mark=self._mark, openai=self._openai)
        call = Call(
            self.server,
            "/responses",
            self._headers(prompt),
            msgspec.json.encode(body),
            prompt.model,
            formatted=(prompt.text_format or {}).get("type", "text") != "text",
            refused=partial(self._refusals.note, prompt),
        )
        name = f"The model server '{self.server.upstream.name}'"
        deltas = self.server.answers(call, lambda: ResponsesDeltas(name, sources, mark=self._mark))
        return cut(deltas, prompt.stop) if prompt.stop else deltas

    def _headers(self, prompt: Prompt) -> dict[str, str]:
        headers = self.server.upstream.headers()
        if prompt.request_id:
            headers["x-request-id"] = headers["x-client-request-id"] = prompt.request_id
        return headers
