"""Talks that are made short: on request, at a threshold, and by truncation."""

from pathlib import Path
from typing import Any

import openai
import pytest
from talk import talking
from wire import Wire

from backtalk.testing import ScriptedModel

LONG = "The harvest of the year was rich and everybody sang. " * 30


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def talk_of(turns: int) -> list[dict[str, Any]]:
    turn = [said("user", f"Tell me more. {LONG}"), said("assistant", f"Here is more. {LONG}")]
    return [said("user", "My name is Ada."), said("assistant", "Hello Ada!"), *(turn * turns)]


def texts(model: ScriptedModel) -> str:
    return str([item.get("content") for item in model.prompts[-1].items])


@pytest.mark.wire("R27")
def test_a_talk_is_made_short_and_goes_on(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada wants to hear of the harvest.", "Nothing much.", "Your name is Ada."])
    with talking(tmp_path, model) as talk:
        reply = talk.post("/responses/compact", model="scripted", input=talk_of(2), instructions="Mind the harvest.")
        assert talk.sdk.responses.compact(model="scripted", input="Hi").object == "response.compaction"
        assert reply.json()["usage"]["total_tokens"] > 0
        *users, item = reply.json()["output"]
        assert [user["role"] for user in users] == ["user"] * 3
        assert item["type"] == "compaction"
        assert item["id"].startswith("cmp_")
        asked = model.prompts[0]
        assert "Mind the harvest." in (asked.instructions or "")
        assert "Hello Ada!" in str(asked.items)
        talk.post(input=[*reply.json()["output"], said("user", "What is my name?")])
    seen = texts(model)
    assert "Ada wants to hear of the harvest." in seen
    assert "My name is Ada." in seen  # users' messages stay
    assert "Hello Ada!" not in seen


@pytest.mark.wire("R27", "E2")
def test_what_cannot_be_made_short(wire: Wire) -> None:
    def param(path: str = "/responses/compact", **body: Any) -> tuple[int, str]:
        reply = wire.http.post(path, json=body)
        return reply.status_code, reply.json()["error"]["param"]

    assert param(input="Hello") == (400, "model")
    assert param(model="scripted") == (400, "input")
    assert param(model="nobody", input="Hello") == (404, "model")
    for content in ("gAAAA", "bt1.???", "bt1.e30=", None, 5):
        item = {"type": "compaction", "encrypted_content": content}
        assert param("/responses", input=[item]) == (400, "input[0].encrypted_content")


@pytest.mark.wire("R27")
def test_without_a_model_that_writes_excerpts_stand_in(sdk: openai.OpenAI, wire: Wire) -> None:
    body = {"model": "backtalk/extractive", "input": talk_of(20)}
    short = wire.http.post("/responses/compact", json=body).json()["output"]
    answer = sdk.responses.create(input=[*short, said("user", "What is my name?")])
    assert "Ada" in answer.output_text
    assert sdk.responses.input_tokens.count(model="scripted", input=short[-1:]).input_tokens < 3000


@pytest.mark.wire("R28")
def test_a_talk_over_the_threshold_is_made_short_within_the_turn(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada likes harvests.", "First answer.", "Second answer."])
    management = [{"type": "compaction", "compact_threshold": 500}]
    with talking(tmp_path, model) as talk:
        wire = Wire(talk.http)
        question = said("user", "What is my name?")
        events = wire.stream({"input": [*talk_of(3), question], "context_management": management})
        kinds = [event["type"] for event in events]
        assert kinds[2:5] == [
            "response.output_item.added",
            "response.compaction.compacting",
            "response.output_item.done",
        ]
        response = events[-1]["response"]
        assert [item["type"] for item in response["output"]] == ["compaction", "message"]
        assert "Ada likes harvests." in texts(model)
        assert "What is my name?" in texts(model)
        assert "Hello Ada!" not in texts(model)
        receipt = talk.http.get(f"/responses/{response['id']}/context").json()
        assert receipt["compaction"]["tokens_after"] < 500 < receipt["compaction"]["tokens_before"]
        assert receipt["compaction"]["by"] == "scripted"
        # the next turn begins from there, and is short enough by itself
        more = {"input": "And?", "previous_response_id": response["id"], "context_management": management}
        assert [item["type"] for item in wire.stream(more)[-1]["response"]["output"]] == ["message"]
        seen = texts(model)
        assert "Ada likes harvests." in seen and "First answer." in seen and "And?" in seen
        assert "Hello Ada!" not in seen


@pytest.mark.wire("R28")
def test_a_summary_that_fails_does_not_fail_the_turn(tmp_path: Path) -> None:
    model = ScriptedModel([openai_failure(), "An answer."])
    with talking(tmp_path, model, max_tool_rounds=2) as talk:
        body = talk.post(
            input=[*talk_of(3), said("user", "What?")],
            context_management=[{"type": "compaction", "compact_threshold": 100}],
        ).json()
    assert [item["type"] for item in body["output"]] == ["compaction", "message"]
    assert "My name is Ada." in texts(model)  # by excerpts


def openai_failure() -> Exception:
    from backtalk.core.errors import UpstreamError

    return UpstreamError("The model server is away.")


@pytest.mark.wire("R28")
def test_a_trigger_makes_short_and_says_nothing(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada likes harvests.", "Your name is Ada."])
    with talking(tmp_path, model) as talk:
        wire = Wire(talk.http)
        events = wire.stream({"input": [*talk_of(1), {"type": "compaction_trigger"}], "tools": []})
        response = events[-1]["response"]
        assert [item["type"] for item in response["output"]] == ["compaction"]
        listed = talk.http.get(f"/responses/{response['id']}/input_items").json()["data"]
        assert "compaction_trigger" not in [item["type"] for item in listed]
        talk.post(input="What is my name?", previous_response_id=response["id"])
        assert "Ada likes harvests." in texts(model)
        assert "Hello Ada!" not in texts(model)


@pytest.mark.wire("R28", "E2")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"type": "compaction_trigger"}, said("user", "x")]}, "input[0]"),
        ({"input": [{"type": "compaction_trigger"}]}, "input"),
        ({"context_management": {}}, "context_management"),
        ({"context_management": ["x"]}, "context_management[0]"),
        ({"context_management": [{"type": "magic"}]}, "context_management[0].type"),
        ({"context_management": [{"type": "compaction", "compact_threshold": 0}]}, "context_management[0].compact_threshold"),
    ],
)  # fmt: skip
def test_a_mistake_about_compaction_is_named(wire: Wire, body: dict[str, Any], param: str) -> None:
    reply = wire.http.post("/responses", json={"input": "Hello", **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("R29")
def test_what_is_too_long_is_refused_or_cut_from_its_beginning(tmp_path: Path) -> None:
    model = ScriptedModel()
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": f"Sunny. {LONG}"}
    with talking(tmp_path, model, context_tokens=1200) as talk:
        whole = [said("system", "Be brief."), *talk_of(3), said("user", "And Rome?")]
        refused = talk.post(input=whole)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert talk.post(input=whole, truncation="auto").status_code == 200
        seen = texts(model)
        assert "Be brief." in seen and "And Rome?" in seen and "My name is Ada" not in seen
        # a call stays with its output, the question stays in any case
        calls = [
            said("user", "And Rome?"),
            call,
            output,
            {**call, "call_id": "call_2"},
            {**output, "call_id": "call_2"},
        ]
        calls += [{**call, "call_id": "call_3"}, {**output, "call_id": "call_3"}, {**call, "call_id": "call_4"}]
        body = talk.post(input=[*calls, {**output, "call_id": "call_4"}], truncation="auto")
        assert body.status_code == 200
        kinds = [item.get("call_id", item["type"]) for item in model.prompts[-1].items]
        assert kinds[0] == "message"
        assert kinds[-2:] == ["call_4", "call_4"]
        assert len(kinds) < len(calls) + 1
        assert all(kinds.count(kind) == 2 for kind in kinds[1:])
        cut = talk.http.get(f"/responses/{body.json()['id']}/context").json()["cut"]
        assert {entry["type"] for entry in cut} == {"function_call", "function_call_output"}
        assert talk.post(input=LONG * 5, truncation="auto").status_code == 400
