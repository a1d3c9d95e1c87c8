"""What a request demands of a model that does not do it by itself."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from talk import talking
from test_responses import WEATHER
from wire import Wire

from backtalk.domain.model import (
    Delta,
    Finish,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.testing import ScriptedModel
from support import until

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


@pytest.mark.wire("R20", "R30")
def test_all_tries_together_keep_to_the_limit(tmp_path: Path) -> None:
    tries = [[TextDelta("It is warm."), Finish("stop", Usage(10, 20))] for _ in range(3)]
    model = ScriptedModel(tries, structured=False)
    with talking(tmp_path, model) as talk:
        body = talk.post(input="Rome?", text=FORMAT, max_output_tokens=40).json()
    assert [prompt.max_output_tokens for prompt in model.prompts] == [40, 20]
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["usage"]["output_tokens"] == 40


OTHER = {"type": "function", "name": "other"}
DROPPED = called("other")


@pytest.mark.wire("R22")
@pytest.mark.parametrize(
    "besides", [[TextDelta("I look.")], [ReasoningDelta("Hm.")], []], ids=["text", "thought", "none"]
)
@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
    ],
    ids=["named", "allowed"],
)
def test_a_call_that_is_not_allowed_is_not_the_one_that_was_demanded(
    tmp_path: Path, choice: dict[str, Any], besides: list[Delta]
) -> None:
    model = ScriptedModel([[*besides, *DROPPED, Finish("tool_calls")], [*called("get_weather"), Finish("tool_calls")]])
    with talking(tmp_path, model) as talk:
        body = talk.post(input="Rome?", tools=[WEATHER, OTHER], tool_choice=choice).json()
    assert [item["name"] for item in body["output"] if item["type"] == "function_call"] == ["get_weather"]
    assert texts(body) == []
    assert len(model.prompts) == 2


@pytest.mark.wire("R22", "R25")
def test_thinking_and_a_call_are_no_answer_where_none_may_be_made(tmp_path: Path) -> None:
    model = ScriptedModel(
        [[ReasoningDelta("Hm."), *DROPPED, Finish("tool_calls")], [ReasoningDelta("So."), TextDelta("Sunny.")]]
    )
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "Rome?", "tools": [WEATHER, OTHER], "tool_choice": "none"})
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "reasoning", "message"]
    assert [item["content"][0]["text"] for item in output] == ["Hm.", "So.", "Sunny."]  # two tries, two thoughts


@pytest.mark.wire("R22", "E2")
def test_what_this_server_does_not_run_cannot_be_required(wire: Wire) -> None:
    def param(choice: Any, *tools: dict[str, Any]) -> tuple[int, str]:
        reply = wire.http.post("/responses", json={"input": "x", "tools": tools, "tool_choice": choice})
        return reply.status_code, reply.json()["error"]["param"]

    search = {"type": "web_search"}
    empty = {"type": "namespace", "name": "crm", "description": "d", "tools": []}
    assert param("required", search) == (400, "tool_choice")
    assert param("required", empty) == (400, "tool_choice")
    assert param({"type": "namespace", "name": "crm"}, {**empty, "tools": [OTHER]}) == (400, "tool_choice")
    only = {"type": "allowed_tools", "mode": "required", "tools": [search]}
    assert param(only, search, WEATHER) == (400, "tool_choice.tools")


NAMESPACE = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [{"type": "function", "name": "find"}],
}


@pytest.mark.wire("R22")
@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "required",
        {"type": "function", "name": "find"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "namespace", "name": "crm"}]},
    ],
    ids=["auto", "required", "named", "allowed"],
)
def test_a_function_of_a_namespace_is_called_by_both_names(tmp_path: Path, choice: Any) -> None:
    model = ScriptedModel([[*called("find"), Finish("tool_calls")]])
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "Ada?", "tools": [WEATHER, NAMESPACE], "tool_choice": choice})
        (call,) = events[-1]["response"]["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Ada Lovelace"}
        answer = talk.post(input=[output], previous_response_id=events[0]["response"]["id"]).json()
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "crm", "find")
    assert [tool.name for tool in model.prompts[0].tools] == ["get_weather", "find"]
    assert "Ada Lovelace" in texts(answer)[0]


@pytest.mark.wire("R22")
def test_functions_of_one_name_in_two_namespaces_are_told_apart(tmp_path: Path) -> None:
    model = ScriptedModel([[*called("erp__find"), *called("crm__find", 1), Finish("tool_calls")]])
    with talking(tmp_path, model) as talk:
        body = talk.post(input="Ada?", tools=[NAMESPACE, {**NAMESPACE, "name": "erp"}]).json()
    assert [(call["namespace"], call["name"]) for call in body["output"]] == [("erp", "find"), ("crm", "find")]


@pytest.mark.wire("R8", "R22")
def test_a_function_call_output_answers_a_call_of_a_shell(wire: Wire) -> None:
    action = {"type": "exec", "command": ["ls"], "env": {}}
    call = {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "status": "completed", "action": action}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"}
    assert wire.http.post("/responses", json={"input": [call, output]}).status_code == 200
    assert wire.http.post("/responses", json={"input": [output]}).status_code == 400


@pytest.mark.wire("S9", "S10")
@pytest.mark.parametrize("batch", [1, 100])
def test_calls_come_one_after_another_also_when_they_are_written_at_once(tmp_path: Path, batch: int) -> None:
    step: list[Delta] = [
        *(ToolCallDelta(i, call_id="call_1" if i < 2 else None, name="get_weather") for i in range(3)),
        *(ToolCallDelta(i, piece) for piece in ('{"loca', 'tion": "R', 'ome"}') for i in (2, 0, 1)),
        Finish("tool_calls"),
    ]
    model = Batched([step[at : at + batch] for at in range(0, len(step), batch)])
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "Rome?", "tools": [WEATHER]})
    output = events[-1]["response"]["output"]
    assert [call["arguments"] for call in output] == ['{"location": "Rome"}'] * 3
    ids = [call["call_id"] for call in output]
    assert ids[0] == "call_1" and len(set(ids)) == 3
    steps = [event["output_index"] for event in events if "output_index" in event]
    assert steps == sorted(steps)


class Batched:
    """Says batches of deltas, then is done, or falls silent or breaks off."""

    id = "scripted"

    def __init__(self, batches: Sequence[Sequence[Delta]], *, end: str = "done") -> None:
        self.batches = batches
        self.end = end

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        for batch in self.batches:
            yield batch
        if self.end == "silent":
            await asyncio.Event().wait()
        if self.end == "broken":
            raise ConnectionError("It broke.")


@pytest.mark.wire("S6", "S9")
@pytest.mark.parametrize("kind", ["function", "custom"])
def test_a_call_that_breaks_off_before_its_arguments_has_none(tmp_path: Path, kind: str) -> None:
    tool = WEATHER if kind == "function" else {"type": "custom", "name": "get_weather"}
    model = Batched([[ToolCallDelta(0, "", "call_1", "get_weather")]], end="broken")
    with talking(tmp_path, model) as talk:
        events = Wire(talk.http).stream({"input": "Rome?", "tools": [tool]})
    (call,) = events[-1]["response"]["output"]
    assert events[-1]["type"] == "response.failed"
    assert call.get("arguments", call.get("input")) == ""
    assert not [event for event in events if event["type"].endswith("arguments.delta")]


@pytest.mark.wire("R17", "R20", "R31")
def test_what_was_held_back_is_counted_when_it_is_cancelled(tmp_path: Path) -> None:
    model = Batched([[TextDelta("It is warm, I should say. " * 10)]], end="silent")
    with talking(tmp_path, model) as talk:
        body = talk.post(input="Rome?", text=FORMAT, background=True).json()
        until(lambda: talk.http.get(f"/responses/{body['id']}").json()["status"] == "in_progress")
        until(lambda: talk.http.post(f"/responses/{body['id']}/cancel").status_code == 200)
        found = talk.http.get(f"/responses/{body['id']}").json()
    assert (found["status"], found["output"]) == ("cancelled", [])
    assert found["usage"]["output_tokens"] > 50
    assert found["usage"]["input_tokens"] > 0


@pytest.mark.wire("R20", "R31")
def test_tries_that_nobody_saw_are_counted(tmp_path: Path) -> None:
    script = [[TextDelta("It is warm, I should say. " * 10), Finish()] for _ in range(3)]
    with talking(tmp_path, ScriptedModel(script, structured=False)) as talk:
        last = Wire(talk.http).stream({"input": "Rome?", "text": FORMAT})[-1]["response"]
    assert (last["status"], last["output"]) == ("failed", [])
    assert last["usage"]["output_tokens"] > 150


@pytest.mark.wire("C5", "R20")
@pytest.mark.parametrize("structured", [True, False])
def test_json_that_a_stop_sequence_cuts_is_given_as_it_is(tmp_path: Path, structured: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    body = {"messages": [{"role": "user", "content": "Rome?"}], "response_format": form, "stop": ["Rome"]}
    model = ScriptedModel([[TextDelta('{"city": "'), Finish()]] * 2, structured=structured)
    with talking(tmp_path, model) as talk:
        reply = talk.post("/chat/completions", **body)
        assert reply.status_code == 200, reply.text
        with talk.http.stream("POST", "/chat/completions", json={**body, "stream": True}) as stream:
            streamed = stream.read().decode()
    (choice,) = reply.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"city": "', "stop")
    assert "error" not in streamed and streamed.endswith("data: [DONE]\n\n")
