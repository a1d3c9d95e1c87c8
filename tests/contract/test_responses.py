"""`/v1/responses` as clients rely on it, through the official SDK and plain HTTP."""

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response
from wire import Wire

from support import until

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Current weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
REQUIRED_KEYS = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "background",
    "error",
    "incomplete_details",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "model",
    "output",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "truncation",
    "usage",
    "metadata",
]


@pytest.mark.wire("R1")
def test_a_response_is_whole(wire: Wire) -> None:
    body = wire.http.post("/responses", json={"input": "Hello"}).json()
    assert [key for key in REQUIRED_KEYS if key not in body] == []
    response = Response.model_validate(body, strict=True)
    assert response.status == "completed"
    assert response.output_text == "You said: Hello"
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"] > 0
    assert body["text"] == {"format": {"type": "text"}}
    assert isinstance(body["created_at"], int)
    assert wire.http.get(f"/responses/{body['id']}").json() == body


@pytest.mark.wire("R2")
def test_input_comes_in_every_shape(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(input="My name is Ada.")
    easy = [{"role": "user", "content": "My name is Ada."}]
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "My name is Ada."}]}]
    sent_back = [item.model_dump() for item in first.output]
    without_ids = [{k: v for k, v in item.items() if k not in ("id", "status")} for item in sent_back]
    assistant_text = [{"role": "assistant", "content": "Hello!"}]
    question = [{"role": "user", "content": "What is my name?"}]
    for shape in (easy, parts, easy + sent_back, easy + without_ids, easy + assistant_text):
        answer = sdk.responses.create(input=shape + question)  # type: ignore[arg-type]
        assert "Ada" in answer.output_text, shape


@pytest.mark.wire("R3")
def test_a_response_continues_another(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(input="My name is Ada.", instructions="Be brief.", tools=[WEATHER])  # type: ignore[list-item]
    second = sdk.responses.create(previous_response_id=first.id, input="What is the capital of France?")
    third = sdk.responses.create(previous_response_id=second.id, input="What is my name?")
    assert "Ada" in third.output_text
    assert third.instructions is None
    assert third.tools == []
    branch = sdk.responses.create(previous_response_id=first.id, input="What is my name?")
    assert "Ada" in branch.output_text


@pytest.mark.wire("R3", "R8", "R9")
def test_a_function_is_called_and_its_output_comes_back(sdk: openai.OpenAI) -> None:
    question = "What's the weather like in San Francisco?"
    asked = sdk.responses.create(input=question, tools=[WEATHER])  # type: ignore[list-item]
    (call,) = asked.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"location": "San Francisco"}
    output = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 20 degrees"}]
    answer = sdk.responses.create(previous_response_id=asked.id, input=output)  # type: ignore[arg-type]
    assert "sunny, 20 degrees" in answer.output_text
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output with call_id call_x"):
        sdk.responses.create(input=[{"type": "function_call_output", "call_id": "call_x", "output": "?"}])


@pytest.mark.wire("R4")
def test_an_unknown_previous_response_is_refused(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(previous_response_id="resp_none", input="Hello")
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


@pytest.mark.wire("R4")
def test_a_running_response_cannot_be_continued_yet(sdk: openai.OpenAI) -> None:
    running = sdk.responses.create(input="[[pace:0.05]] [[tokens:500]]", background=True)
    with pytest.raises(openai.BadRequestError, match="still in progress") as caught:
        sdk.responses.create(previous_response_id=running.id, input="And?")
    assert caught.value.param == "previous_response_id"
    sdk.responses.cancel(running.id)
    assert sdk.responses.create(previous_response_id=running.id, input="And?").status == "completed"


@pytest.mark.wire("R5", "S1")
def test_what_is_not_stored_is_gone(sdk: openai.OpenAI, wire: Wire) -> None:
    events = wire.stream({"input": "Hello", "store": False})
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["id"].startswith("msg_")
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response["id"])
    with pytest.raises(openai.BadRequestError):
        sdk.responses.create(previous_response_id=response["id"], input="And?")


@pytest.mark.wire("R6")
def test_a_conversation_goes_on(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "My name is Ada."}])
    answer = sdk.responses.create(conversation=conversation.id, input="What is my name?")
    assert "Ada" in answer.output_text
    assert answer.conversation is not None
    assert answer.conversation.id == conversation.id
    roles = [item.role for item in sdk.conversations.items.list(conversation.id, order="asc")]  # type: ignore[union-attr]
    assert roles == ["user", "user", "assistant"]
    failing = sdk.with_options(max_retries=0)
    with pytest.raises(openai.APIStatusError):
        failing.responses.create(conversation=conversation.id, input="[[fail:before]]")
    assert len(list(sdk.conversations.items.list(conversation.id))) == 3


