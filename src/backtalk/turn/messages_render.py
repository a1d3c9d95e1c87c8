"""Events as Anthropic's Messages: a stream of blocks, or one message object. No I/O."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from backtalk.domain.events import Deltas, Ended, Event, ItemAdded, ItemDone, PartAdded, PartDone
from backtalk.domain.items import Item, Part
from backtalk.http.sse import Chunks
from backtalk.turn.render import Following, rendered
from backtalk.turn.response import State
from backtalk.turn.runner import SERVER_RESTARTED

_encode = msgspec.json.Encoder().encode
_DELTAS = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
_END = b"}}\n\n"
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_BETWEEN = "\n\n"
"""Between the parts of one thought, which are one block."""
_ERRORS = {"upstream_rate_limit": "rate_limit_error", SERVER_RESTARTED: "overloaded_error"}
StopSequence = Callable[[], str | None]
"""Tells which of the client's stop sequences the model came upon, once it is done."""


def message_id(response_id: str) -> str:
    return "msg_" + response_id.removeprefix("resp_")


def message_stream(
    following: Following,
    head: dict[str, Any],
    final: Callable[[], Awaitable[State]],
    *,
    estimated: int,
    stopped_by: StopSequence,
) -> Chunks:
    """Frames, one chunk of bytes for each batch of events. `estimated` are the prompt's tokens, as told at the start."""
    renderer = MessageRenderer(head, estimated=estimated, stopped_by=stopped_by)
    return rendered(following, final, renderer.frames, end=b"")


class _Block(msgspec.Struct, frozen=True):
    """The block that is open. `begin` is what stands before each of its deltas."""

    number: int
    begin: bytes


class MessageRenderer:
    """Turns events into Anthropic's. Everything that does not change from delta to delta is encoded once for a block."""

    def __init__(self, head: dict[str, Any], *, estimated: int, stopped_by: StopSequence = lambda: None) -> None:
        self._head = head
        self._estimated = estimated
        self._stopped_by = stopped_by
        self._out: list[bytes] = []
        self._count = 0
        self._block: _Block | None = None

    def frames(self, events: Sequence[Event], state: State) -> bytes:
        """`state` is the final one, needed where the events hold the end."""
        self._out = []
        for event in events:
            if type(event) is Deltas:
                self._deltas(event)
            elif isinstance(event, PartAdded):
                self._begin_part(event)
            elif isinstance(event, ItemAdded) and event.item["type"] == "function_call":
                self._begin({**_tool_use(event.item), "input": {}})
            elif isinstance(event, PartDone) and event.part["type"] in ("output_text", "refusal"):
                self._finish()
            elif isinstance(event, ItemDone):
                self._finish_item(event)
            elif isinstance(event, Ended):
                self._end(state)
            elif event.seq == 0:
                self._start()
        return b"".join(self._out)

    # ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, block: dict[str, Any]) -> None:
        number, self._count = self._count, self._count + 1
        begin = b""
        if names := _DELTAS.get(block["type"]):
            begin = (
                b"event: content_block_delta\ndata: "
                b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":' % (number, *names)
            )
        self._block = _Block(number, begin)
        self._out.append(_frame("content_block_start", index=number, content_block=block))

    def _deltas(self, event: Deltas) -> None:
        if self._block:
            begin = self._block.begin
            for delta in event.deltas:
                self._out += (begin, _encode(delta), _END)

    def _begin_part(self, event: PartAdded) -> None:
        if event.part["type"] in ("output_text", "refusal"):
            self._begin({"type": "text", "text": ""})
        elif self._block is None:
            self._begin({"type": "thinking", "thinking": "", "signature": ""})
        else:
            self._out.append(self._block.begin + _encode(_BETWEEN) + _END)

    def _finish_item(self, event: ItemDone) -> None:
        sealed = event.item.get("encrypted_content") if event.item["type"] == "reasoning" else None
        if sealed and self._block:
            signature = {"type": "signature_delta", "signature": sealed}
            self._out.append(_frame("content_block_delta", index=self._block.number, delta=signature))
        elif sealed:
            self._begin({"type": "redacted_thinking", "data": sealed})
        self._finish()

    def _finish(self) -> None:
        if self._block:
            self._out.append(_frame("content_block_stop", index=self._block.number))
            self._block = None

    # ── the message ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        message = _message(self._head, [], None, None, _usage({"input_tokens": self._estimated}))
        self._out += (_frame("message_start", message=message), _PING)

    def _end(self, state: State) -> None:
        if state.status == "failed":
            self._out.append(_frame("error", error=_error(state)))
            return
        reason, sequence = _stop(state, self._stopped_by())
        usage = {name: value for name, value in _usage(state.usage or {}).items() if name in _CUMULATIVE}
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        self._out += (_frame("message_delta", delta=delta, usage=usage), _STOP)


