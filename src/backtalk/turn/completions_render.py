"""Events as text completions, the older form. No I/O."""

from collections.abc import Sequence
from typing import Any

import msgspec

from backtalk.domain.events import Deltas, Ended, Event
from backtalk.turn.chat_render import finish_reason, usage
from backtalk.turn.response import State

_encode = msgspec.json.Encoder().encode


def text_completion(head: dict[str, Any], states: Sequence[State], echoes: Sequence[str]) -> dict[str, Any]:
    """The whole answer as one object, a choice for each state. Of what a model says only its text is given."""
    choices = [_choice(i, echo + _text(state), _reason(state), _logprobs(state)) for i, (state, echo) in enumerate(zip(states, echoes, strict=True))]  # fmt: skip
    return {**_fixed(head), "choices": choices, "usage": usage(states)}


class TextRenderer:
    """Turns the events of one choice into chunks."""

    def __init__(self, head: dict[str, Any], *, include_usage: bool, index: int, echo: str) -> None:
        self._fixed = _fixed(head)
        self._include_usage = include_usage
        self._index = index
        self._echo = echo

    def frames(self, events: Sequence[Event], state: State) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is Deltas and event.kind == "output_text":
                out += (self._chunk(delta, None) for delta in event.deltas)
            elif isinstance(event, Ended):
                out.append(self._end(state))
            elif event.seq == 0 and self._echo:
                out.append(self._chunk(self._echo, None))
        return b"".join(out)

    def usage(self, states: Sequence[State]) -> bytes:
        """The last chunk, of what all choices cost, if it was asked for."""
        if not self._include_usage or any(state.status == "failed" for state in states):
            return b""
        return self._frame({**self._fixed, "choices": [], "usage": usage(states)})

    def _end(self, state: State) -> bytes:
        if state.status == "failed":
            error = {"message": (state.error or {}).get("message"), "type": "server_error", "param": None}
            return self._frame({"error": {**error, "code": (state.error or {}).get("code")}})
        return self._chunk("", _reason(state))

    def _chunk(self, text: str, reason: str | None) -> bytes:
        spent = {"usage": None} if self._include_usage else {}
        return self._frame({**self._fixed, "choices": [_choice(self._index, text, reason, None)], **spent})

    @staticmethod
    def _frame(chunk: dict[str, Any]) -> bytes:
        return b"data: " + _encode(chunk) + b"\n\n"


def _fixed(head: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "cmpl-" + head["id"].removeprefix("resp_"),
        "object": "text_completion",
        "created": head["created_at"],
        "model": head["model"],
        "system_fingerprint": None,
    }


def _choice(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(state: State) -> str:
    found = finish_reason(state)
    return "stop" if found == "tool_calls" else found


def _parts(state: State) -> list[dict[str, Any]]:
    messages = [item for item in state.output if item["type"] == "message"]
    return [part for item in messages for part in item["content"] if part["type"] == "output_text"]


def _text(state: State) -> str:
    return "".join(part["text"] for part in _parts(state))


def _logprobs(state: State) -> dict[str, Any] | None:
    tokens = [token for part in _parts(state) for token in part.get("logprobs") or ()]
    if not tokens:
        return None
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
        "text_offset": offsets,
    }
