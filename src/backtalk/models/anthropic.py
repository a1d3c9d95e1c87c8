"""Any server that speaks Anthropic's Messages API: Anthropic itself, and the gateways and servers that copy it."""

from collections.abc import AsyncGenerator, Sequence

import msgspec

from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest
from backtalk.domain.model import Delta, Prompt
from backtalk.http.egress import Egress
from backtalk.models.anthropic_body import anthropic_body, version
from backtalk.models.anthropic_events import AnthropicDeltas
from backtalk.models.base import Upstream
from backtalk.models.calling import Call, ModelServer

_FIRST_WITH_FORMATS = (4, 5)


class Anthropic:
    """A model server behind `POST /messages`.

    `structured`: strict JSON schemas go to models that take them, any other format is refused with FormatRefused;
    `files`: PDF and text in `input_file` parts become documents.
    """

    structured = True
    files = True

    def __init__(self, upstream: Upstream, egress: Egress) -> None:
        self.server = ModelServer(upstream, egress)

    def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`. Tries again before the first delta only."""
        formatted = _formatted(prompt)
        body, sources = anthropic_body(prompt)
        call = Call(
            self.server,
            "/messages",
            self._headers(prompt),
            msgspec.json.encode(body),
            prompt.model,
            formatted=formatted,
            refused=_refuse_format if formatted else None,
        )
        name = f"The model server '{self.server.upstream.name}'"
        return self.server.answers(call, lambda: AnthropicDeltas(name, sources))

    def _headers(self, prompt: Prompt) -> dict[str, str]:
        headers = self.server.upstream.headers()
        if prompt.request_id:
            headers["x-request-id"] = prompt.request_id
        return headers


def _formatted(prompt: Prompt) -> bool:
    """Whether the server is asked to keep to a format. Raises FormatRefused for one that it would not take.

    It wants objects without additional properties, which is what OpenAI's `strict` demands too.
    """
    wanted = prompt.text_format or {}
    kind = wanted.get("type", "text")
    if kind == "text":
        return False
    if kind == "json_schema" and wanted.get("strict") and version(prompt.model) >= _FIRST_WITH_FORMATS:
        return True
    raise FormatRefused(f"The model '{prompt.model}' takes no such format.", param="text.format")


def _refuse_format(error: BacktalkError) -> None:
    """Anthropic compiles less of JSON Schema than OpenAI does: what it says of a schema is no fault of the client's."""
    if isinstance(error, InvalidRequest) and "output_config" in error.message:
        raise FormatRefused(error.message, param="text.format")
