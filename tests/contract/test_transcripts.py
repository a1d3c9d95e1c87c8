"""Streams of every kind, against the grammar, the SDK's types and the SDK's accumulator."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from pydantic import BaseModel
from test_documents import filled
from test_responses import WEATHER
from websockets.sync.client import ClientConnection, connect
from wire import EVENT, Wire

from backtalk.testing import Server, check_transcript, read_transcript
from support import until

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ASK = "What's the weather like in Paris and in San Francisco?"
QUESTION = "What do the documents say: how many points did the Panthers defense give up?"
LONG = {"input": "[[think]] [[pace:0.01]] [[tokens:5000]]"}

BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"input": "Hello"}, "completed"),
    "empty text": ({"input": "Say exactly:  "}, "completed"),
    "not stored": ({"input": "Hello", "store": False}, "completed"),
    "background": ({"input": "Hello", "background": True}, "completed"),
    "thinking": ({"input": "[[think]] Hello"}, "completed"),
    "summary": ({"input": "[[summarise]] Hello", "reasoning": {"summary": "auto"}}, "completed"),
    "summary and thinking": ({"input": "[[summarise]] [[think]] Hello"}, "completed"),
    "logprobs": ({"input": "Hello", "include": ["message.output_text.logprobs"], "top_logprobs": 2}, "completed"),
    "refusal": ({"input": "[[refuse]]"}, "completed"),
    "refusal after thinking": ({"input": "[[think]] [[refuse]]"}, "completed"),
    "call": ({"input": ASK, "tools": [WEATHER], "parallel_tool_calls": False}, "completed"),
    "calls": ({"input": f"[[think]] {ASK}", "tools": [WEATHER]}, "completed"),
    "call without arguments": (
        {"input": "Say now", "tools": [{"type": "function", "name": "now"}], "tool_choice": "required"},
        "completed",
    ),
    "custom call": ({"input": "ls", "tools": [{"type": "custom", "name": "sh"}], "tool_choice": "required"}, "completed"),
    "json_schema": (
        {"input": "Paris", "text": {"format": {"type": "json_schema", "name": "c", "schema": SCHEMA, "strict": True}}},
        "completed",
    ),
    "json_object": ({"input": "Paris, as JSON", "text": {"format": {"type": "json_object"}}}, "completed"),
    "cut": ({"input": "[[tokens:100]]", "max_output_tokens": 16}, "incomplete"),
    "cut after thinking": ({"input": "[[think]] [[tokens:100]]", "max_output_tokens": 16}, "incomplete"),
    "failed at once": ({"input": "[[fail:before]]"}, "failed"),
    "failed in a text": ({"input": "[[tokens:20]] [[fail:after:5]]"}, "failed"),
    "failed in a thought": ({"input": "[[think]] [[fail:after:2]]"}, "failed"),
    "failed in a summary": ({"input": "[[summarise]] [[fail:after:2]]"}, "failed"),
    "failed in a refusal": ({"input": "[[refuse]] [[fail:after:2]]"}, "failed"),
    "failed in a call": ({"input": f"[[fail:after:2]] {ASK}", "tools": [WEATHER]}, "failed"),
    "limited": ({"input": "[[fail:429]]", "background": True}, "failed"),
}  # fmt: skip


def accumulated(events: list[dict[str, Any]]) -> Any:
    """What the SDK makes of a stream: its final response, if it was completed."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_json(json.dumps(event), strict=True))
    return state._completed_response


@pytest.mark.wire("S10", "S1", "S2")
@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES)
def test_a_stream_keeps_to_the_grammar(wire: Wire, body: dict[str, Any], status: str) -> None:
    events = wire.stream(body)
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == (f"response.{status}", status)
    final = accumulated(events)
    assert (final is not None) == (status == "completed")
    if final is not None:
        assert [item.id for item in final.output] == [item["id"] for item in last["output"]]


@pytest.fixture(scope="module")
def store(sdk: openai.OpenAI) -> str:
    return filled(sdk)[0]


@pytest.mark.wire("S10", "R15", "R16")
@pytest.mark.parametrize("include", [[], ["file_search_call.results"]])
def test_a_search_keeps_to_the_grammar(wire: Wire, store: str, include: list[str]) -> None:
    tools: list[Any] = [{"type": "file_search", "vector_store_ids": [store]}, WEATHER]
    events = wire.stream({"input": f"[[think]] {QUESTION}", "tools": tools, "include": include})
    assert [item["type"] for item in events[-1]["response"]["output"] if item["type"] != "reasoning"] == [
        "file_search_call",
        "message",
    ]
    assert accumulated(events) is not None
    search = next(item for item in events[-1]["response"]["output"] if item["type"] == "file_search_call")
    assert bool(search["results"]) == bool(include)


