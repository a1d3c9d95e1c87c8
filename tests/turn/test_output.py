"""The output's grammar, whatever a model says and wherever a process dies."""

from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backtalk.domain.caller import Caller
from backtalk.domain.events import TERMINAL, Event, ItemDone
from backtalk.domain.model import (
    CitationDelta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
)
from backtalk.events.channel import clip, merge
from backtalk.testing import check_transcript
from backtalk.turn.output import Output
from backtalk.turn.render import frames
from backtalk.turn.response import State
from backtalk.turn.responses_wire import read, to_turn

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HEAD: dict[str, Any] = {
    **to_turn(read({"input": "Hello"}), Caller(), None).head,
    "id": "resp_1",
    "created_at": 1,
    "model": "m",
}


def talk() -> tuple[list[Event], Output]:
    """A transcript with an item of every kind that we make."""
    output = Output(server_tools={"file_search"}, custom_tools={"shell"})
    events = output.lifecycle("response.created", "in_progress") + output.lifecycle(
        "response.in_progress", "in_progress"
    )
    events += output.feed([SummaryDelta("First"), SummaryDelta(" this."), SummaryDelta("Then that.", 1)])
    events += output.feed([ReasoningDelta("Let me"), ReasoningDelta(" think."), SealedReasoning("sealed")])
    events += output.feed([ReasoningDelta("And again."), SealedReasoning("sealed too")])
    events += output.feed([ToolCallDelta(0, '{"queries":["a"]}', "call_1", "file_search"), Finish("tool_calls")])
    item: dict[str, Any] = {
        "id": "fs_1",
        "type": "file_search_call",
        "status": "in_progress",
        "queries": ["a"],
        "results": None,
    }
    index = output.start_tool(item, "in_progress", "searching")
    output.progress(index, "completed")
    output.finish_tool(index, {**item, "status": "completed", "results": []})
    events += output.take()
    output.next_step()
    token = {"token": "x", "bytes": [120], "logprob": 0.0, "top_logprobs": []}
    events += output.feed([ScoredTextDelta("x", (token,)), ScoredTextDelta("x", (token,)), RefusalDelta("No")])
    events += output.feed([ToolCallDelta(5, '{"input": "ls', "call_5", "shell"), ToolCallDelta(5, ' -l"}')])
    events += output.feed([TextDelta("Häuser"), TextDelta(" 🏠"), CitationDelta("file-1", "a.txt"), TextDelta(" end")])
    events += output.feed([RefusalDelta("No"), RefusalDelta(".")])
    events += output.feed([ToolCallDelta(0, '{"a":', "call_2", "one"), ToolCallDelta(1, "{", "call_3", "two")])
    events += output.feed([ToolCallDelta(0, "1}"), ToolCallDelta(1, "}"), ToolCallDelta(2, "", "call_4", "three")])
    events += output.close()
    return events, output


def wire(events: list[Event], state: State, after: int = -1) -> list[dict[str, Any]]:
    """The events as a client sees them, each valid against the SDK's types."""
    out = frames(events, HEAD, state, after, ()).decode().split("\n\n")[:-1]
    return [EVENT.validate_json(frame.split("\ndata: ")[1]).to_dict() for frame in out]


def test_a_whole_talk_follows_the_grammar() -> None:
    events, output = talk()
    state = State(status="completed", output=output.items)
    events += output.end(TERMINAL["completed"])
    seen = wire(events, state)
    check_transcript(seen)
    assert [item["type"] for item in seen[-1]["response"]["output"]] == [
        "reasoning",
        "reasoning",
        "file_search_call",
        "message",
        "custom_tool_call",
        "message",
        "function_call",
        "function_call",
        "function_call",
    ]
    message = seen[-1]["response"]["output"][5]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    assert message["content"][0]["annotations"] == [
        {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": len("Häuser 🏠")}
    ]
    calls = [item["arguments"] for item in seen[-1]["response"]["output"][6:]]
    assert calls == ['{"a":1}', "{}", "{}"]
    thoughts = seen[-1]["response"]["output"][:2]
    assert [len(thought["summary"]) for thought in thoughts] == [2, 0]
    assert [thought["content"][0]["text"] for thought in thoughts] == ["Let me think.", "And again."]
    done = [event["output_index"] for event in seen if event["type"] == "response.output_item.done"]
    assert done == sorted(done)  # one after the other, though the model wrote calls side by side


def test_a_talk_cut_anywhere_is_ended_by_the_grammar() -> None:
    whole, _ = talk()
    for cut in range(2, len(whole) + 1):
        output = Output.replay(whole[:cut])
        events = whole[:cut] + output.close("incomplete")
        state = State(status="failed", output=output.items, error={"code": "server_error", "message": "cut"})
        events += output.end(TERMINAL["failed"])
        check_transcript(wire(events, state))


@pytest.mark.parametrize("merged", [False, True])
def test_a_replay_from_any_number_is_the_same_bytes(merged: bool) -> None:
    events, output = talk()
    events += output.end(TERMINAL["completed"])
    state = State(status="completed", output=output.items)
    whole = frames(events, HEAD, state, -1, ())
    stored = merge([*talk_copy(events)]) if merged else events
    assert frames(stored, HEAD, state, -1, ()) == whole
    for after in range(-1, events[-1].seq + 1):
        rest = frames(clip(stored, after), HEAD, state, after, ())
        assert whole.endswith(rest)
        assert rest.count(b"event: ") == events[-1].seq - after


def talk_copy(events: list[Event]) -> list[Event]:
    """The events as they come back from the log: `merge` may change what it is given."""
    from backtalk.events import store

    return store._decoder.decode(store._encoder.encode(events))


def test_a_tool_that_was_cut_off_is_closed() -> None:
    output = Output(server_tools={"file_search"})
    output.lifecycle("response.created", "in_progress")
    item: dict[str, Any] = {"id": "fs_1", "type": "file_search_call", "status": "in_progress", "queries": ["a"]}
    output.start_tool(item, "in_progress", "searching")
    closed = output.close("incomplete")
    assert [type(event) for event in closed][-1] is ItemDone
    assert [item["status"] for item in output.items] == ["incomplete"]
    assert output.close("incomplete") == []


def test_of_calls_that_are_cut_off_those_that_are_whole_say_so() -> None:
    output = Output()
    output.feed([ToolCallDelta(0, '{"a":', "call_1", "one"), ToolCallDelta(1, '{"b":1}', "call_2", "two")])
    output.feed([ToolCallDelta(2, "{", "call_3", "three")])
    output.close("incomplete")
    assert [item["status"] for item in output.items] == ["incomplete", "completed", "incomplete"]
