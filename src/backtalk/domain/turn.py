"""What a turn of talk is made of before it becomes a prompt."""

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import msgspec

from backtalk.domain.caller import Caller
from backtalk.domain.items import Item


class Passage(msgspec.Struct, frozen=True):
    """A stretch of a stored file that a search found. `score` is 0..1; `start` and `end` are code points of its text."""

    file_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, Any]
    store_id: str = ""
    start: int = 0
    end: int = 0


class Piece(msgspec.Struct, kw_only=True):
    """Something that a context source offers for the prompt; `budget` decides whether it goes in.

    `source` names the source ("memory", …), `id` the thing within it, `tokens` its estimated cost.
    """

    source: str
    id: str
    text: str
    score: float | None = None
    tokens: int = 0


class TurnRequest(msgspec.Struct, kw_only=True):
    """One turn, told in no wire's words: what both the Responses and the Chat wire are turned into.

    `head` holds the fields of the Response object that are settled when the run opens and never change after.
    """

    caller: Caller
    model: str
    input: list[Item]
    head: dict[str, Any]
    previous_response_id: str | None = None
    conversation_id: str | None = None
    store: bool = True
    background: bool = False
    tools: list[dict[str, Any]] = []
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    instructions: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_output_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    text_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    truncation: str = "disabled"
    user: str | None = None
    request_id: str | None = None
    generate: bool = True
    """False: the model is not asked; the response holds the input, to be gone on from."""


class ContextSource(Protocol):
    """Something that knows what may help to answer: memory, documents, the user's own database."""

    name: str

    def pieces(self, turn: TurnRequest) -> Awaitable[Sequence[Piece]]:
        """What may help with this turn, best first. It has `source_timeout` seconds; late is as good as empty."""
        ...


class SearchFiles(Protocol):
    """How a turn searches vector stores: the app hands it the retrieval room's service."""

    def __call__(
        self,
        caller: Caller,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        limit: int,
        filters: dict[str, Any] | None = None,
        ranking: dict[str, Any] | None = None,
    ) -> Awaitable[list[Passage]]: ...