def _lines(reply: Any) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {"))


@pytest.mark.wire("S10", "R17")
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("at", ["response.in_progress", "response.reasoning_text.delta", "response.output_text.delta"])
def test_a_cancelled_stream_keeps_to_the_grammar(wire: Wire, background: bool, at: str) -> None:
    body = {**LONG, "background": background, "stream": True}
    with wire.http.stream("POST", "/responses", json=body) as reply:
        lines = _lines(reply)
        response_id = next(lines)["response"]["id"]
        next(event for event in lines if event["type"] == at)
        assert wire.http.post(f"/responses/{response_id}/cancel").status_code == 200
        for _ in lines:
            pass
    events = wire.checked(wire.replay(response_id), complete=False)
    assert "response" not in events[-1] or len(events) < 4
    assert accumulated(events) is None
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert wire.http.get(f"/responses/{response_id}").json()["output"] == done
    for after in (0, len(events) // 2, len(events) - 1):
        wire.checked(wire.replay(response_id, after=after), first=after + 1, complete=False)


@pytest.mark.wire("S10", "S8")
def test_a_stream_that_its_client_left_keeps_to_the_grammar(wire: Wire) -> None:
    with wire.http.stream("POST", "/responses", json={**LONG, "stream": True}) as reply:
        lines = _lines(reply)
        response_id = next(lines)["response"]["id"]
        next(event for event in lines if event["type"] == "response.output_text.delta")
    until(lambda: wire.http.get(f"/responses/{response_id}").json()["status"] == "incomplete")
    events = wire.checked(wire.replay(response_id))
    assert events[-1]["type"] == "response.incomplete"
    assert accumulated(events) is None


@pytest.fixture
def line(server: Server) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + "/v1/responses", max_size=None) as opened:
        yield opened


def _create(line: ClientConnection, **body: Any) -> None:
    line.send(json.dumps({"type": "response.create", **body}))


def _heard(line: ClientConnection, ends: int = 1) -> list[dict[str, Any]]:
    """The frames of so many turns, each of its type."""
    found: list[str] = []
    while ends:
        found.append(str(line.recv(timeout=30)))
        ends -= json.loads(found[-1])["type"] in (
            "response.completed",
            "response.incomplete",
            "response.failed",
            "error",
        )
    for frame in found:
        EVENT.validate_json(frame, strict=True)
    return read_transcript("\n".join(found))


SPOKEN = {name: pair for name, pair in BODIES.items() if not pair[0].get("background")}


@pytest.mark.wire("S10", "W1")
@pytest.mark.parametrize(("body", "status"), SPOKEN.values(), ids=SPOKEN)
def test_frames_of_a_socket_keep_to_the_grammar(
    line: ClientConnection, wire: Wire, body: dict[str, Any], status: str
) -> None:
    _create(line, **body)
    events = _heard(line)
    check_transcript(events)
    assert events[-1]["type"] == f"response.{status}"
    assert (accumulated(events) is not None) == (status == "completed")
    assert [event["type"] for event in events] == [event["type"] for event in wire.stream(body)]


@pytest.mark.wire("S10", "W2")
def test_each_lane_of_a_socket_keeps_to_the_grammar(line: ClientConnection) -> None:
    bodies = [body for body, _ in SPOKEN.values()][:8]
    for i, body in enumerate(bodies):
        _create(line, **{**body, "input": f"[[pace:0.002]] {body['input']}"}, stream_id=f"lane{i}")
    events = _heard(line, ends=len(bodies))
    for i in range(len(bodies)):
        check_transcript([event for event in events if event["stream_id"] == f"lane{i}"])


@pytest.mark.wire("S10", "W4")
def test_a_turn_of_a_socket_that_is_cancelled_keeps_to_the_grammar(line: ClientConnection, wire: Wire) -> None:
    _create(line, **LONG)
    first = json.loads(line.recv(timeout=30))
    until(lambda: json.loads(line.recv(timeout=30))["type"] == "response.output_text.delta")
    assert wire.http.post(f"/responses/{first['response']['id']}/cancel").status_code == 200
    *_, error = _heard(line)
    whole = wire.checked(wire.replay(first["response"]["id"]), complete=False)
    check_transcript([*whole, error], complete=False)  # the error has the number that comes next


class City(BaseModel):
    city: str


@pytest.mark.wire("S10", "S2", "R11")
def test_the_sdk_parses_what_streams(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="scripted", input="[[think]] I live in Paris", text_format=City) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == City(city="Paris")