@pytest.mark.wire("R7", "E2")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True, "store": False}, "background"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"conversation": "nonsense"}, "conversation"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].vector_store_ids"),
        ({"tools": [{"type": "crystal_ball"}]}, "tools[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "smell", "text": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": ["x"]}, "input[0]"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"truncation": "sometimes"}, "truncation"),
    ],
)
def test_a_mistake_is_named(wire: Wire, body: dict[str, Any], param: str) -> None:
    reply = wire.http.post("/responses", json={"input": "Hello", **body})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert not str(error["code"]).isdigit()


@pytest.mark.wire("R9")
@pytest.mark.parametrize(
    ("choice", "question", "calls"),
    [
        ("none", "What's the weather like in San Francisco?", 0),
        ("auto", "Hello", 0),
        ("required", "Hello", 1),
        ({"type": "function", "name": "get_weather"}, "Hello", 1),
    ],
)
def test_tool_choice_is_obeyed(sdk: openai.OpenAI, choice: Any, question: str, calls: int) -> None:
    answer = sdk.responses.create(input=question, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)  # type: ignore[list-item]
    assert [item.type for item in answer.output].count("function_call") == calls


@pytest.mark.wire("R10")
def test_a_cut_answer_is_incomplete(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(input="[[tokens:100]]", max_output_tokens=20)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[-1].status == "incomplete"  # type: ignore[union-attr]


@pytest.mark.wire("R11")
def test_json_fits_its_schema(sdk: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}, "sky": {"enum": ["blue", "grey"]}},
        "required": ["city", "degrees", "sky"],
        "additionalProperties": False,
    }
    text: Any = {"format": {"type": "json_schema", "name": "weather", "schema": schema, "strict": True}}
    found = json.loads(sdk.responses.create(input="The weather in Rome, please", text=text).output_text)
    assert set(found) == {"city", "degrees", "sky"}
    assert isinstance(found["degrees"], int)
    assert found["sky"] in ("blue", "grey")


