"""`/v1/chat/completions` through the official SDK and plain HTTP."""

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Completion
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


@pytest.mark.wire("C6", "C1", "C2")
def test_several_answers_come_under_one_id(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    body: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}], "n": 3}
    whole = http.post("/chat/completions", json=body).json()
    ChatCompletion.model_validate(whole, strict=True)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in whole["choices"]} == {"You said: Hello"}
    single = http.post("/chat/completions", json={**body, "n": 1}).json()["usage"]
    assert whole["usage"]["prompt_tokens"] == single["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == 3 * single["completion_tokens"]
    chunks = list(sdk.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    texts = ["", "", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
    assert texts == ["You said: Hello"] * 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]
    failed = http.post("/chat/completions", json={**body, "messages": [{"role": "user", "content": "[[fail:before]]"}]})
    assert failed.status_code == 502
    text = http.post(
        "/chat/completions",
        json={**body, "stream": True, "messages": [{"role": "user", "content": "[[tokens:9]] [[fail:after:3]]"}]},
    ).text
    assert '"error"' in text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.wire("C7")
def test_log_probabilities(sdk: openai.OpenAI) -> None:
    body: Any = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "Hello"}],
        "logprobs": True,
        "top_logprobs": 2,
    }
    (choice,) = sdk.chat.completions.create(**body).choices
    assert choice.logprobs and choice.logprobs.content
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    tokens = [
        token.token
        for chunk in sdk.chat.completions.create(**body, stream=True)
        for part in chunk.choices
        if part.logprobs
        for token in part.logprobs.content or ()
    ]
    assert "".join(tokens) == choice.message.content
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{**body, "logprobs": False})
    assert caught.value.param == "top_logprobs"


@pytest.mark.wire("C8", "C3")
def test_custom_tools_and_allowed_tools(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    shell: Any = {"type": "custom", "custom": {"name": "shell", "description": "Runs a command."}}
    other: Any = {"type": "function", "function": {"name": "other"}}
    body: Any = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "List the files"}],
        "tools": [shell, other],
    }
    choice: Any = {"type": "custom", "custom": {"name": "shell"}}
    message = sdk.chat.completions.create(**body, tool_choice=choice).choices[0].message
    assert message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "custom" and call.custom.name == "shell" and call.custom.input
    streamed = http.post("/chat/completions", json={**body, "tool_choice": choice, "stream": True}).text
    assert '"custom":{"name":"shell","input":""}' in streamed
    more = [*body["messages"], message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "a.txt"}]
    assert "a.txt" in (
        sdk.chat.completions.create(model="scripted", messages=more, tools=body["tools"]).choices[0].message.content
        or ""
    )
    only = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    calls = sdk.chat.completions.create(**body, tool_choice=only).choices[0].message.tool_calls or []  # type: ignore[arg-type]
    assert [call.function.name for call in calls if call.type == "function"] == ["other"]
    for wrong in (
        {"type": "custom", "custom": {"name": "nope"}},
        {"type": "allowed_tools", "allowed_tools": {"tools": []}},
    ):
        reply = http.post("/chat/completions", json={**body, "tool_choice": wrong})
        assert (reply.status_code, reply.json()["error"]["param"].split(".")[0]) == (400, "tool_choice")


@pytest.mark.wire("C9")
def test_stored_completions_are_kept(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, image]},
    ]
    topic = {"topic": "greetings"}
    made = [
        sdk.chat.completions.create(model="scripted", messages=messages, store=True, metadata=topic, n=n)
        for n in (1, 2, 1)
    ]
    listed = list(sdk.chat.completions.list(metadata=topic, limit=2))
    assert {one.id for one in listed} == {one.id for one in made}
    assert [len(one.choices) for one in listed if one.id == made[1].id] == [2]
    assert [one.id for one in sdk.chat.completions.list(metadata=topic, order="desc")] == [one.id for one in listed][
        ::-1
    ]
    assert list(sdk.chat.completions.list(metadata={"topic": "none"})) == []
    assert list(sdk.chat.completions.list(metadata=topic, model="other")) == []
    found = sdk.chat.completions.retrieve(made[0].id)
    assert found.choices == made[0].choices
    assert http.get(f"/chat/completions/{made[0].id}").json()["metadata"] == topic
    changed: Any = sdk.chat.completions.update(made[0].id, metadata={"topic": "farewells"})
    assert changed.metadata == {"topic": "farewells"}
    kept = list(sdk.chat.completions.messages.list(made[0].id, limit=1))
    assert [message.role for message in kept] == ["system", "user"]
    assert kept[1].content == "Hello"
    assert kept[1].content_parts and [part.type for part in kept[1].content_parts] == ["text", "image_url"]
    gone = sdk.chat.completions.delete(made[1].id)
    assert (gone.object, gone.deleted) == ("chat.completion.deleted", True)
    assert made[1].id not in [one.id for one in sdk.chat.completions.list(metadata=topic)]
    forgotten = sdk.chat.completions.create(model="scripted", messages=messages)
    response = sdk.responses.create(model="scripted", input="Hello")
    for unknown in (made[1].id, forgotten.id, response.id.replace("resp_", "chatcmpl-"), "chatcmpl-0"):
        for path in ("", "/messages"):
            assert http.get(f"/chat/completions/{unknown}{path}").status_code == 404
        assert http.delete(f"/chat/completions/{unknown}").status_code == 404
    assert http.get("/chat/completions", params={"after": "chatcmpl-0"}).json()["error"]["param"] == "after"


@pytest.mark.wire("C10")
def test_the_older_completions(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    one = sdk.completions.create(model="scripted", prompt="Hello", max_tokens=50)
    assert (one.object, one.choices[0].text, one.choices[0].finish_reason) == (
        "text_completion",
        "You said: Hello",
        "stop",
    )
    Completion.model_validate(http.post("/completions", json={"prompt": "Hello", "logprobs": 2}).json(), strict=True)
    many = sdk.completions.create(model="scripted", prompt=["one", "two"], n=2, echo=True, max_tokens=50)
    assert [choice.text for choice in many.choices] == [*["oneYou said: one"] * 2, *["twoYou said: two"] * 2]
    assert sdk.completions.create(model="scripted", prompt="[[tokens:100]]").choices[0].finish_reason == "length"
    texts = ["", ""]
    for chunk in sdk.completions.create(model="scripted", prompt=["one", "two"], stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["You said: one", "You said: two"]
    for body, param in (
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "stop": 5}, "stop"),
    ):
        reply = http.post("/completions", json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("C11")
def test_roles_images_and_thinking(sdk: openai.OpenAI) -> None:
    told: Any = [
        {"role": "developer", "content": "Speak like a sailor."},
        {"role": "user", "content": "What are your instructions?"},
    ]
    assert "sailor" in (sdk.chat.completions.create(model="scripted", messages=told).choices[0].message.content or "")
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    file: Any = {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}}
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Look"}, image, file]}]
    answer = sdk.chat.completions.create(model="scripted", messages=parts).choices[0].message.content or ""
    assert "You sent 1 image." in answer and "a.txt" in answer
    thought = sdk.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "[[think]] Hello"}], reasoning_effort="low"
    )
    assert thought.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-0"}}]}]
        )
    assert caught.value.param == "messages[0].content[0].file.file_id"
