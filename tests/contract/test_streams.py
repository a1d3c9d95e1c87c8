"""Event streams: their form, their numbers, and that nothing is lost or contradicted."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from test_responses import WEATHER
from wire import Wire

from support import until


@pytest.mark.wire("S1", "S3")
def test_a_stream_is_well_formed(wire: Wire) -> None:
    with wire.http.stream("POST", "/responses", json={"input": "Hello", "stream": True}) as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        assert "content-length" not in reply.headers
        events = wire.checked(reply.read())
    kinds = [event["type"] for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == events[-4]["text"] == events[-3]["part"]["text"] == "You said: Hello"
    assert events[-2]["item"] == events[-1]["response"]["output"][0]


@pytest.mark.wire("S2")
def test_the_sdk_accumulates_what_get_answers(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(
        model="scripted", input="What's the weather like in San Francisco?", tools=[WEATHER]
    ) as stream:  # type: ignore[list-item]
        for _ in stream:
            pass
        final = stream.get_final_response()
    stored = sdk.responses.retrieve(final.id)
    assert [item.to_dict() for item in stored.output] == [
        {k: v for k, v in item.to_dict().items() if k != "parsed_arguments"} for item in final.output
    ]
    assert stored.usage == final.usage


@pytest.mark.wire("S9")
def test_function_arguments_stream(wire: Wire) -> None:
    events = wire.stream({"input": "What's the weather like in San Francisco?", "tools": [WEATHER]})
    added = next(event for event in events if event["type"] == "response.output_item.added")
    assert added["item"]["arguments"] == ""
    assert added["item"]["call_id"].startswith("call_")
    pieces = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert "".join(pieces) == done["arguments"] == '{"location":"San Francisco"}'
    assert events[-1]["response"]["output"][0]["status"] == "completed"


@pytest.mark.wire("S4")
def test_a_finished_stream_resumes_at_every_index(wire: Wire) -> None:
    events = wire.stream({"input": "[[tokens:30]]", "reasoning": {"effort": "low"}})
    response_id = events[0]["response"]["id"]
    whole = wire.replay(response_id)
    assert wire.checked(whole) == events
    for index in range(-1, len(events) + 2):
        rest = wire.replay(response_id, after=index)
        assert whole.endswith(rest)
        assert wire.checked(rest, first=index + 1) == events[index + 1 :]


@pytest.mark.wire("S4")
def test_a_live_stream_resumes_at_every_index(wire: Wire, sdk: openai.OpenAI) -> None:
    running = sdk.responses.create(input="[[pace:0.01]] [[tokens:60]]", background=True)
    with ThreadPoolExecutor(12) as pool:  # all of them while the model still speaks
        seen = list(pool.map(lambda index: wire.replay(running.id, after=index), range(-1, 40, 4)))
    whole = wire.replay(running.id)
    events = wire.checked(whole)
    assert events[1]["type"] == "response.queued"
    assert events[-1]["type"] == "response.completed"
    assert all(whole.endswith(rest) for rest in seen)


@pytest.mark.wire("S5")
def test_a_response_is_readable_before_its_end_leaves(wire: Wire, sdk: openai.OpenAI) -> None:
    for _ in range(10):
        for event in sdk.responses.create(input="My name is Ada.", stream=True):
            if event.type == "response.completed":
                assert sdk.responses.retrieve(event.response.id).status == "completed"
                answer = sdk.responses.create(previous_response_id=event.response.id, input="What is my name?")
                assert "Ada" in answer.output_text


@pytest.mark.wire("S6")
def test_a_model_that_breaks_off_ends_the_stream(wire: Wire) -> None:
    events = wire.stream({"input": "[[tokens:20]] [[fail:after:5]]"})
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["error"]["code"] == "server_error"
    assert response["backtalk"]["reason"].startswith("upstream")
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said
    assert response["output"][0]["content"][0]["text"] == said
    assert response["output"][0]["status"] == "incomplete"
    assert wire.http.get(f"/responses/{response['id']}").json() == response


@pytest.mark.wire("S7", "E1")
def test_a_model_that_does_not_begin_fails_the_request(wire: Wire) -> None:
    reply = wire.http.post("/responses", json={"input": "[[fail:before]]"})
    assert reply.status_code >= 500
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.wire("S8")
def test_a_client_that_leaves_stops_the_run(wire: Wire, sdk: openai.OpenAI) -> None:
    body = {"input": "[[pace:0.02]] [[tokens:2000]]", "stream": True}
    with wire.http.stream("POST", "/responses", json=body) as reply:
        lines = reply.iter_lines()
        created = next(json.loads(line[6:]) for line in lines if line.startswith("data: "))
        for line in lines:
            if "output_text.delta" in line:
                break
    response_id = created["response"]["id"]
    until(lambda: sdk.responses.retrieve(response_id).status == "incomplete")
    left = sdk.responses.retrieve(response_id)
    assert left.incomplete_details is None
    assert left.output_text.startswith("word0")
    assert left.to_dict()["backtalk"] == {"reason": "client_disconnected"}
    assert wire.checked(wire.replay(response_id))[-1]["type"] == "response.incomplete"


@pytest.mark.wire("S8")
def test_a_client_that_leaves_a_json_request_stops_the_run(wire: Wire, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create()
    with pytest.raises(httpx2.TimeoutException):
        body: dict[str, Any] = {"input": "[[pace:0.05]] [[tokens:2000]]", "conversation": conversation.id}
        wire.http.post("/responses", json=body, timeout=0.5)
    until(lambda: len(list(sdk.conversations.items.list(conversation.id))) == 2)