def _frame(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def _error(state: State) -> dict[str, Any]:
    error = state.error or {}
    kind = "invalid_request_error" if error.get("code") == "invalid_prompt" else "api_error"
    return {"type": _ERRORS.get(state.reason or "", kind), "message": error.get("message", "The response failed.")}


def message(head: dict[str, Any], state: State, stop_sequence: str | None) -> dict[str, Any]:
    """The whole answer as one object."""
    content = [block for item in state.output for block in _blocks(item)]
    return _message(head, content, *_stop(state, stop_sequence), _usage(state.usage or {}, state.service_tier))


def _message(
    head: dict[str, Any],
    content: list[dict[str, Any]],
    reason: str | None,
    sequence: str | None,
    usage: dict[str, Any],
) -> dict[str, Any]:
    return {
        "id": message_id(head["id"]),
        "type": "message",
        "role": "assistant",
        "model": head["model"],
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage,
    }


def _stop(state: State, sequence: str | None) -> tuple[str, str | None]:
    """Why the model stopped, and the stop sequence that it came upon if that was why."""
    if state.incomplete_details:
        return "max_tokens" if state.incomplete_details["reason"] == "max_output_tokens" else "refusal", None
    if any(part["type"] == "refusal" for item in state.output for part in item.get("content", ())):
        return "refusal", None
    if any(item["type"] == "function_call" for item in state.output):
        return "tool_use", None
    return ("stop_sequence", sequence) if sequence is not None else ("end_turn", None)


_CUMULATIVE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
)
"""What `message_delta` tells of usage."""


def _usage(found: dict[str, Any], tier: str | None = None) -> dict[str, Any]:
    """Usage in Anthropic's words: what came from a cache or went into one is counted apart."""
    details = found.get("input_tokens_details", {})
    read, made = details.get("cached_tokens", 0), details.get("cache_write_tokens", 0)
    thought = found.get("output_tokens_details", {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": max(0, found.get("input_tokens", 0) - read - made),
        "cache_creation_input_tokens": made,
        "cache_read_input_tokens": read,
        "output_tokens": found.get("output_tokens", 0),
        "output_tokens_details": {"thinking_tokens": thought},
        "service_tier": "priority" if tier == "priority" else "standard",
    }


def _blocks(item: Item) -> Iterator[dict[str, Any]]:
    if item["type"] == "message":
        yield from map(_text, item["content"])
    elif item["type"] == "function_call":
        yield _tool_use(item)
    elif item["type"] == "reasoning":
        text = _BETWEEN.join(part["text"] for part in [*item["summary"], *item["content"]])
        sealed = item.get("encrypted_content")
        if text:
            yield {"type": "thinking", "thinking": text, "signature": sealed or ""}
        elif sealed:
            yield {"type": "redacted_thinking", "data": sealed}


def _text(part: Part) -> dict[str, Any]:
    return {"type": "text", "text": part["refusal"] if part["type"] == "refusal" else part["text"]}


def _tool_use(item: Item) -> dict[str, Any]:
    """A call. What a model wrote instead of an object is handed on as what it is, so that no tool runs without input."""
    written = item["arguments"]
    given = _object(written)
    if given is None:
        given = {"INVALID_JSON": written} if written.strip() else {}
    return {"type": "tool_use", "id": item["call_id"], "name": item["name"], "input": given}


def _object(written: str) -> dict[str, Any] | None:
    """The object that a call's arguments are, if they are one."""
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