@pytest.mark.wire("R12")
def test_input_items_are_listed(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(input=[{"role": "user", "content": f"line {i}"} for i in range(5)])
    texts = [item.content[0].text for item in sdk.responses.input_items.list(answer.id, limit=2)]  # type: ignore[union-attr]
    assert texts == [f"line {i}" for i in (4, 3, 2, 1, 0)]
    ascending = sdk.responses.input_items.list(answer.id, order="asc", limit=2)
    assert ascending.has_more is True
    assert ascending.data[0].content[0].text == "line 0"  # type: ignore[union-attr]


@pytest.mark.wire("R13")
def test_a_deleted_response_is_gone(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(input="My name is Ada.")
    second = sdk.responses.create(previous_response_id=first.id, input="Hello")
    sdk.responses.delete(first.id)
    for call in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel, sdk.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(first.id)
    with pytest.raises(openai.BadRequestError):
        sdk.responses.create(previous_response_id=first.id, input="And?")
    third = sdk.responses.create(previous_response_id=second.id, input="What is my name?")
    assert "Ada" not in third.output_text


@pytest.mark.wire("R14")
def test_an_item_is_referred_to(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(input="My name is Ada.")
    (said,) = sdk.responses.input_items.list(first.id)
    reference: Any = {"type": "item_reference", "id": said.id}
    answer = sdk.responses.create(input=[reference, {"role": "user", "content": "What is my name?"}])
    assert "Ada" in answer.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(input=[{"type": "item_reference", "id": "msg_none"}])
    assert caught.value.param == "input[0].id"


@pytest.mark.wire("R17")
def test_a_background_response_is_polled_and_cancelled(sdk: openai.OpenAI) -> None:
    queued = sdk.responses.create(input="[[tokens:10]]", background=True)
    assert queued.status == "queued"
    until(lambda: sdk.responses.retrieve(queued.id).status == "completed")
    running = sdk.responses.create(input="[[pace:0.05]] [[tokens:500]]", background=True)
    until(lambda: sdk.responses.retrieve(running.id).status == "in_progress")
    cancelled = sdk.responses.cancel(running.id)
    assert cancelled.status == "cancelled"
    assert sdk.responses.cancel(running.id) == cancelled
    assert sdk.responses.retrieve(running.id).status == "cancelled"
    assert sdk.responses.cancel(queued.id).status == "completed"


@pytest.mark.wire("R18")
def test_the_receipt_tells_what_went_in(sdk: openai.OpenAI, wire: Wire) -> None:
    first = sdk.responses.create(input="My name is Ada.")
    second = sdk.responses.create(previous_response_id=first.id, input="What is my name?")
    receipt = wire.http.get(f"/responses/{second.id}/context").json()
    assert [item["source"] for item in receipt["items"]] == ["conversation", "conversation", "input"]
    assert all(item["tokens"] > 0 for item in receipt["items"])
    assert receipt["cut"] == []
    assert wire.http.get("/responses/resp_none/context").status_code == 404


@pytest.mark.wire("R19")
def test_metadata_is_echoed_and_bounded(sdk: openai.OpenAI) -> None:
    assert sdk.responses.create(input="Hello", metadata={"a": "b"}).metadata == {"a": "b"}
    for metadata in ({str(i): "x" for i in range(17)}, {"k" * 65: "x"}, {"k": "v" * 513}, {"k": 5}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.responses.create(input="Hello", metadata=metadata)  # type: ignore[arg-type]
        assert (caught.value.param or "").startswith("metadata")


@pytest.mark.wire("R24")
def test_the_tokens_of_an_input_are_counted_before_they_are_spent(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    def count(**fields: Any) -> int:
        answer = sdk.responses.input_tokens.count(model="scripted", **fields)
        assert answer.object == "response.input_tokens"
        return answer.input_tokens

    short, long = count(input="one"), count(input="one two three four five six seven eight")
    assert 0 < short < long
    assert count(input="one", instructions="Be kind and brief in all that you say.") > short
    function: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    assert count(input="one", tools=[function]) > short
    before = sdk.responses.create(model="scripted", input="[[tokens:50]] Something long.")
    assert count(input="one", previous_response_id=before.id) > short + 50
    for body, status in [({"input": "x", "model": "nobody"}, 404), ({"previous_response_id": "resp_0", "input": "x"}, 400), ({}, 400)]:  # fmt: skip
        assert http.post("/responses/input_tokens", json=body).status_code == status


@pytest.mark.wire("R25")
def test_thinking_is_told_in_summaries_and_sealed(wire: Wire) -> None:
    body = {"input": "[[summarise]] Hello", "reasoning": {"effort": "low", "summary": "auto"}}
    plain = wire.stream(body)[-1]["response"]
    assert plain["reasoning"] == {"effort": "low", "summary": "auto"}
    thought = plain["output"][0]
    assert [part["type"] for part in thought["summary"]] == ["summary_text", "summary_text"]
    assert thought["encrypted_content"] is None
    asked = wire.stream({**body, "include": ["reasoning.encrypted_content"], "store": False})[-1]["response"]
    assert asked["output"][0]["encrypted_content"] == "sealed"
    more = wire.http.post("/responses", json={"input": [*asked["output"], {"role": "user", "content": "And?"}]})
    assert more.status_code == 200
    for reasoning, param in (
        ({"effort": "enormous"}, "reasoning.effort"),
        ({"effort": 5}, "reasoning.effort"),
        ({"summary": "long"}, "reasoning.summary"),
        ("high", "reasoning"),
    ):
        reply = wire.http.post("/responses", json={"input": "Hello", "reasoning": reasoning})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("R26")
def test_log_probabilities_are_told_to_who_asks(wire: Wire, sdk: openai.OpenAI) -> None:
    body = {"input": "Hello", "include": ["message.output_text.logprobs"], "top_logprobs": 3}
    events = wire.stream(body)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["logprobs"][0]["token"] for event in deltas] == [event["delta"] for event in deltas]
    part = events[-1]["response"]["output"][0]["content"][0]
    assert [token["token"] for token in part["logprobs"]] == [event["delta"] for event in deltas]
    assert part["logprobs"][0]["top_logprobs"][0]["token"] == deltas[0]["delta"]
    assert sdk.responses.create(input="Hello", top_logprobs=3).output[0].content[0].logprobs == []  # type: ignore[union-attr]


@pytest.mark.wire("R26", "S4")
def test_what_a_stream_was_asked_to_show_its_resumption_shows_too(wire: Wire) -> None:
    body = {"input": "[[summarise]] Hello", "include": ["reasoning.encrypted_content"], "stream": True}
    with wire.http.stream("POST", "/responses", json=body) as reply:
        first = reply.read()
    response = wire.checked(first)[-1]["response"]
    assert response["output"][0]["encrypted_content"] == "sealed"
    assert wire.replay(response["id"]) == first
    assert wire.http.get(f"/responses/{response['id']}").json() == response
    reply = wire.http.post("/responses", json={"input": "Hello", "include": ["file_search_call.results", "my.secrets"]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "include[1]")
    assert wire.http.get(f"/responses/{response['id']}", params={"include[]": "nope"}).status_code == 400


@pytest.mark.wire("R32", "E7")
def test_what_is_accepted_and_what_is_not(wire: Wire) -> None:
    made = wire.http.post("/responses?beta=true", json={"input": "Hello", "prompt_cache_retention": "24h"}).json()
    assert made["prompt_cache_retention"] == "24h"
    for method, path, fields in (
        ("GET", f"/responses/{made['id']}", None),
        ("GET", f"/responses/{made['id']}/input_items", None),
        ("POST", f"/responses/{made['id']}/cancel", None),
        ("POST", "/responses/input_tokens", {"input": "Hello"}),
        ("POST", "/conversations", {}),
        ("DELETE", f"/responses/{made['id']}", None),
    ):
        assert wire.http.request(method, f"{path}?beta=true", json=fields).status_code == 200, path
    for body, param in (
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"stream": "true"}, "stream"),
        ({"store": 1}, "store"),
        ({"temperature": "0.5"}, "temperature"),
        ({"max_output_tokens": "20"}, "max_output_tokens"),
        ({"text": {"verbosity": "chatty"}}, "text.verbosity"),
        ({"input": []}, "input"),
        ({"previous_response_id": ""}, "previous_response_id"),
    ):
        reply = wire.http.post("/responses", json={"input": "Hello", **body})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("R33")
def test_a_foreground_stream_is_cancelled_by_another_connection(sdk: openai.OpenAI, wire: Wire) -> None:
    conversation = sdk.conversations.create().id
    body = {"input": "[[pace:0.02]] [[tokens:3000]]", "conversation": conversation, "stream": True}
    with wire.http.stream("POST", "/responses", json=body) as reply:
        lines = reply.iter_lines()
        assert next(lines) == "event: response.created"
        created = json.loads(next(lines).removeprefix("data: "))["response"]
        assert sdk.responses.cancel(created["id"]).status == "cancelled"
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert not any("response.completed" in line for line in rest)
    found = sdk.responses.retrieve(created["id"])
    assert found.status == "cancelled"
    assert found.usage is not None
    assert list(sdk.conversations.items.list(conversation)) == []


@pytest.mark.wire("R33")
def test_a_background_stream_begins_queued(wire: Wire) -> None:
    events = wire.stream({"input": "Hello", "background": True})
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert events[-1]["type"] == "response.completed"


@pytest.mark.wire("R34")
def test_what_was_deleted_is_readable_nowhere(sdk: openai.OpenAI, wire: Wire) -> None:
    first = sdk.responses.create(input="My secret word is Rosebud.")
    (said,) = sdk.responses.input_items.list(first.id)
    answer_id = first.output[0].id
    follower = sdk.responses.create(input="Hello", previous_response_id=first.id)
    background = sdk.responses.create(input="[[pace:0.05]] [[tokens:500]]", background=True)
    sdk.responses.delete(background.id)
    sdk.responses.delete(first.id)
    for response_id in (first.id, background.id):
        for path in ("", "?stream=true", "?stream=true&starting_after=2", "/context", "/input_items"):
            assert wire.http.get(f"/responses/{response_id}{path}").status_code == 404, path
    for item_id in (said.id, answer_id):
        reference: Any = [{"type": "item_reference", "id": item_id}]
        with pytest.raises(openai.BadRequestError):
            sdk.responses.create(input=reference)
    told = sdk.responses.create(input="What is my secret word?", previous_response_id=follower.id)
    assert "Rosebud" not in told.output_text
    for path in (f"/responses/{follower.id}/context", f"/responses/{follower.id}", f"/responses/{told.id}/context"):
        assert "Rosebud" not in wire.http.get(path).text


@pytest.mark.wire("E9")
def test_a_clients_own_request_id_comes_back(wire: Wire) -> None:
    reply = wire.http.get("/models", headers={"x-client-request-id": "my-request-7"})
    assert reply.headers["x-client-request-id"] == "my-request-7"
    assert reply.headers["x-request-id"].startswith("req_")
    assert "x-client-request-id" not in wire.http.get("/models", headers={"x-client-request-id": "x" * 600}).headers
