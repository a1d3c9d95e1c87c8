"""What goes into a model and what comes out of it."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from backtalk.domain.items import Item


class Usage(msgspec.Struct):
    """Tokens that one response cost, as the model server counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "Usage") -> None:
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens

    def subtract(self, other: "Usage") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) - getattr(other, name))


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. `parameters` is a JSON schema of an object; `cache_control` is Anthropic's mark."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class Prompt(msgspec.Struct, kw_only=True):
    """Everything that one model call sees.

    `items` are in talk order and may hold `file_search_call` items with `results` (a list of
    `{file_id, filename, score, text, attributes}`): retrieved text, data and never instructions.
    `tool_choice` is "auto" | "none" | "required" | the name of one function; `allowed_tools` are the names of those that
    may be called, where that is not all.
    `reasoning` items among them may hold thinking of another model's; `encrypted_content` begins with the name of who can
    read it, and is handed back to none but them.
    `text_format` is OpenAI's `text.format` object. `reasoning_tokens` are what the model may spend on thinking. `logprobs` is how many alternatives of each token are wanted, 0 for
    the token alone. `None` leaves a setting to the model server.
    """

    model: str
    items: list[Item]
    instructions: str | None = None
    tools: list[Tool] = []
    tool_choice: str = "auto"
    allowed_tools: list[str] | None = None
    parallel_tool_calls: bool = True
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
    user: str | None = None
    request_id: str | None = None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the answer's text."""

    text: str


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a refusal's text."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the model's thinking, where it shows any."""

    text: str


class ScoredTextDelta(TextDelta, frozen=True, gc=False):
    """The same with the tokens' log probabilities: `{token, bytes, logprob, top_logprobs: [{token, bytes, logprob}]}`."""

    logprobs: tuple[dict[str, Any], ...] = ()


class SummaryDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a summary of the model's thinking; another `part` begins a new one."""

    text: str
    part: int = 0


class SealedReasoning(msgspec.Struct, frozen=True):
    """Thinking that only its model server can read: kept to be handed back. `data` begins with the adapter's mark."""

    data: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """Part of a tool call. The first one of an `index` carries `call_id` and `name`; `arguments` are appended."""

    index: int
    arguments: str = ""
    call_id: str | None = None
    name: str | None = None


class CitationDelta(msgspec.Struct, frozen=True, gc=False):
    """The text so far rests on this file; the citation stands where the text ends now."""

    file_id: str
    filename: str


class Finish(msgspec.Struct, frozen=True):
    """The model is done. Reasons: stop | length | tool_calls | content_filter. Always the last delta of a stream.

    `service_tier` is the one that the server says it has used, `stop_sequence` the one that the model came upon,
    `model` the id of the one that answered where an alias stands for several.
    """

    reason: str = "stop"
    usage: Usage | None = None
    service_tier: str | None = None
    stop_sequence: str | None = None
    model: str | None = None


Delta: TypeAlias = (
    TextDelta | RefusalDelta | ReasoningDelta | SummaryDelta | SealedReasoning | ToolCallDelta | CitationDelta | Finish
)


class Live(Sequence[Delta]):
    """What a model may yield between its deltas: a way to be told of the next ones as they come.

    Who does not know it sees a sequence with nothing in it, and reads on.
    """

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    async def feed(self, take: Callable[[Sequence[Delta]], bool]) -> None:
        """Hands on each sequence of deltas in the moment in which it arrives: no task has to wake for it.

        Returns when `take` has returned False, or when what comes next is to be had from the model itself: its end, or
        an error. Raises what `take` raises.
        """
        raise NotImplementedError


class Model(Protocol):
    """A model as a turn sees it. Adapters live in `models/`; strangers' own need nothing but this method.

    One that keeps to `Prompt.text_format` by itself may say so with an attribute `structured = True`: its answer is
    streamed as it comes, and checked at its end. From any other it is asked for in words, and shown when it fits.
    """

    def stream(self, prompt: Prompt) -> AsyncIterator[Sequence[Delta]]:
        """Answers `prompt`: one sequence of deltas per network read, the last of them a `Finish`. A `Live` may come in
        between.

        Raises `core.errors.UpstreamError`, `RateLimited` or `InvalidRequest`; `FormatRefused`, before the first delta,
        when it cannot keep to the prompt's `text_format`. Closing the iterator closes the
        connection to the model server.
        """
        ...


class ModelCard(msgspec.Struct, frozen=True):
    """A model that can be called, as `GET /v1/models` lists it.

    `state` is that of its server: unknown | up | failing | down. `stands_for` are the ids behind an alias.
    """

    id: str
    owned_by: str
    created: int = 0
    state: str | None = None
    stands_for: tuple[str, ...] = ()
