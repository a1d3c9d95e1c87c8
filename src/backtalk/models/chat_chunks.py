"""The chunks of a Chat Completions stream as deltas. Tolerant: fields may lack, be null or be unknown."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import BacktalkError, InvalidRequest, RateLimited, UpstreamError
from backtalk.core.ids import new_id
from backtalk.domain.model import (
    Delta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.models.passages import Marks, Source
from backtalk.models.refusals import TOO_LONG


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Message | None = None
    message: _Message | None = None
    logprobs: Any = None
    finish_reason: str | None = None


class _Scored(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[_Scored] | None" = None


class _Logprobs(msgspec.Struct):
    content: list[_Scored] | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Groq(msgspec.Struct):
    """Where Groq tells what it used, and what went wrong."""

    usage: _Usage | None = None
    error: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    code: Any = None
    service_tier: Any = None
    x_groq: _Groq | None = None


_Scores: TypeAlias = tuple[dict[str, Any], ...]
_decode = msgspec.json.Decoder(_Chunk, strict=False).decode
_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
_INVALID = (400, 413, 422, "400", "413", "422", "invalid_request_error")
_UNREADABLE = "sent a chunk that cannot be read ({})"


class ChatDeltas:
    """Turns the data of events into deltas, and knows how the stream stands.

    `server` names the model server in errors. `sources` are the files behind the numbers that the prompt gave to its
    passages: where the text says `[2]`, a citation of the second follows.
    """

    def __init__(self, server: str, sources: Sequence[Source] = ()) -> None:
        self.done = False
        self.reason: str | None = None
        self._server = server
        self._usage: Usage | None = None
        self.failure: BacktalkError | None = None
        self._tier: str | None = None
        self._calls: dict[int, str] = {}  # ids by our indexes
        self._nameless: dict[
            int, tuple[str | None, str]
        ] = {}  # ids and arguments of calls whose names did not come yet
        self._moved: dict[int, int] = {}  # ours by the server's, where it has used one twice
        self._marks = Marks(sources) if sources else None

    @property
    def complete(self) -> bool:
        """Whether the model said that it is done, or the server that the stream is."""
        return self.done or self.reason is not None

    def feed(self, events: Sequence[bytes]) -> list[Delta]:
        """The deltas of what one network read brought. What came before a broken chunk is given, with `failure` set."""
        out: list[Delta] = []
        try:
            for data in events:
                if data == b"[DONE]":
                    self.done = True
                    break
                if data:
                    self._chunk(_decode(data), out)
        except (BacktalkError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failure = error if isinstance(error, BacktalkError) else self._nonsense(_UNREADABLE.format(error))
            if not out:
                raise failure from error
            self.failure = failure
        return out

    def finish(self) -> Finish:
        """The end. Raises UpstreamError upstream_protocol_error when the stream ended before the model did."""
        if not self.complete:
            raise self._nonsense("ended its stream before the answer was complete")
        reason = _REASONS.get((self.reason or "stop").lower(), "stop")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return Finish(reason, self._usage, self._tier)

    def _chunk(self, chunk: _Chunk, out: list[Delta]) -> None:
        if chunk.error or chunk.object == "error":
            raise self._failed(chunk.error or {"message": chunk.message, "code": chunk.code})
        if chunk.usage:
            self._usage = _usage(chunk.usage)
        if chunk.x_groq:
            self._groq(chunk.x_groq)
        if chunk.service_tier and isinstance(chunk.service_tier, str):
            self._tier = chunk.service_tier
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if message := choice.delta or choice.message:
                self._message(message, out, scores(choice.logprobs) if choice.logprobs else ())
            if choice.finish_reason == "error":
                raise self._failed(None)
            self.reason = choice.finish_reason or self.reason

    def _groq(self, told: _Groq) -> None:
        if told.error:
            raise self._failed(told.error)
        if told.usage:
            self._usage = _usage(told.usage)

    def _message(self, message: _Message, out: list[Delta], scores: _Scores) -> None:
        thought = message.reasoning_content or message.reasoning
        if message.reasoning_details and (details := list(_details(message.reasoning_details))):
            out.extend(details)  # the thought only repeats them
        elif thought and isinstance(thought, str):
            out.append(ReasoningDelta(thought))
        if content := message.content:
            if isinstance(content, str):
                self._text(content, out, scores)
            else:
                self._parts(content, out)
        if message.refusal:
            out.append(RefusalDelta(message.refusal))
        for call in message.tool_calls or ():
            self._call(call, out)

    def _text(self, text: str, out: list[Delta], scores: _Scores = ()) -> None:
        out.append(ScoredTextDelta(text, scores) if scores else TextDelta(text))
        if self._marks:
            out.extend(self._marks.citations(text))

    def _parts(self, parts: list[Any], out: list[Delta]) -> None:
        """Content as a list of parts, as Mistral sends it when the model thinks."""
        for part in parts:
            match part:
                case {"text": str(text)}:
                    self._text(text, out)
                case {"thinking": [*thoughts]}:
                    out.extend(ReasoningDelta(t["text"]) for t in thoughts if isinstance(t, dict) and t.get("text"))

    def _call(self, call: _ToolCall, out: list[Delta]) -> None:
        """More of a call. What comes before its name is kept until that comes."""
        function = call.function or _Function()
        index = self._index(call)
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        if index in self._calls:
            out.append(ToolCallDelta(index, arguments))
            return
        call_id, before = self._nameless.pop(index, (None, ""))
        call_id, arguments = call.id or call_id, before + arguments
        if not function.name:
            self._nameless[index] = call_id, arguments
            return
        self._calls[index] = call_id or new_id("call")
        out.append(ToolCallDelta(index, arguments, call_id=self._calls[index], name=function.name))

    def _index(self, call: _ToolCall) -> int:
        """Servers that send whole calls leave the index out or repeat it: another id is another call, and without ids
        another whole one."""
        index = (
            max([*self._calls, *self._nameless], default=0)
            if call.index is None
            else self._moved.get(call.index, call.index)
        )
        known, function = self._calls.get(index), call.function
        if known is None or not function or not function.name:
            return index
        if not (call.id != known if call.id else _is_whole(function.arguments)):
            return index
        free = max(self._calls) + 1
        if call.index is not None:
            self._moved[call.index] = free
        return free

    def _failed(self, error: Any) -> BacktalkError:
        """The error for one that came inside the stream, after the status had said 200."""
        fields = error if isinstance(error, dict) else {"message": error}
        message = f"{self._server} failed: {fields.get('message') or 'it gave no reason'}"
        match fields.get("code"):
            case "rate_limit_exceeded" | 429 | "429":
                return RateLimited(message)
            case code if code == "context_length_exceeded" or (code in _INVALID and TOO_LONG.search(message)):
                return InvalidRequest(message, code="context_length_exceeded")
        return UpstreamError(message)

    def _nonsense(self, what: str) -> UpstreamError:
        return UpstreamError(f"{self._server} {what}.", reason="upstream_protocol_error")


def _details(details: Any) -> Iterator[Delta]:
    """OpenRouter's thinking: readable, in summary, or sealed."""
    for detail in details if isinstance(details, list) else ():
        match detail:
            case {"type": "reasoning.summary", "summary": str(text)} if text:
                index = detail.get("index")
                yield SummaryDelta(text, index if isinstance(index, int) else 0)
            case {"type": "reasoning.text", "text": str(text)} if text:
                yield ReasoningDelta(text)
            case {"type": "reasoning.encrypted", "data": str(data)} if data:
                yield SealedReasoning(data)


def _is_whole(arguments: str | dict[str, Any] | None) -> bool:
    """Whether these are all arguments of a call, and no piece of them."""
    if not isinstance(arguments, str):
        return arguments is not None
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def scores(logprobs: Any) -> _Scores:
    """The tokens' log probabilities, if they are told in OpenAI's way."""
    try:
        scored = msgspec.convert(logprobs, _Logprobs).content or ()
    except msgspec.ValidationError:
        return ()
    return tuple(_score(one) | {"top_logprobs": list(map(_score, one.top_logprobs or ()))} for one in scored)


def _score(one: _Scored) -> dict[str, Any]:
    given = list(one.token.encode()) if one.bytes is None else one.bytes
    return {"token": one.token, "bytes": given, "logprob": one.logprob}


def _usage(usage: _Usage) -> Usage:
    given = usage.prompt_tokens_details or _InputDetails()
    made = usage.completion_tokens_details or _OutputDetails()
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=given.cached_tokens or usage.prompt_cache_hit_tokens or 0,
        cache_write_tokens=given.cache_write_tokens or 0,
        reasoning_tokens=made.reasoning_tokens or 0,
    )
