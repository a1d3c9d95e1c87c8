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


class Attachment(msgspec.Struct, frozen=True):
    """A file that a request's input holds or names. `file_id` is None for one that came with the request."""

    filename: str
    data: bytes
    file_id: str | None = None


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
    verbosity: str | None = None
    logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    reasoning_tokens: int | None = None
    service_tier: str | None = None
    cache_key: str | None = None
    cache_retention: str | None = None
    truncation: str = "disabled"
    user: str | None = None
    request_id: str | None = None
    generate: bool = True
    """False: the model is not asked; the response holds the input, to be gone on from."""
    branched: bool = False
    branch_from: str | None = None
    """Where `branched`: the item of the conversation that the input follows on, None to begin anew."""
    compact_above: int | None = None
    """Tokens of context above which what was said is made short before the model is asked."""
    compact: bool = False
    """Make the talk short, and do nothing else."""
    wire: str = "responses"
    """The wire that it came by: "chat" for what is listed as a chat completion."""
    places: list[str | None] = []
    """What the wire calls each item of the input, where that is not `input[i]`; None for what is older than the request."""

    def place(self, i: int) -> str | None:
        """The parameter that an item of the input came in."""
        return self.places[i] if self.places else f"input[{i}]"


class ContextSource(Protocol):
    """Something that knows what may help to answer: memory, documents, the user's own database."""

    name: str

    def pieces(self, turn: TurnRequest) -> Awaitable[Sequence[Piece]]:
        """What may help with this turn, best first. It has `source_timeout` seconds; late is as good as empty."""
        ...


class Attachments(Protocol):
    """How a turn gets at files: the app hands it what the rooms below can read."""

    def open(self, caller: Caller, file_id: str, /) -> Awaitable[Attachment]:
        """A file with its bytes. Raises NotFound, TooLarge."""
        ...

    def text(self, caller: Caller, attachment: Attachment, /) -> Awaitable[str]:
        """What a file says. Raises InvalidRequest for one that cannot be read."""
        ...


class VectorStores(Protocol):
    """How a turn searches vector stores: the app hands it the retrieval room's service."""

    def check_search(
        self,
        caller: Caller,
        store_ids: Sequence[str],
        *,
        filters: dict[str, Any] | None = None,
        ranking: dict[str, Any] | None = None,
    ) -> Awaitable[None]:
        """Raises what `search` would: NotFound, or InvalidRequest for options and for a store that has expired."""
        ...

    def search(
        self,
        caller: Caller,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        limit: int,
        filters: dict[str, Any] | None = None,
        ranking: dict[str, Any] | None = None,
    ) -> Awaitable[list[Passage]]: ...
