"""Events as Chat Completions: chunks of a stream, or one object. No I/O."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from backtalk.domain.events import Deltas, Ended, Event, ItemAdded
from backtalk.domain.items import CLIENT_CALLS, Item
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
_ARGUMENTS = {
    "function_call_arguments": b'"function":{"arguments":',
    "custom_tool_call_input": b'"custom":{"input":',
}


def completion_id(response_id: str) -> str:
    return "chatcmpl-" + response_id.removeprefix("resp_")


def response_id(completion_id: str) -> str:
    """The id of the response that a stored completion is kept as."""
    return "resp_" + completion_id.removeprefix("chatcmpl-")


def chunk_stream(
    following: Following, head: dict[str, Any], final: Callable[[], Awaitable[State]], *, include_usage: bool
) -> Chunks:
    """`data:` frames, one chunk of bytes for each batch of events, then [DONE]."""
    renderer = ChunkRenderer(head, include_usage=include_usage)

    def frames(events: Sequence[Event], state: State) -> bytes:
        data = renderer.frames(events, state)
        return data + renderer.usage([state]) if type(events[-1]) is Ended else data

    return rendered(following, final, frames)


class ChunkRenderer:
    """Turns the events of one choice into chunks. What does not change from chunk to chunk is encoded once.

    `head` is that of the first choice, which all share. `service_tier` is told at the end, when it is known.
    """

    def __init__(self, head: dict[str, Any], *, include_usage: bool, index: int = 0) -> None:
        self._fixed = {
            "id": completion_id(head["id"]),
            "object": "chat.completion.chunk",
            "created": head["created_at"],
            "model": head["model"],
            "system_fingerprint": None,
        }
        self._index = index
        self._start = b'data: %b,"choices":[{"index":%d,"delta":' % (_encode(self._fixed)[:-1], index)
        usage = b',"usage":null' if include_usage else b""
        self._close = b',"finish_reason":null}]' + usage + b"}\n\n"
        self._end = b',"logprobs":null' + self._close
        self._include_usage = include_usage
        self._calls: dict[int, int] = {}

    def frames(self, events: Sequence[Event], state: State) -> bytes:
        """`state` is the final one, needed where the events hold the end."""
        out: list[bytes] = []
        for event in events:
            if type(event) is Deltas:
                self._deltas(event, out)
            elif isinstance(event, ItemAdded) and event.item["type"] in CLIENT_CALLS:
                out.append(self._chunk({"tool_calls": [self._call(event)]}))
            elif isinstance(event, Ended):
                out.append(self._finish(state))
            elif event.seq == 0:
                out.append(self._chunk({"role": "assistant", "content": "", "refusal": None}))
        return b"".join(out)

    def usage(self, states: Sequence[State]) -> bytes:
        """The last chunk, of what all choices cost, if it was asked for."""
        if not self._include_usage or any(state.status == "failed" for state in states):
            return b""
        return b"data: " + _encode({**self._fixed, "choices": [], "usage": usage(states)}) + b"\n\n"

    def _deltas(self, event: Deltas, out: list[bytes]) -> None:
        if call := _ARGUMENTS.get(event.kind):
            begin = b'{"tool_calls":[{"index":%d,%b' % (self._calls[event.index], call)
            end = b"}}]}"
        else:
            begin, end = b'{"%b":' % _FIELDS[event.kind].encode(), b"}"
        for delta in event.deltas:
            out += (self._start, begin, _encode(delta), end, self._end)
        if event.logprobs:
            out[-1 - 5 * (len(event.deltas) - 1) :: 5] = [
                b',"logprobs":%b%b' % (_encode({"content": tokens, "refusal": None}), self._close)
                for tokens in event.logprobs
            ]

    def _call(self, event: ItemAdded) -> dict[str, Any]:
        number = self._calls[event.index] = len(self._calls)
        return {"index": number, **_tool_call(event.item)}

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return self._start + _encode(delta) + self._end

    def _finish(self, state: State) -> bytes:
        if state.status == "failed":
            error = {"message": (state.error or {}).get("message"), "type": "server_error", "param": None}
            return b"data: " + _encode({"error": {**error, "code": (state.error or {}).get("code")}}) + b"\n\n"
        choice = {"index": self._index, "delta": {}, "logprobs": None, "finish_reason": finish_reason(state)}
        last = {**self._fixed, "service_tier": _tier(state), "choices": [choice]}
        return b"data: " + _encode(last | ({"usage": None} if self._include_usage else {})) + b"\n\n"


def finish_reason(state: State) -> str:
    if state.incomplete_details:
        return "length" if state.incomplete_details["reason"] == "max_output_tokens" else "content_filter"
    calls = any(item["type"] in CLIENT_CALLS for item in state.output)
    return "tool_calls" if calls else "stop"


def usage(states: Sequence[State]) -> dict[str, Any]:
    """Usage in Chat Completions' words: of several choices the prompt counts once."""
    first = states[0].usage or {}
    said = [state.usage or {} for state in states]
    given, written = first.get("input_tokens", 0), sum(one.get("output_tokens", 0) for one in said)
    thought = sum(one.get("output_tokens_details", {}).get("reasoning_tokens", 0) for one in said)
    details = first.get("input_tokens_details", {})
    return {
        "prompt_tokens": given,
        "completion_tokens": written,
        "total_tokens": given + written,
        "prompt_tokens_details": {
            "cached_tokens": details.get("cached_tokens", 0),
            "cache_write_tokens": details.get("cache_write_tokens", 0),
        },
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def completion(head: dict[str, Any], states: Sequence[State]) -> dict[str, Any]:
    """The whole answer as one object, a choice for each state."""
    return {
        "id": completion_id(head["id"]),
        "object": "chat.completion",
        "created": head["created_at"],
        "model": head["model"],
        "choices": [_choice(i, state) for i, state in enumerate(states)],
        "usage": usage(states),
        "service_tier": _tier(states[0]),
        "system_fingerprint": None,
    }


def stored_completion(head: dict[str, Any], states: Sequence[State]) -> dict[str, Any]:
    """A stored completion: the answer, and what of the request is kept with it."""
    kept = {name: head[name] for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "metadata")}
    format_ = head["text"]["format"]
    return {
        **completion(head, states),
        **kept,
        "max_completion_tokens": head["max_output_tokens"],
        "response_format": None if format_["type"] == "text" else format_,
        "tools": head["tools"] or None,
        "tool_choice": head["tool_choice"] if head["tools"] else None,
        "input_user": head.get("user"),
        "request_id": None,
    }


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """A stored completion's input as messages: calls join the message that made them."""
    found: list[dict[str, Any]] = []
    for item in items:
        match item["type"]:
            case "message":
                found.append(_stored_message(item))
            case "function_call" | "custom_tool_call":
                if not found or found[-1]["role"] != "assistant":
                    found.append({"id": item["id"], "role": "assistant", "content": None, "content_parts": None})
                found[-1].setdefault("tool_calls", []).append(_tool_call(item, whole=True))
            case "function_call_output" | "custom_tool_call_output":
                content = item["output"] if isinstance(item["output"], str) else _text(item["output"])
                found.append({"id": item["id"], "role": "tool", "tool_call_id": item["call_id"], "content": content})
    return found


