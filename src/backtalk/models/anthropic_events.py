"""The events of an Anthropic Messages stream as deltas. Tolerant: fields may lack, be null or be unknown."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.core.errors import BacktalkError, InvalidRequest, RateLimited, UpstreamError
from backtalk.core.ids import new_id
from backtalk.domain.model import (
    Delta,
    Finish,
    ReasoningDelta,
    SealedReasoning,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.models.passages import Marks, Source
from backtalk.models.refusals import TOO_LONG
from backtalk.models.retry import Again, may_pass

SEALED = "anthropic:"
"""Begins `encrypted_content` that holds the signature of thinking whose text stands beside it."""
REDACTED = "anthropic-redacted:"
"""Begins `encrypted_content` that holds thinking which nobody but the server can read."""


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: Any = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None


class _Start(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct, gc=False):
    """An event, or the whole message where the server does not stream."""

    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Start | None = None
    usage: _Usage | None = None
    error: Any = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Kind(msgspec.Struct):
    type: str = ""


_decode = msgspec.json.Decoder(_Event, strict=False).decode
_decode_kind = msgspec.json.Decoder(_Kind, strict=False).decode
_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "message",
        "error",
    }
)
_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_TIERS = {"standard": "default", "priority": "priority"}
_STATUSES = {"overloaded_error": 503, "timeout_error": 504, "api_error": 502}
_INVALID = ("invalid_request_error", "request_too_large")
_UNREADABLE = "sent an event that cannot be read ({})"


class AnthropicDeltas:
    """Turns the data of events into deltas, and knows how the stream stands.

    `server` names the model server in errors. `sources` are the files behind the numbers that the prompt gave to its
    passages: where the text says `[2]`, a citation of the second follows.
    """

    def __init__(self, server: str, sources: Sequence[Source] = ()) -> None:
        self.done = False
        self.failure: BacktalkError | None = None
        self._server = server
        self._reason: str | None = None
        self._stop_sequence: str | None = None
        self._usage: _Usage | None = None
        self._calls: dict[int, _Call] = {}  # by the index of their block
        self._signature = ""
        self._begun = False
        self._marks = Marks(sources) if sources else None

    @property
    def complete(self) -> bool:
        """Whether the model said that it is done, or the server that the stream is."""
        return self.done or self._reason is not None

    def feed(self, events: Sequence[bytes]) -> list[Delta]:
        """The deltas of what one network read brought. What came before a broken event is given, with `failure` set.

        Raises Again for an error that may pass, while nothing has been given.
        """
        out: list[Delta] = []
        try:
            for data in events:
                if data and not self.done:
                    self._event(data, out)
        except (BacktalkError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failure = error if isinstance(error, BacktalkError) else self._nonsense(_UNREADABLE.format(error))
            if not out:
                raise self._or_again(failure) from error
            self.failure = failure
        self._begun = self._begun or bool(out)
        return out

    def finish(self) -> Finish:
        """The end. Raises UpstreamError upstream_protocol_error when the stream ended before the model did."""
        if not self.complete:
            raise self._nonsense("ended its stream before the answer was complete")
        reason = _REASONS.get(self._reason or "", "stop")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        used = self._usage
        tier = _TIERS.get(used.service_tier or "") if used else None
        return Finish(reason, _counted(used) if used else None, tier, self._stop_sequence)

    def _event(self, data: bytes, out: list[Delta]) -> None:
        try:
            event = _decode(data)
        except msgspec.ValidationError:
            if _decode_kind(data).type in _EVENTS:
                raise
            return
        if event.delta and event.delta.text:
            self._text(event.delta.text, out)
        elif event.type == "content_block_delta":
            self._delta(event.index, event.delta or _Delta(), out)
        else:
            self._other(event, out)

    def _text(self, text: str, out: list[Delta]) -> None:
        out.append(TextDelta(text))
        if self._marks:
            out.extend(self._marks.citations(text))

    def _other(self, event: _Event, out: list[Delta]) -> None:
        match event.type:
            case "content_block_start":
                self._start(event.index, event.content_block or _Block(), out)
            case "content_block_stop":
                self._stop(event.index, out)
            case "message_start":
                self._count(event.message.usage if event.message else None)
            case "message_delta":
                self._count(event.usage)
                if event.delta:
                    self._ends(event.delta.stop_reason, event.delta.stop_sequence)
            case "message_stop":
                self.done = True
            case "message":
                self._whole(event, out)
            case "error":
                raise self._failed(event.error)

    def _whole(self, message: _Event, out: list[Delta]) -> None:
        for index, block in enumerate(message.content or ()):
            self._start(index, block, out)
            self._stop(index, out)
        self._count(message.usage)
        self._ends(message.stop_reason, message.stop_sequence)
        self.done = True

    def _start(self, index: int, block: _Block, out: list[Delta]) -> None:
        match block.type:
            case "text" if block.text:
                self._text(block.text, out)
            case "tool_use":
                call = self._calls[index] = _Call(len(self._calls), block.input)
                out.append(ToolCallDelta(call.number, "", block.id or new_id("call"), block.name or ""))
            case "thinking":
                self._signature = block.signature or ""
                if block.thinking:
                    out.append(ReasoningDelta(block.thinking))
            case "redacted_thinking" if block.data:
                out.append(SealedReasoning(REDACTED + block.data))

    def _delta(self, index: int, delta: _Delta, out: list[Delta]) -> None:
        if delta.thinking:
            out.append(ReasoningDelta(delta.thinking))
        elif delta.signature:
            self._signature += delta.signature
        elif delta.partial_json and (call := self._calls.get(index)):
            call.input = None
            out.append(ToolCallDelta(call.number, delta.partial_json))

    def _stop(self, index: int, out: list[Delta]) -> None:
        if self._signature:
            out.append(SealedReasoning(SEALED + self._signature))
            self._signature = ""
        if (call := self._calls.get(index)) and call.input is not None:
            out.append(ToolCallDelta(call.number, msgspec.json.encode(call.input).decode()))
            call.input = None

    def _ends(self, reason: str | None, sequence: str | None) -> None:
        self._reason = reason or self._reason
        self._stop_sequence = sequence or self._stop_sequence

    def _count(self, usage: _Usage | None) -> None:
        """Counts are of the whole so far: what is told later takes the place of what was told before."""
        if usage is None:
            return
        known = self._usage = self._usage or _Usage()
        for name in _Usage.__struct_fields__:
            if (value := getattr(usage, name)) is not None:
                setattr(known, name, value)

    def _failed(self, error: Any) -> BacktalkError:
        """The error for one that came inside the stream, after the status had said 200."""
        fields = error if isinstance(error, dict) else {"message": error}
        kind = str(fields.get("type"))
        said = str(fields.get("message") or "it gave no reason")
        if kind in _INVALID:
            return InvalidRequest(said, code="context_length_exceeded" if TOO_LONG.search(said) else None)
        if kind == "rate_limit_error":
            return RateLimited(f"{self._server} limits the rate of requests: {said}")
        return UpstreamError(f"{self._server} failed: {said}", status=_STATUSES.get(kind, 502))

    def _or_again(self, failure: BacktalkError) -> Exception:
        protocol = isinstance(failure, UpstreamError) and failure.reason == "upstream_protocol_error"
        return failure if self._begun or protocol or not may_pass(failure.status) else Again(failure)

    def _nonsense(self, what: str) -> UpstreamError:
        return UpstreamError(f"{self._server} {what}.", reason="upstream_protocol_error")


class _Call:
    """A call that is being made. `input` is what its start told, until the first piece of JSON comes."""

    def __init__(self, number: int, input: Any) -> None:  # noqa: A002  # the wire's name
        self.number = number
        self.input = {} if input is None else input


def _counted(usage: _Usage) -> Usage:
    """OpenAI counts what was cached among the input, Anthropic beside it."""
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    details = usage.output_tokens_details or _OutputDetails()
    return Usage(
        input_tokens=(usage.input_tokens or 0) + read + written,
        output_tokens=usage.output_tokens or 0,
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=details.thinking_tokens or 0,
    )
