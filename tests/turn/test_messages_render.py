"""Anthropic's stream, whatever order our events come in: blocks one after another, numbered without a gap."""

import json
import random
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from backtalk.domain.events import TERMINAL, Event
from backtalk.domain.model import (
    Delta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
)
from backtalk.turn.messages_render import MessageRenderer, message
from backtalk.turn.output import Output
from backtalk.turn.response import State
from backtalk.turn.runner import SERVER_RESTARTED

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
HEAD = {"id": "resp_1", "created_at": 1, "model": "m"}
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 29,
}


def run(*reads: list[Delta], status: str = "completed") -> tuple[list[list[Event]], State]:
    """The batches of events of a whole run, and how it ended."""
    output = Output()
    batches = [output.lifecycle("response.created", "in_progress")]
    batches += [output.feed(read) for read in reads]
    batches.append(output.close() + output.end(TERMINAL[status]))
    return batches, State(status=status, output=output.items, usage=USAGE)


def render(batches: list[list[Event]], state: State) -> list[dict[str, Any]]:
    renderer = MessageRenderer(HEAD, estimated=17)
    data = b"".join(renderer.frames(batch, state) for batch in batches if batch)
    found = [json.loads(frame.split("\ndata: ")[1]) for frame in data.decode().split("\n\n")[:-1]]
    for event in found:
        if event["type"] not in ("ping", "error"):
            EVENT.validate_python(event, strict=True)
    return found


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a client makes of a stream; each is begun when the one before it has ended."""
    blocks: list[dict[str, Any]] = []
    open_ = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert (open_, event["index"]) == (False, len(blocks))
                open_ = True
                blocks.append({**event["content_block"], "written": ""})
            case "content_block_delta":
                assert (open_, event["index"]) == (True, len(blocks) - 1)
                _, (field, text) = event["delta"].items()
                field = "written" if field == "partial_json" else field
                blocks[-1][field] += text
            case "content_block_stop":
                assert (open_, event["index"]) == (True, len(blocks) - 1)
                open_ = False
    assert not open_
    for block in blocks:
        written = block.pop("written")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written)
    return blocks


def test_a_stream_says_what_the_object_says() -> None:
    batches, state = run(
        [SummaryDelta("Sum", 0), SummaryDelta("med", 0), SummaryDelta("up.", 1), ReasoningDelta("Häuser 🏠")],
        [SealedReasoning("sealed"), TextDelta("A"), TextDelta("nd")],
        [RefusalDelta("No."), SealedReasoning("also"), ToolCallDelta(0, '{"a": ', "call_1", "one")],
        [ToolCallDelta(0, '"b"}'), ToolCallDelta(1, "{}", "call_2", "two"), TextDelta("Behind."), Finish()],
    )
    events = render(batches, state)
    whole = Message.model_validate(message(HEAD, state, None), strict=True).to_dict()
    assert put_together(events) == whole["content"]
    assert [block["type"] for block in put_together(events)] == [
        "thinking",
        "text",
        "text",
        "redacted_thinking",
        "tool_use",
        "tool_use",
        "text",
    ]
    assert whole["content"][0]["thinking"] == "Summed\n\nup.\n\nHäuser 🏠"  # type: ignore[index]
    assert whole["stop_reason"] == "refusal"
    assert events[0]["message"]["usage"]["input_tokens"] == 17
    assert events[-2]["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 8,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 3},
    }


@pytest.mark.parametrize("seed", range(50))
def test_calls_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    calls = [json.dumps({"n": number, "s": "x" * chance.randrange(9), "o": {"}": "{}"}}) for number in range(4)]
    left = {number: list(text) for number, text in enumerate(calls)}
    deltas: list[Delta] = []
    while any(left.values()):
        number = chance.choice([number for number, text in left.items() if text])
        piece = "".join(left[number].pop(0) for _ in range(min(len(left[number]), chance.randrange(1, 6))))
        deltas.append(ToolCallDelta(number, piece, f"call_{number}", f"tool_{number}"))
        if chance.random() < 0.1:
            deltas.append(TextDelta("…"))
    reads = [deltas[i : i + 3] for i in range(0, len(deltas), 3)]
    batches, state = run(*reads)
    blocks = put_together(render(batches, state))
    assert blocks == message(HEAD, state, None)["content"]
    assert sorted(block["input"]["n"] for block in blocks if block["type"] == "tool_use") == [0, 1, 2, 3]


def test_a_call_that_is_whole_does_not_hold_back_the_next() -> None:
    output = Output()
    renderer = MessageRenderer(HEAD, estimated=1)
    renderer.frames(output.feed([ToolCallDelta(0, '{"a":1}', "call_1", "one")]), State())
    live = renderer.frames(output.feed([ToolCallDelta(1, '{"b":', "call_2", "two")]), State())
    assert b'"index":0' in live.split(b"\n\n")[0]
    assert b"content_block_stop" in live.split(b"\n\n")[0]
    assert b'"partial_json":"{\\"b\\":"' in live
    half = renderer.frames(output.feed([ToolCallDelta(2, "{}", "call_3", "three")]), State())
    assert half == b"", "the second one may go on"


@pytest.mark.parametrize(
    ("written", "given"),
    [("", {}), (" ", {}), ("[1]", {"INVALID_JSON": "[1]"}), ('{"a":', {"INVALID_JSON": '{"a":'}), ('{"a":1} ', {"a": 1})],
)  # fmt: skip
def test_arguments_that_are_no_object(written: str, given: dict[str, Any]) -> None:
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": written}
    [block] = message(HEAD, State(output=[item]), None)["content"]
    assert block == {"type": "tool_use", "id": "c", "name": "f", "input": given}


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State(status="failed", error={"code": "server_error", "message": "m"}), "api_error"),
        (State(status="failed", error={"code": "invalid_prompt", "message": "m"}), "invalid_request_error"),
        (State(status="failed", error={"code": "server_error", "message": "m"}, reason=SERVER_RESTARTED), "overloaded_error"),
        (State(status="failed", error={"code": "x", "message": "m"}, reason="upstream_rate_limit"), "rate_limit_error"),
    ],
)  # fmt: skip
def test_a_failure_is_the_last_event(state: State, kind: str) -> None:
    batches, _ = run([TextDelta("Half")], status="failed")
    events = render(batches, state)
    assert events[-1] == {"type": "error", "error": {"type": kind, "message": "m"}}
    assert [event["type"] for event in events].count("error") == 1


def test_the_same_events_in_other_batches_are_the_same_bytes() -> None:
    batches, state = run([TextDelta("a"), ToolCallDelta(0, "{", "c", "f")], [ToolCallDelta(0, "}"), TextDelta("b")])
    one, all_ = (MessageRenderer(HEAD, estimated=1) for _ in range(2))
    events = [event for batch in batches for event in batch]
    assert b"".join(one.frames([event], state) for event in events) == all_.frames(events, state)