def _stored_message(item: Item) -> dict[str, Any]:
    texts = all("text" in part for part in item["content"])
    parts = None if texts else [part for part in map(_stored_part, item["content"]) if part]
    message = {"id": item["id"], "role": item["role"], "content": _text(item["content"]), "content_parts": parts}
    return message | ({"name": item["name"]} if item.get("name") else {})


def _stored_part(part: dict[str, Any]) -> dict[str, Any] | None:
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    if part.get("image_url"):
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail", "auto")}}
    return None


def _text(parts: Sequence[dict[str, Any]]) -> str:
    return "\n".join(part["text"] for part in parts if "text" in part)


def _choice(index: int, state: State) -> dict[str, Any]:
    tokens = [token for part in _parts(state.output) for token in part.get("logprobs") or ()]
    logprobs = {"content": tokens, "refusal": None} if tokens else None
    message = _message(state.output)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(state)}


def _parts(output: Sequence[Item]) -> list[dict[str, Any]]:
    talk = [item for item in output if item["type"] in ("message", "reasoning")]
    return [part for item in talk for part in [*item.get("summary", ()), *item["content"]]]


def _message(output: Sequence[Item]) -> dict[str, Any]:
    parts = _parts(output)
    content: str | None = "".join(part["text"] for part in parts if part["type"] == "output_text")
    reasoning = "".join(part["text"] for part in parts if part["type"] in ("summary_text", "reasoning_text"))
    refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
    calls = [_tool_call(item, whole=True) for item in output if item["type"] in CLIENT_CALLS]
    if not content and (calls or refusal):
        content = None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal or None, "annotations": []}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(item: Item, *, whole: bool = False) -> dict[str, Any]:
    """A call as Chat Completions has it; what is written for it comes later, unless it is `whole`."""
    kind, field = ("custom", "input") if item["type"] == "custom_tool_call" else ("function", "arguments")
    return {
        "id": item["call_id"],
        "type": kind,
        kind: {"name": item["name"], field: item[field] if whole else ""},
    }


def _tier(state: State) -> str:
    return state.service_tier or "default"
