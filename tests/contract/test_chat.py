"""`/v1/chat/completions` through the official SDK and plain HTTP."""

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from test_responses import WEATHER

TOOL: Any = {"type": "function", "function": {key: WEATHER[key] for key in ("name", "description", "parameters")}}


def chunks(http: httpx2.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a streamed completion, each valid against the SDK's type."""
    with http.stream("POST", "/chat/completions", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        *frames, done, rest = reply.read().decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    found = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    for chunk in found:
        if "error" not in chunk:
            ChatCompletionChunk.model_validate(chunk, strict=True)
    return found


@pytest.mark.wire("C1")
def test_a_completion_is_whole(http: httpx2.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    body = http.post("/chat/completions", json={"messages": messages}).json()
    completion = ChatCompletion.model_validate(body, strict=True)
    assert completion.choices[0].message.content == "You said: Hello"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens > 0
    assert body["choices"][0]["message"]["refusal"] is None


@pytest.mark.wire("C2")
@pytest.mark.parametrize("include_usage", [True, False])
def test_chunks_follow_the_grammar(http: httpx2.Client, include_usage: bool) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream_options": {"include_usage": include_usage}}
    found = chunks(http, body)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in found}) == 1
    if include_usage:
        *found, last = found
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in found)
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in found]
    assert reasons == [None] * (len(found) - 1) + ["stop"]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in found) == "You said: Hello"


@pytest.mark.wire("C3")
def test_a_tool_loop(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What's the weather like in San Francisco?"}]
    found = chunks(http, {"messages": messages, "tools": [TOOL]})
    calls = [call for chunk in found for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert [("id" in call, "name" in call["function"]) for call in calls] == [(True, True)] + [(False, False)] * (
        len(calls) - 1
    )
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"location": "San Francisco"}
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    asked = sdk.chat.completions.create(messages=messages, tools=[TOOL], model="scripted")
    message = asked.choices[0].message
    assert message.content is None
    assert message.tool_calls
    output = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 20 degrees"}
    answer = sdk.chat.completions.create(messages=[*messages, message.to_dict(), output], model="scripted")  # type: ignore[list-item]
    assert "sunny, 20 degrees" in (answer.choices[0].message.content or "")


@pytest.mark.wire("C4", "E1")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": 5}, "stop"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools[0].function.name"),
    ],
)
def test_a_mistake_is_named(http: httpx2.Client, body: dict[str, Any], param: str) -> None:
    reply = http.post("/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.wire("C5")
def test_settings_are_obeyed(sdk: openai.OpenAI) -> None:
    hello: list[Any] = [{"role": "user", "content": "[[tokens:50]]"}]
    cut = sdk.chat.completions.create(messages=hello, model="scripted", max_tokens=5)
    assert cut.choices[0].finish_reason == "length"
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    answer = sdk.chat.completions.create(
        messages=[{"role": "user", "content": "Is it so?"}], model="scripted", response_format=form
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)
    stopped = sdk.chat.completions.create(
        messages=[{"role": "user", "content": "Say exactly: one two three four"}], model="scripted", stop=["three"]
    )
    assert (stopped.choices[0].message.content or "").strip() == "one two"


@pytest.mark.wire("C2")
def test_a_model_that_breaks_off_says_so(http: httpx2.Client) -> None:
    found = chunks(http, {"messages": [{"role": "user", "content": "[[tokens:20]] [[fail:after:5]]"}]})
    assert found[-1]["error"]["code"] == "server_error"
