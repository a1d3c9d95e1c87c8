"""The events of a Responses stream as deltas. Tolerant: fields may lack or be null, events be unknown or out of order.

What servers tell piece by piece they tell again as a whole at the end of a part, of an item and of the response. A
whole is taken only where no piece came; few servers that send no pieces exist, but their text must not be lost.
"""

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
from backtalk.models.chat_chunks import scores
from backtalk.models.passages import Marks, Source

_Kind: TypeAlias = type[TextDelta | RefusalDelta | ReasoningDelta | SummaryDelta | SealedReasoning]
_NOTHING = msgspec.Raw(b"null")


class _Event(msgspec.Struct, gc=False):
    """An event; or a response, from a server that does not stream."""

    type: str | None = None
    delta: Any = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    call_id: str | None = None
    logprobs: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    item: Any = None
    response: msgspec.Raw = _NOTHING  # the first ones repeat the whole request, which nobody reads
    output: msgspec.Raw = _NOTHING
    error: Any = None
    code: Any = None
    message: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    output: Any = None
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: Any = None
    service_tier: str | None = None


class _Call(msgspec.Struct):
    """A call that is being written. `held` are arguments that came before its name."""

    number: int
    call_id: str = ""
    held: str = ""
    heard: bool = False


_decode = msgspec.json.Decoder(_Event, strict=False).decode
_decode_response = msgspec.json.Decoder(_Response | None, strict=False).decode
_PIECES: dict[str | None, _Kind] = {
    "response.output_text.delta": TextDelta,
    "response.refusal.delta": RefusalDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.reasoning.delta": ReasoningDelta,
    "response.reasoning_summary_text.delta": SummaryDelta,
    "response.reasoning_summary.delta": SummaryDelta,
}
_WHOLES = {str(name).removesuffix("delta") + "done": kind for name, kind in _PIECES.items()}
_ENDS = ("completed", "incomplete", "failed", "cancelled")
_END_EVENTS = frozenset({*(f"response.{end}" for end in _ENDS), "response.done"})
_UNREADABLE = "sent an event that cannot be read ({})"


