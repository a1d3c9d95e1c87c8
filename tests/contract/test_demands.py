"""What a request demands of a model that does not do it by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from talk import talking
from test_responses import WEATHER
from wire import Wire

from backtalk.domain.model import Delta, Finish, RefusalDelta, TextDelta, ToolCallDelta
from backtalk.testing import ScriptedModel

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer", "minimum": -90}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FORMAT = {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}}
ROME = {"city": "Rome", "degrees": 20}


def called(name: str, index: int = 0) -> list[Delta]:
    return [ToolCallDelta(index, "{}", call_id=f"call_{index}", name=name)]


def texts(body: dict[str, Any]) -> list[str]:
    return [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]


@pytest.mark.wire("R20")
@pytest.mark.parametrize(
    "said",
    [
        json.dumps(ROME),
        f"Here you are:\n```json\n{json.dumps(ROME)}\n```\nAnything else?",
        f"Sure! {json.dumps(ROME)} That is all.",
    ],
)
def test_a_model_without_formats_is_asked_in_words(tmp_path: Path, said: str) -> None:
    model = ScriptedModel([said], structured=False)
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "Rome?", "text": FORMAT, "instructions": "Be kind."})
    assert json.loads(texts(events[-1]["response"])[0]) == ROME
    (prompt,) = model.prompts
    assert prompt.text_format is None
    assert prompt.instructions is not None
    assert prompt.instructions.startswith("Be kind.")
    assert '"degrees"' in prompt.instructions


@pytest.mark.wire("R20")
def test_it_is_asked_again_and_told_why(tmp_path: Path) -> None:
    script = ["It is warm.", '{"city": "Rome", "degrees": "twenty"}', json.dumps(ROME)]
    model = ScriptedModel(script, structured=False)
    with talking(tmp_path, model) as talk:
        body = talk.post(input="Rome?", text=FORMAT).json()
    assert [json.loads(text) for text in texts(body)] == [ROME]
    assert len(model.prompts) == 3
    reminder = model.prompts[2].items[-1]["content"][0]["text"]
    assert "twenty" in reminder
    assert body["usage"]["output_tokens"] > 10  # of all three


@pytest.mark.wire("R20")
def test_a_model_that_never_gives_json_fails_and_shows_nothing(tmp_path: Path) -> None:
    with talking(tmp_path, ScriptedModel(["No."] * 9, structured=False)) as talk:
        assert talk.post(input="Rome?", text=FORMAT).status_code == 502
        events = Wire(talk.http).stream({"input": "Rome?", "text": FORMAT})
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert events[-1]["response"]["backtalk"] == {"reason": "upstream_disobeyed"}
    assert events[-1]["response"]["output"] == []


@pytest.mark.wire("R20")
def test_a_model_that_knows_formats_streams_and_is_checked_all_the_same(tmp_path: Path) -> None:
    good = [TextDelta('  {"city":'), TextDelta('"Rome",'), TextDelta('"degrees":20}'), Finish("stop")]
    bad = [TextDelta('{"city":'), TextDelta('"Rome"}'), Finish("stop")]
    prose = "```json\n" + json.dumps(ROME) + "\n```"
    with talking(tmp_path, ScriptedModel([good, bad, prose])) as talk:
        wire = Wire(talk.http)
        events = wire.stream({"input": "Rome?", "text": FORMAT})
        assert [event["type"] for event in events].count("response.output_text.delta") == 3
        broken = wire.stream({"input": "Rome?", "text": FORMAT})
        assert broken[-1]["type"] == "response.failed"
        assert texts(broken[-1]["response"]) == ['{"city":"Rome"}']  # what was shown is kept
        fenced = wire.stream({"input": "Rome?", "text": FORMAT})
        assert json.loads(texts(fenced[-1]["response"])[0]) == ROME


@pytest.mark.wire("R20", "R10")
def test_an_answer_that_is_cut_or_refused_needs_no_json(tmp_path: Path) -> None:
    cut = [TextDelta('{"city":"Ro'), Finish("length")]
    refused = [RefusalDelta("I will not."), Finish("stop")]
    for structured in (True, False):
        with talking(tmp_path / str(structured), ScriptedModel([cut, refused], structured=structured)) as talk:
            body = talk.post(input="Rome?", text=FORMAT).json()
            assert (body["status"], texts(body)) == ("incomplete", ['{"city":"Ro'])
            body = talk.post(input="Rome?", text=FORMAT).json()
            assert body["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]


@pytest.mark.wire("R20", "E2")
@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema", "name": "a b", "schema": {}}, "name"),
        ({"type": "json_schema", "name": 5, "schema": {}}, "name"),
        ({"type": "json_schema", "name": "a", "schema": []}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {"type": "sphere"}}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {"$ref": "https://example.com/a.json"}}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {"$ref": "file:///etc/passwd"}}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {"pattern": "("}}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {"description": "x" * 300_000}}, "schema"),
        ({"type": "json_schema", "name": "a", "schema": {}, "strict": "yes"}, "strict"),
        ({"type": "json_schema", "name": "a", "schema": {}, "description": 1}, "description"),
        ({"type": "yaml"}, "type"),
    ],
)
def test_a_format_that_is_none_is_named(wire: Wire, form: dict[str, Any], param: str) -> None:
    reply = wire.http.post("/responses", json={"input": "Hello", "text": {"format": form}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, f"text.format.{param}")


@pytest.mark.wire("R22")
def test_a_model_that_has_to_call_is_reminded(tmp_path: Path) -> None:
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        model = ScriptedModel(["Sunny, I guess.", [*called("get_weather"), Finish("tool_calls")]])
        with talking(tmp_path / str(len(str(choice))), model) as talk:
            body = talk.post(input="Rome?", tools=[WEATHER], tool_choice=choice).json()
        assert [item["type"] for item in body["output"]] == ["function_call"]
        assert "Call one of the tools" in model.prompts[1].items[-1]["content"][0]["text"]
    with talking(tmp_path / "never", ScriptedModel(["Sunny."] * 9)) as talk:
        body = talk.post(input="Rome?", tools=[WEATHER], tool_choice="required")
        assert (body.status_code, body.json()["error"]["code"]) == (502, "server_error")


@pytest.mark.wire("R22")
def test_what_may_not_be_called_is_not_called(tmp_path: Path) -> None:
    other = {"type": "function", "name": "other"}
    tools = [WEATHER, other]
    step = [*called("get_weather"), *called("other", 1), Finish("tool_calls")]
    only: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    for choice, allowed in (("none", []), (only, ["other"]), ({"type": "function", "name": "other"}, ["other"])):
        model = ScriptedModel([step, "In words."])
        with talking(tmp_path / str(choice)[:9].strip("{'"), model) as talk:
            body = talk.post(input="Rome?", tools=tools, tool_choice=choice).json()
        names = [item["name"] for item in body["output"] if item["type"] == "function_call"]
        assert names == allowed
        assert body["tools"] == [
            {**WEATHER, "strict": True},
            {**other, "strict": True, "description": None, "parameters": None},
        ]
        assert texts(body) == ([] if allowed else ["In words."])


@pytest.mark.wire("R22", "E2")
@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "name": "nope"}, "tool_choice"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "custom", "name": "get_weather"}, "tool_choice"),
        ({"type": "file_search"}, "tool_choice"),
        ({"type": "web_search"}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice.tools"),
        ({"type": "allowed_tools", "mode": "never", "tools": [{"type": "function", "name": "get_weather"}]}, "tool_choice.mode"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "nope"}]}, "tool_choice.tools[0]"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": ["x"]}]}, "tool_choice.tools"),
        (7, "tool_choice"),
    ],
)  # fmt: skip
def test_a_choice_of_what_is_not_there_is_named(wire: Wire, choice: Any, param: str) -> None:
    reply = wire.http.post("/responses", json={"input": "Hello", "tools": [WEATHER], "tool_choice": choice})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("R30")
def test_the_limit_of_the_output_holds_for_the_whole_response(tmp_path: Path) -> None:
    model = ScriptedModel()
    with talking(tmp_path, model) as talk:
        store = talk.sdk.vector_stores.create().id
        search = {"type": "file_search", "vector_store_ids": [store]}
        body = talk.post(input="Which file? Search it.", tools=[search], max_output_tokens=1000).json()
    first, second = (prompt.max_output_tokens for prompt in model.prompts)
    assert first == 1000
    assert second is not None and second < 1000
    assert body["status"] == "completed"


@pytest.mark.wire("R30")
def test_a_call_that_is_cut_is_not_made(tmp_path: Path) -> None:
    half: list[Delta] = [ToolCallDelta(0, '{"queries": ["a', call_id="call_1", name="file_search"), Finish("length")]
    with talking(tmp_path, ScriptedModel([half, "Never said."])) as talk:
        store = talk.sdk.vector_stores.create().id
        body = talk.post(input="Which?", tools=[{"type": "file_search", "vector_store_ids": [store]}]).json()
    assert (body["status"], body["output"]) == ("incomplete", [])


@pytest.mark.wire("R23")
def test_a_custom_tool_takes_text(tmp_path: Path) -> None:
    shell = {"type": "custom", "name": "shell", "description": "Runs a command."}
    step: list[Delta] = [
        ToolCallDelta(0, '{"input": "ls', call_id="call_1", name="shell"),
        ToolCallDelta(0, ' -l"}'),
        Finish("tool_calls"),
    ]
    model = ScriptedModel([step])
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "What is here?", "tools": [shell]})
        (call,) = events[-1]["response"]["output"]
        assert (call["type"], call["name"], call["input"], call["call_id"]) == (
            "custom_tool_call",
            "shell",
            "ls -l",
            "call_1",
        )
        output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "a.txt"}
        answer = talk.post(input=[output], previous_response_id=events[0]["response"]["id"]).json()
    assert "a.txt" in texts(answer)[0]
    assert model.prompts[0].tools[0].parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }


@pytest.mark.wire("R31")
def test_what_a_run_cost_is_told_however_it_ends(tmp_path: Path) -> None:
    with talking(tmp_path, ScriptedModel()) as talk:
        wire = Wire(talk.http)
        failed = wire.stream({"input": "[[tokens:50]] [[fail:after:20]]"})[-1]["response"]
        assert failed["usage"]["output_tokens"] > 10
        assert failed["usage"]["input_tokens"] > 0
        before = wire.stream({"input": "[[fail:before]]"})[-1]["response"]
        assert before["usage"]["total_tokens"] == 0
