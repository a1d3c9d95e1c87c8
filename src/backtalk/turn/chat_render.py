"""Events as Chat Completions: chunks of a stream, or one object. No I/O."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from backtalk.domain.events import Deltas, Ended, Event, ItemAdded
from backtalk.domain.items import Item
from backtalk.http.sse import Chunks
from backtalk.turn.render import Following, rendered
from backtalk.turn.response import State

_encode = msgspec.json.Encoder().encode
_FIELDS = {
    "output_text": "content",
    "refusal": "refusal",
    "reasoning_text": "reasoning_content",
    "reasoning_summary_text": "reasoning_content",
}


def completion_id(response_id: str) -> str:
    return "chatcmpl-" + response_id.removeprefix("resp_")


def chunk_stream(
    following: Following, head: dict[str, Any], final: Callable[[], Awaitable[State]], *, include_usage: bool
) -> Chunks:
    """`data:` frames, one chunk of bytes for each batch of events, then [DONE]."""
    return rendered(following, final, ChunkRenderer(head, include_usage=include_usage).frames)


class ChunkRenderer:
    """Turns events into chunks. Everything that does not change from chunk to chunk is encoded once."""

    def __init__(self, head: dict[str, Any], *, include_usage: bool) -> None:
        fixed = {
            "id": completion_id(head["id"]),
            "object": "chat.completion.chunk",
            "created": head["created_at"],
            "model": head["model"],
            "system_fingerprint": None,
        }
        self._start = b"data: " + _encode(fixed)[:-1] + b',"choices":[{"index":0,"delta":'
        usage = b',"usage":null' if include_usage else b""
        self._end = b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._fixed = fixed
        self._include_usage = include_usage
        self._calls: dict[int, int] = {}

    def frames(self, events: Sequence[Event], state: State) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is Deltas:
                self._deltas(event, out)
            elif isinstance(event, ItemAdded) and event.item["type"] == "function_call":
                out.append(self._chunk({"tool_calls": [self._call(event)]}))
            elif isinstance(event, Ended):
                out.append(self._finish(state))
            elif event.seq == 0:
                out.append(self._chunk({"role": "assistant", "content": "", "refusal": None}))
        return b"".join(out)

    def _deltas(self, event: Deltas, out: list[bytes]) -> None:
        if event.kind == "function_call_arguments":
            begin = b'{"tool_calls":[{"index":%d,"function":{"arguments":' % self._calls[event.index]
            end = b"}}]}"
        else:
            begin, end = b'{"%b":' % _FIELDS[event.kind].encode(), b"}"
        for delta in event.deltas:
            out += (self._start, begin, _encode(delta), end, self._end)

    def _call(self, event: ItemAdded) -> dict[str, Any]:
        number = self._calls[event.index] = len(self._calls)
        function = {"name": event.item["name"], "arguments": ""}
        return {"index": number, "id": event.item["call_id"], "type": "function", "function": function}

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return self._start + _encode(delta) + self._end

    def _finish(self, state: State) -> bytes:
        if state.status == "failed":
            error = {"message": (state.error or {}).get("message"), "type": "server_error", "param": None}
            return b"data: " + _encode({"error": {**error, "code": (state.error or {}).get("code")}}) + b"\n\n"
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason(state)}
        last = {**self._fixed, "choices": [choice]} | ({"usage": None} if self._include_usage else {})
        out = b"data: " + _encode(last) + b"\n\n"
        if self._include_usage:
            out += b"data: " + _encode({**self._fixed, "choices": [], "usage": usage(state)}) + b"\n\n"
        return out


def finish_reason(state: State) -> str:
    if state.incomplete_details:
        return "length" if state.incomplete_details["reason"] == "max_output_tokens" else "content_filter"
    calls = any(item["type"] == "function_call" for item in state.output)
    return "tool_calls" if calls else "stop"


def usage(state: State) -> dict[str, Any]:
    """Usage in Chat Completions' words."""
    found = state.usage or {}
    return {
        "prompt_tokens": found.get("input_tokens", 0),
        "completion_tokens": found.get("output_tokens", 0),
        "total_tokens": found.get("total_tokens", 0),
        "prompt_tokens_details": {"cached_tokens": found.get("input_tokens_details", {}).get("cached_tokens", 0)},
        "completion_tokens_details": {
            "reasoning_tokens": found.get("output_tokens_details", {}).get("reasoning_tokens", 0)
        },
    }


def completion(head: dict[str, Any], state: State) -> dict[str, Any]:
    """The whole answer as one object."""
    choice = {"index": 0, "message": _message(state.output), "logprobs": None, "finish_reason": finish_reason(state)}
    return {
        "id": completion_id(head["id"]),
        "object": "chat.completion",
        "created": head["created_at"],
        "model": head["model"],
        "choices": [choice],
        "usage": usage(state),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _message(output: Sequence[Item]) -> dict[str, Any]:
    talk = [item for item in output if item["type"] in ("message", "reasoning")]
    parts = [part for item in talk for part in [*item.get("summary", ()), *item["content"]]]
    content: str | None = "".join(part["text"] for part in parts if part["type"] == "output_text")
    reasoning = "".join(part["text"] for part in parts if part["type"] in ("summary_text", "reasoning_text"))
    refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
    calls = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in output
        if item["type"] == "function_call"
    ]
    if not content and (calls or refusal):
        content = None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal or None, "annotations": []}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message