class ResponsesDeltas:
    """Turns the data of events into deltas, and knows how the stream stands.

    `server` names the model server in errors. `sources` are the files behind the numbers that the prompt gave to its
    passages: where the text says `[2]`, a citation of the second follows. `mark` is put before sealed thinking.
    """

    def __init__(self, server: str, sources: Sequence[Source] = (), *, mark: str = "") -> None:
        self.done = False
        self.failure: BacktalkError | None = None
        self._server = server
        self._mark = mark
        self._marks = Marks(sources) if sources else None
        self._finish = Finish()
        self._said: set[tuple[Any, ...]] = set()  # kind and index of pieces; kind, index and part of wholes
        self._summaries: dict[tuple[int | None, int], int] = {}
        self._indexes: dict[str, int] = {}  # of items, by their ids
        self._calls: dict[int, _Call] = {}  # the last one at each index
        self._named: dict[str, _Call] = {}  # by call_id

    @property
    def complete(self) -> bool:
        """Whether the model said that it is done, or the server that the stream is."""
        return self.done

    def feed(self, events: Sequence[bytes]) -> list[Delta]:
        """The deltas of what one network read brought. What came before a broken event is given, with `failure` set."""
        out: list[Delta] = []
        try:
            for data in events:
                if data == b"[DONE]":
                    self.done = True
                elif data:
                    self._event(_decode(data), data, out)
                if self.done:
                    break
        except (BacktalkError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failure = error if isinstance(error, BacktalkError) else self._nonsense(_UNREADABLE.format(error))
            if not out:
                raise failure from error
            self.failure = failure
        return out

    def finish(self) -> Finish:
        """The end. Raises UpstreamError upstream_protocol_error when the stream ended before the response did."""
        if not self.done:
            raise self._nonsense("ended its stream before the answer was complete")
        if self._named and self._finish.reason == "stop":
            return msgspec.structs.replace(self._finish, reason="tool_calls")
        return self._finish

    def _event(self, event: _Event, data: bytes, out: list[Delta]) -> None:
        name = event.type
        if kind := _PIECES.get(name):
            self._piece(kind, event, out)
        elif name == "response.function_call_arguments.delta":
            self._argue(self._call_of(event), event.delta, out)
        elif name == "error" or (name is None and event.error):
            raise self._failed(event.error or {"message": event.message, "code": event.code})
        elif name in _WHOLES:
            self._whole(_WHOLES[name], event, out)
        elif name == "response.function_call_arguments.done":
            self._argue_whole(self._call_of(event), event.arguments, out)
        elif name in ("response.output_item.added", "response.output_item.done"):
            if isinstance(event.item, dict):
                self._item(event.output_index, event.item, out, done=name.endswith("done"))
        elif name in _END_EVENTS:
            self._end(name.removeprefix("response."), _decode_response(event.response), out)
        elif name is None and event.output != _NOTHING:
            self._end("completed", _decode_response(data), out)

    # ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _piece(self, kind: _Kind, event: _Event, out: list[Delta]) -> None:
        text = event.delta if isinstance(event.delta, str) else _text_in(event.delta)
        if text:
            index = self._index(event)
            self._said.add((kind, index))
            self._say(kind, text, (index, event.summary_index or 0), event.logprobs, out)

    def _whole(self, kind: _Kind, event: _Event, out: list[Delta]) -> None:
        text = event.refusal if kind is RefusalDelta else event.text
        part = event.content_index or event.summary_index or 0
        self._tell(kind, text, (self._index(event), part), event.logprobs, out)

    def _tell(self, kind: _Kind, text: Any, place: tuple[int | None, int], logprobs: Any, out: list[Delta]) -> None:
        """A text as a whole, unless it was said before."""
        index, part = place
        if isinstance(text, str) and text and not self._is_said(kind, index, part):
            self._said.add((kind, None) if index is None else (kind, index, part))
            self._say(kind, text, place, logprobs, out)

    def _is_said(self, kind: _Kind, index: int | None, part: int) -> bool:
        """Where the place was not told with the pieces, or is not with the whole, the kind alone decides."""
        if index is None:
            return any(place[0] is kind for place in self._said)
        return not self._said.isdisjoint({(kind, None), (kind, index), (kind, index, part)})

    def _say(self, kind: _Kind, text: str, place: tuple[int | None, int], logprobs: Any, out: list[Delta]) -> None:
        if kind is TextDelta:
            scored = scores({"content": logprobs}) if logprobs else ()
            out.append(ScoredTextDelta(text, scored) if scored else TextDelta(text))
            if self._marks:
                out.extend(self._marks.citations(text))
        elif kind is SummaryDelta:  # numbered through: the first part of a second item is a new one, too
            out.append(SummaryDelta(text, self._summaries.setdefault(place, len(self._summaries))))
        else:
            out.append(kind(text))

    def _index(self, event: _Event) -> int | None:
        """The index counts first: some servers give every event an id of its own."""
        return self._indexes.get(event.item_id or "") if event.output_index is None else event.output_index

    # ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _item(self, index: int | None, item: dict[str, Any], out: list[Delta], *, done: bool) -> None:
        known = item.get("id")
        if index is None:
            index = self._indexes.get(str(known))
        elif known:
            self._indexes[str(known)] = index
        if item.get("type") == "function_call":
            call = self._begin(index, item, out)
            if call and done:
                self._argue_whole(call, item.get("arguments"), out)
        elif done:
            self._read(index, item, out)

    def _read(self, index: int | None, item: dict[str, Any], out: list[Delta]) -> None:
        """What a finished item says that was not said yet."""
        match item.get("type"):
            case "message":
                for number, part in enumerate(_parts(item.get("content"))):
                    self._tell(TextDelta, part.get("text"), (index, number), part.get("logprobs"), out)
                    self._tell(RefusalDelta, part.get("refusal"), (index, number), None, out)
            case "reasoning":
                for field, kind in (("summary", SummaryDelta), ("content", ReasoningDelta)):
                    for number, part in enumerate(_parts(item.get(field))):
                        self._tell(kind, part.get("text"), (index, number), None, out)
                if sealed := item.get("encrypted_content"):
                    self._tell(SealedReasoning, f"{self._mark}{sealed}", (index, 0), None, out)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, index: int | None, item: dict[str, Any], out: list[Delta]) -> _Call | None:
        """The call that an item tells of. Another `call_id` at the same index is another call."""
        call_id, name = str(item.get("call_id") or item.get("id") or ""), item.get("name")
        if call_id in self._named:
            return self._named[call_id]
        if index is None:
            index = next((at for at, call in self._calls.items() if not call.call_id), self._free())
        call = self._at(index)
        if not name or (call.call_id and not call_id):
            return call
        if call.call_id:
            call = self._calls[index] = _Call(self._free())
        call.call_id = call_id or new_id("call")
        self._named[call.call_id] = call
        self._indexes.setdefault(str(item.get("id")), index)
        out.append(ToolCallDelta(call.number, call.held, call_id=call.call_id, name=str(name)))
        return call

    def _call_of(self, event: _Event) -> _Call:
        """The call that an event belongs to; the last one, where it does not say."""
        if event.call_id in self._named:
            return self._named[event.call_id]
        index = self._index(event)
        return self._at(next(reversed(self._calls), 0) if index is None else index)

    def _at(self, index: int) -> _Call:
        if index not in self._calls:
            self._calls[index] = _Call(index)
        return self._calls[index]

    def _free(self) -> int:
        return max((call.number for call in (*self._calls.values(), *self._named.values())), default=-1) + 1

    def _argue(self, call: _Call, text: Any, out: list[Delta]) -> None:
        """More of a call's arguments."""
        if not text:
            return
        if not isinstance(text, str):
            text = msgspec.json.encode(text).decode()
        call.heard = True
        if call.call_id:
            out.append(ToolCallDelta(call.number, text))
        else:
            call.held += text

    def _argue_whole(self, call: _Call, arguments: Any, out: list[Delta]) -> None:
        if not call.heard:
            self._argue(call, arguments, out)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, name: str, response: _Response | None, out: list[Delta]) -> None:
        response = response or _Response()
        status = response.status if response.status in _ENDS else name
        if status in ("failed", "cancelled"):
            raise self._failed(response.error or {"message": f"the response was {status}"})
        self._read_rest(response.output, out)
        details = response.incomplete_details
        why = details.get("reason") if isinstance(details, dict) else None
        cut = "content_filter" if why == "content_filter" else "length"
        usage = _usage(response.usage) if response.usage else None
        self._finish = Finish(cut if status == "incomplete" else "stop", usage, response.service_tier)
        self.done = True

    def _read_rest(self, output: Any, out: list[Delta]) -> None:
        """What only the finished response tells. Its items may stand elsewhere: kinds of which anything came are known."""
        kinds = {place[0] for place in self._said}
        if kinds or self._named:
            kinds.add(SealedReasoning)  # too late: it would follow what came of it
        self._said.update((kind, None) for kind in kinds)
        for index, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict):
                self._item(index, item, out, done=True)

    def _failed(self, error: Any) -> BacktalkError:
        """The error for one that came inside the stream, after the status had said 200."""
        fields = error if isinstance(error, dict) else {"message": error}
        message = f"{self._server} failed: {fields.get('message') or 'it gave no reason'}"
        match fields.get("code") or fields.get("type"):
            case "rate_limit_exceeded" | 429:
                return RateLimited(message)
            case "context_length_exceeded" as code:
                return InvalidRequest(message, code=code)
        return UpstreamError(message)

    def _nonsense(self, what: str) -> UpstreamError:
        return UpstreamError(f"{self._server} {what}.", reason="upstream_protocol_error")


def _text_in(delta: Any) -> str:
    text = delta.get("text") if isinstance(delta, dict) else None
    return text if isinstance(text, str) else ""


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    """The parts of a content, which careless servers send as a string."""
    if isinstance(content, str):
        yield {"text": content}
    elif isinstance(content, list):
        yield from (part for part in content if isinstance(part, dict))


def _usage(usage: _Usage) -> Usage:
    given = usage.input_tokens_details or _InputDetails()
    made = usage.output_tokens_details or _OutputDetails()
    return Usage(
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cached_tokens=given.cached_tokens or 0,
        cache_write_tokens=given.cache_write_tokens or 0,
        reasoning_tokens=made.reasoning_tokens or 0,
    )
