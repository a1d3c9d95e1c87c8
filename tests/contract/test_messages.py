"""`/v1/messages` through Anthropic's official SDK and plain HTTP."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter
from talk import talking
from test_tenants import new_key

from backtalk.core.errors import Overloaded, RateLimited, UpstreamError
from backtalk.domain.model import Finish, SealedReasoning, TextDelta, ToolCallDelta, Usage
from backtalk.testing import ScriptedModel, Server

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
ERROR: TypeAdapter[Any] = TypeAdapter(ErrorResponse)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 16).decode()
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather at a place.",
    "input_schema": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
ASKED = "What's the weather like in San Francisco?"
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="local", max_retries=0) as sdk:
        yield sdk


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def text(source: Any) -> dict[str, Any]:
    return {"type": "text", "text": source}


def post(http: httpx2.Client, path: str = "/messages", **body: Any) -> httpx2.Response:
    return http.post(path, json={"max_tokens": 100, **body})


def said(http: httpx2.Client, **body: Any) -> str:
    """What a model answers: one text."""
    reply = post(http, **body)
    assert reply.status_code == 200, reply.text
    message = Message.model_validate(reply.json(), strict=True)
    [block] = message.content
    assert block.type == "text"
    return block.text


def events(http: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, each valid against the SDK's types and named as it says."""
    reply = post(http, stream=True, **body)
    assert reply.status_code == 200, reply.text
    *frames, rest = reply.text.split("\n\n")
    assert rest == ""
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
        if event["type"] == "error":
            ERROR.validate_python({**event, "request_id": None}, strict=True)
        elif event["type"] != "ping":
            EVENT.validate_python(event, strict=True)
    return found


def problem(reply: httpx2.Response, status: int) -> dict[str, str]:
    """An error in Anthropic's shape."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body["type"] == "error"
    assert body.keys() == {"type", "error", "request_id"}
    assert body["error"].keys() == {"type", "message"}
    assert body["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]
    return body["error"]  # type: ignore[no-any-return]


@pytest.mark.wire("A1")
def test_a_message_is_whole(http: httpx2.Client, claude: anthropic.Anthropic) -> None:
    body = post(http, model="scripted", messages=user("Hello")).json()
    message = Message.model_validate(body, strict=True)
    assert message.content[0].to_dict() == {"type": "text", "text": "You said: Hello"}
    assert (message.stop_reason, message.stop_sequence, message.model) == ("end_turn", None, "scripted")
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens == 3
    assert (message.usage.cache_read_input_tokens, message.usage.cache_creation_input_tokens) == (0, 0)
    answer = claude.messages.create(model="scripted", max_tokens=100, messages=user("Hello"))
    assert answer.content == message.content
    assert answer._request_id
    assert answer._request_id.startswith("req_")
    assert said(http, messages=user("Hello")) == "You said: Hello"  # ours has a default model


@pytest.mark.wire("A1")
def test_a_message_is_forgotten(http: httpx2.Client) -> None:
    message = post(http, messages=user("Hello")).json()
    assert http.get(f"/responses/{message['id'].replace('msg_', 'resp_')}").status_code == 404


@pytest.mark.wire("A2")
def test_a_stream_keeps_to_the_grammar(http: httpx2.Client) -> None:
    found = events(http, messages=user("Hello"))
    kinds = [event["type"] for event in found]
    assert kinds == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"]["input_tokens"] > 0
    assert [event["index"] for event in found if "index" in event] == [0] * 5
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"]["output_tokens"] == 3


@pytest.mark.wire("A2")
def test_the_sdk_puts_a_stream_together(claude: anthropic.Anthropic) -> None:
    request: Any = {"model": "scripted", "max_tokens": 100, "messages": user(f"[[think]] {ASKED}"), "tools": [WEATHER]}
    with claude.messages.stream(**request) as stream:
        texts = [event for event in stream if event.type == "thinking"]
        final = stream.get_final_message()
    assert texts
    whole = claude.messages.create(**request)
    assert [block.type for block in whole.content] == ["thinking", "tool_use"]
    for streamed, block in zip(final.content, whole.content, strict=True):
        assert streamed.to_dict() | {"id": 0} == block.to_dict() | {"id": 0}
    assert (final.stop_reason, final.usage.to_dict()) == (whole.stop_reason, whole.usage.to_dict())


@pytest.mark.wire("A3")
def test_a_tool_loop(claude: anthropic.Anthropic) -> None:
    messages = user(ASKED)
    called = claude.messages.create(model="scripted", max_tokens=100, messages=messages, tools=[WEATHER])
    assert called.stop_reason == "tool_use"
    [call] = called.content
    assert call.type == "tool_use"
    assert call.input == {"location": "San Francisco"}
    for content, is_error in [
        ("sunny, 20 degrees", False),
        ([text("sunny, 20 degrees"), {"type": "image", "source": _image()}], False),
        ([{"type": "tool_reference", "tool_name": "x"}, {"type": "novel"}, text("sunny, 20 degrees")], False),
        ("no network", True),
        (None, True),
    ]:
        result = {"type": "tool_result", "tool_use_id": call.id, "content": content, "is_error": is_error, **CACHED}
        if content is None:
            del result["content"]
        answer = claude.messages.create(
            model="scripted",
            max_tokens=100,
            messages=[*messages, called.to_param(), *user([result, text("Go on.")])],
            tools=[WEATHER],
        )
        assert answer.stop_reason in ("end_turn", "tool_use")
    last = [*messages, {"role": "assistant", "content": called.to_dict()["content"]}, *user([result])]
    answer = claude.messages.create(model="scripted", max_tokens=100, messages=last, tools=[WEATHER])
    assert "The tool failed." in answer.content[0].text  # type: ignore[union-attr]


@pytest.mark.wire("A3")
def test_tool_choices_are_obeyed(http: httpx2.Client) -> None:
    def call(choice: Any, asked: str = "Hello", *tools: Any) -> list[Any]:
        reply = post(http, messages=user(asked), tools=[WEATHER, *tools], tool_choice=choice)
        assert reply.status_code == 200, reply.text
        return [block["name"] for block in reply.json()["content"] if block["type"] == "tool_use"]

    assert call({"type": "none"}, ASKED) == []
    assert call({"type": "auto"}, ASKED) == ["get_weather"]
    assert len(call({"type": "any"})) == 1
    other = {"name": "other", "input_schema": {"type": "object"}, "type": "custom", **CACHED}
    assert call({"type": "tool", "name": "other"}, "Hello", other) == ["other"]
    two = "What's the weather like in Paris and Rome?"
    assert call({"type": "auto"}, two) == ["get_weather"] * 2
    assert call({"type": "auto", "disable_parallel_tool_use": True}, two) == ["get_weather"]


@pytest.mark.wire("A4")
def test_interleaved_calls_are_blocks_one_after_another(tmp_path: Path) -> None:
    script = [
        TextDelta("Both."),
        ToolCallDelta(0, '{"a":', "call_1", "one"),
        ToolCallDelta(1, '{"b"', "call_2", "two"),
        ToolCallDelta(0, "1}"),
        ToolCallDelta(1, ":2}"),
        ToolCallDelta(2, "", "call_3", "three"),
        Finish("tool_calls", Usage(20, 4, 8, 5)),
    ]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("one", "two", "three")]
    with talking(tmp_path, ScriptedModel([script, script])) as talk:
        found = events(talk.http, messages=user("Hello"), tools=tools)
        whole = post(talk.http, messages=user("Hello"), tools=tools).json()
    order = [(event["type"].removeprefix("content_block_"), event["index"]) for event in found if "index" in event]
    assert [index for _, index in order] == sorted(index for _, index in order)
    for number in range(4):
        kinds = [kind for kind, index in order if index == number]
        assert (kinds[0], kinds[-1]) == ("start", "stop")
        assert set(kinds[1:-1]) == {"delta"}
    written = {
        number: "".join(event["delta"].get("partial_json", "") for event in found if event.get("index") == number and "delta" in event)
        for number in (1, 2, 3)
    }  # fmt: skip
    assert [json.loads(given) for given in written.values()] == [{"a": 1}, {"b": 2}, {}]
    assert [block["input"] for block in whole["content"][1:]] == [{"a": 1}, {"b": 2}, {}]
    assert [block["id"] for block in whole["content"][1:]] == ["call_1", "call_2", "call_3"]
    usage = {name: count for name, count in whole["usage"].items() if name.endswith("tokens")}
    assert usage == {
        "input_tokens": 7,
        "cache_read_input_tokens": 8,
        "cache_creation_input_tokens": 5,
        "output_tokens": 4,
    }
    assert found[-2]["usage"].items() >= usage.items()


@pytest.mark.wire("A5")
def test_thinking_goes_out_and_comes_back(claude: anthropic.Anthropic, http: httpx2.Client) -> None:
    asked = user("[[summarise]] [[think]] Hello")
    body: Any = {"messages": asked, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    message = Message.model_validate(post(http, **body).json(), strict=True)
    thought, answer = message.content
    assert thought.type == "thinking"
    assert thought.thinking.split("\n\n")[-1] == "Let me think about that."
    assert thought.signature == "sealed"
    assert answer.type == "text"
    assert message.usage.output_tokens_details
    assert message.usage.output_tokens_details.thinking_tokens > 0
    deltas = [event["delta"] for event in events(http, **body) if event["type"] == "content_block_delta"]
    streamed = "".join(delta.get("thinking", "") for delta in deltas)
    assert streamed == thought.thinking
    assert [delta["signature"] for delta in deltas if delta["type"] == "signature_delta"] == ["sealed"]
    sent: Any = [message.to_param(), {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]
    again = claude.messages.create(model="scripted", max_tokens=100, messages=[*asked, *sent, *user("And now?")])
    assert again.content[0].text == "You said: And now?"  # type: ignore[union-attr]


@pytest.mark.wire("A5")
def test_what_only_the_model_can_read_is_redacted(tmp_path: Path) -> None:
    script = [SealedReasoning("sealed"), TextDelta("Yes."), Finish()]
    model = ScriptedModel([script, script])
    with talking(tmp_path, model) as talk:
        whole = post(talk.http, messages=user("Hello")).json()
        found = events(talk.http, messages=user("Hello"))
        sent = [*user("Hello"), {"role": "assistant", "content": whole["content"]}, *user("Well?")]
        assert post(talk.http, messages=sent).status_code == 200
    assert whole["content"][0] == {"type": "redacted_thinking", "data": "sealed"}
    assert [event["content_block"] for event in found if "content_block" in event] == [
        whole["content"][0],
        {**text("")},
    ]
    assert [item.get("encrypted_content") for item in model.prompts[-1].items] == [None, "sealed", None, None]


@pytest.mark.wire("A6")
def test_why_it_stopped(http: httpx2.Client, tmp_path: Path) -> None:
    cut = post(http, messages=user("[[tokens:50]]"), max_tokens=5).json()
    assert cut["stop_reason"] == "max_tokens"
    refused = post(http, messages=user("[[refuse]]")).json()
    assert refused["stop_reason"] == "refusal"
    assert "cannot help" in refused["content"][0]["text"]
    assert events(http, messages=user("[[refuse]]"))[-2]["delta"]["stop_reason"] == "refusal"
    assert said(http, messages=user("Say exactly: one two three"), stop_sequences=["three"]).strip() == "one two"
    script = [TextDelta("one two"), Finish("stop", Usage(1, 2), stop_sequence=" three")]
    with talking(tmp_path, ScriptedModel([script, script])) as talk:
        stopped = post(talk.http, messages=user("Count."), stop_sequences=[" three"]).json()
        delta = events(talk.http, messages=user("Count."), stop_sequences=[" three"])[-2]["delta"]
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " three")
    assert delta == {"stop_reason": "stop_sequence", "stop_sequence": " three"}
    assert post(http, messages=user("Hello"), max_tokens=0).json()["stop_reason"] == "max_tokens"


def _image() -> dict[str, str]:
    return {"type": "base64", "media_type": "image/png", "data": PNG}


@pytest.mark.wire("A7")
def test_images_and_documents(http: httpx2.Client) -> None:
    file = http.post("/files", files={"file": ("a.txt", b"Ada")}, data={"purpose": "assistants"}).json()["id"]
    image = http.post("/files", files={"file": ("a.png", base64.b64decode(PNG))}, data={"purpose": "vision"}).json()
    images = [_image(), {"type": "url", "url": "https://a.example/x.png"}, {"type": "file", "file_id": image["id"]}]
    content = [text("Look."), *({"type": "image", "source": source} for source in images)]
    assert "You sent 3 images." in said(http, messages=user(content))
    data = base64.b64encode(b"%PDF-1.4").decode()
    pdf = {"type": "base64", "media_type": "application/pdf", "data": data}
    documents = [{"type": "document", "source": pdf}, {"type": "document", "source": {"type": "file", "file_id": file}}]
    assert "document.pdf" in said(http, messages=user([text("Read."), *documents]))
    quoted = [
        {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "one"}},
        {"type": "document", "source": {"type": "content", "content": [text("two"), {"type": "image", "source": _image()}]}},
        {"type": "document", "source": {"type": "content", "content": "three"}},
        {"type": "search_result", "source": "https://a.example", "title": "S", "content": [text("four")]},
        {"type": "novel", "text": "five"},
        {"type": "container_upload", "file_id": "file_x"},
    ]  # fmt: skip
    answer = said(http, messages=user(quoted))
    assert all(word in answer for word in ("one", "two", "three", "four", "five", "1 image"))


@pytest.mark.wire("A8")
@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [*user("x"), {"role": "tool", "content": "x"}]}, "messages.1.role"),
        ({"messages": user(5)}, "messages.0.content"),
        ({"messages": user([])}, "messages.0.content"),
        ({"messages": user([text("x"), {}])}, "messages.0.content.1.type"),
        ({"messages": user([text("x"), text(5)])}, "messages.0.content.1.text"),
        ({"messages": user([{"type": "image"}])}, "messages.0.content.0.source"),
        ({"messages": user([{"type": "image", "source": {"type": "x"}}])}, "messages.0.content.0.source.type"),
        (
            {"messages": user([text("x"), {"type": "image", "source": {"type": "url", "url": "ftp://x"}}])},
            "messages.0.content.1.source.url",
        ),
        (
            {"messages": user([{"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}}])},
            "messages.0.content.0.source.url",
        ),
        (
            {"messages": [*user("x"), *user([{"type": "document", "source": {"type": "file", "file_id": "file-0"}}])]},
            "messages.1.content.0.source.file_id",
        ),
        ({"messages": user([{"type": "tool_result", "tool_use_id": "c"}])}, "messages"),
        ({"messages": user([{"type": "tool_result"}])}, "messages.0.content.0.tool_use_id"),
        ({"messages": user([{"type": "tool_use", "id": "c", "name": "f"}])}, "messages.0.content.0.input"),
        ({"messages": [*user("x"), {"role": "assistant", "content": [{"type": "thinking"}]}]}, "messages.1.content.0.thinking"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stream": "true"}, "stream"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [WEATHER, {**WEATHER, "name": ""}]}, "tools.1.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "x"}}, "output_format.type"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(http: httpx2.Client, body: dict[str, Any], place: str) -> None:
    sent = {"max_tokens": 100, "messages": user("Hello"), **body}
    reply = http.post("/messages", json={key: value for key, value in sent.items() if value is not None})
    error = problem(reply, 400)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{place}: ")


@pytest.mark.wire("A9")
def test_errors_have_anthropics_shape(http: httpx2.Client, claude: anthropic.Anthropic) -> None:
    assert problem(post(http, model="nonsense", messages=user("x")), 404)["type"] == "not_found_error"
    for content in (b"{", b"[]", b"null", b"", b"[" * 100_000):
        reply = http.post("/messages", content=content, headers={"content-type": "application/json"})
        assert problem(reply, 400)["type"] == "invalid_request_error"
    assert problem(http.get("/messages"), 405)["type"] == "invalid_request_error"
    assert problem(http.post("/messages/batches", json={}), 404)["type"] == "not_found_error"
    assert problem(http.post("/messages", content=b" " * (9 * 2**20)), 413)["type"] == "request_too_large"
    assert problem(http.get("/messages", headers={"origin": "https://a.example"}), 403)["type"] == "permission_error"
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="nonsense", max_tokens=5, messages=user("x"))
    assert caught.value.request_id
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="scripted", max_tokens=5, messages=[])
    assert http.post("/messages").headers["request-id"].startswith("req_")


@pytest.mark.wire("A9")
def test_a_key_is_asked_for(tmp_path: Path) -> None:
    with Server(tmp_path, {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}) as own:
        key = new_key(own, "default")
        with httpx2.Client(base_url=f"{own.url}/v1") as http:
            assert problem(post(http, messages=user("x")), 401)["type"] == "authentication_error"
        wrong = anthropic.Anthropic(base_url=own.url, api_key="wrong", max_retries=0)
        with wrong, pytest.raises(anthropic.AuthenticationError):
            wrong.messages.create(model="scripted", max_tokens=5, messages=user("x"))
        for options in ({"api_key": key}, {"auth_token": key}):
            with anthropic.Anthropic(base_url=own.url, max_retries=0, **options) as sdk:
                assert sdk.messages.create(model="scripted", max_tokens=50, messages=user("x")).content


@pytest.mark.wire("A9")
def test_a_model_that_fails(tmp_path: Path) -> None:
    failures = [RateLimited("Slow down."), UpstreamError("It broke."), Overloaded("Too much.")]
    kinds = [(429, "rate_limit_error"), (502, "api_error"), (529, "overloaded_error")]
    with talking(tmp_path, ScriptedModel([*failures, RateLimited("Slow down."), UpstreamError("It broke.")])) as talk:
        for status, kind in kinds:
            reply = post(talk.http, messages=user("x"))
            assert problem(reply, status)["type"] == kind
        for kind in ("rate_limit_error", "api_error"):
            *_, last = events(talk.http, messages=user("x"))
            assert (last["type"], last["error"]["type"]) == ("error", kind)


@pytest.mark.wire("A9")
def test_a_model_that_breaks_off_ends_the_stream(http: httpx2.Client, claude: anthropic.Anthropic) -> None:
    asked = user("[[tokens:20]] [[fail:after:5]]")
    found = events(http, messages=asked)
    assert [event["type"] for event in found[-3:]] == ["content_block_delta", "content_block_stop", "error"]
    assert found[-1]["error"] == {"type": "api_error", "message": "The scripted model was told to fail."}
    stream = claude.messages.stream(model="scripted", max_tokens=50, messages=asked)
    with pytest.raises(anthropic.APIStatusError), stream as found_by_sdk:
        found_by_sdk.get_final_message()


@pytest.mark.wire("A10")
def test_what_coding_agents_send(http: httpx2.Client) -> None:
    schema = {"type": "object", "properties": {f"field_{i}": {"type": "string", "description": "x" * 60} for i in range(20)}}  # fmt: skip
    tools = [{"name": f"tool_{i}", "description": "y" * 200, "input_schema": schema, **CACHED} for i in range(40)]
    body: dict[str, Any] = {
        "model": "scripted",
        "system": [{**text("You are an agent."), **CACHED}, {**text("Be brief."), **CACHED}],
        "messages": [
            {"role": "user", "content": [{**text("<system-reminder>x</system-reminder>"), **CACHED}, text("Hello")]},
            {"role": "assistant", "content": [{**text("Yes?"), **CACHED}, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]},
            {"role": "system", "content": "Answer in one line."},
            {"role": "user", "content": [{**text("Say exactly: done"), **CACHED}]},
        ],
        "tools": [
            *tools,
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "tool_choice": {"type": "none"},
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "container": None,
        "mcp_servers": [{"type": "url", "url": "https://a.example", "name": "a"}],
        "betas": ["x"],
        "top_k": 5,
        "temperature": 1,
        "novel": {"a": [1]},
    }  # fmt: skip
    assert len(json.dumps(body["tools"])) > 64_000
    headers = {"anthropic-beta": "claude-code-20250219,novel", "anthropic-version": "2023-06-01"}
    reply = http.post("/messages?beta=true", json={"max_tokens": 32_000, **body}, headers=headers)
    assert reply.status_code == 200, reply.text
    assert [block["text"] for block in reply.json()["content"]] == ["done"]
    assert events(http, **body)[-1]["type"] == "message_stop"
    counted = http.post("/messages/count_tokens?beta=true", json=body, headers=headers)
    assert counted.json()["input_tokens"] > 10_000


@pytest.mark.wire("A10")
def test_what_reaches_the_model(tmp_path: Path) -> None:
    model = ScriptedModel()
    format_ = {"type": "json_schema", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}}}
    with talking(tmp_path, model) as talk:
        settings = {"temperature": 0.5, "top_p": 0.9, "stop_sequences": ["x"], "metadata": {"user_id": "u"}}
        tools = [WEATHER, {"type": "bash_20250124", "name": "bash"}, {"type": "web_search_20250305", "name": "w"}]
        asked = {"messages": user("Hello"), "tools": tools, "tool_choice": {"type": "none"}}
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 2048}, "output_config": {"effort": "max"}}
        said(talk.http, system=[text("a"), text("b")], **settings, **asked, **thinking)
        told = model.prompts[-1]
        post(talk.http, messages=user("Is it so?"), output_config={"format": format_})
        assert model.prompts[-1].text_format is not None
        answer = said(talk.http, messages=user("Is it so?"), output_format=format_)
        assert isinstance(json.loads(answer), dict)
        prefilled = [*user("Hello"), {"role": "assistant", "content": "You"}]
        assert post(talk.http, messages=prefilled).status_code == 200
        assert model.prompts[-1].items[-1]["role"] == "assistant"
        said(talk.http, system=[{**text("a"), **CACHED}], messages=user([{**text("Hello"), **CACHED}]))
        first, second = model.prompts[-1].items
    assert (told.instructions, told.temperature, told.top_p, told.stop, told.user) == ("a\n\nb", 0.5, 0.9, ["x"], "u")
    assert (told.reasoning_tokens, told.reasoning_effort, told.max_output_tokens) == (2048, "max", 100)
    assert [tool.name for tool in told.tools] == ["get_weather", "bash"]
    assert (first["role"], first["content"][0]["cache_control"]) == ("system", CACHED["cache_control"])
    assert second["content"][0]["cache_control"] == CACHED["cache_control"]


@pytest.mark.wire("A10")
@pytest.mark.parametrize("content", ["sunny", [text("warm"), text("sunny")], []])
def test_the_end_of_a_cache_stays_where_it_is(tmp_path: Path, content: Any) -> None:
    model = ScriptedModel()
    call = {"type": "tool_use", "id": "c", "name": "get_weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": content, **CACHED}
    with talking(tmp_path, model) as talk:
        sent = [*user("Hello"), {"role": "assistant", "content": [call]}, *user([result])]
        assert post(talk.http, messages=sent).status_code == 200
    *_, output = model.prompts[-1].items
    assert output["output"][-1]["cache_control"] == CACHED["cache_control"]


@pytest.mark.wire("A11")
def test_tokens_are_counted(http: httpx2.Client, claude: anthropic.Anthropic) -> None:
    short = claude.messages.count_tokens(model="scripted", messages=user("Hello"))
    long = claude.messages.count_tokens(model="scripted", messages=user("Hello " * 100), tools=[WEATHER], system="Hi")
    MessageTokensCount.model_validate(short.to_dict(), strict=True)
    assert 0 < short.input_tokens < long.input_tokens
    assert problem(http.post("/messages/count_tokens", json={}), 400)["message"].startswith("messages: ")
    assert problem(http.post("/messages/count_tokens", json={"model": "x", "messages": user("x")}), 404)


@pytest.mark.wire("A11")
def test_a_talk_that_is_too_long_says_so(tmp_path: Path) -> None:
    with talking(tmp_path, ScriptedModel(), context_tokens=1000) as talk:
        error = problem(post(talk.http, messages=user("word " * 5000)), 400)
    assert "prompt is too long" in error["message"]


@pytest.mark.wire("A12")
def test_a_client_that_leaves_stops_the_run(tmp_path: Path) -> None:
    with talking(tmp_path, ScriptedModel(pace=0.05), metrics=True) as talk:
        body = {"max_tokens": 1000, "messages": user("[[tokens:500]]"), "stream": True}
        with talk.http.stream("POST", "/messages", json=body) as reply:
            next(reply.iter_raw())
        root = str(talk.http.base_url).removesuffix("/v1/")
        deadline = time.monotonic() + 10
        while "backtalk_runs_in_progress 0.0" not in (figures := httpx2.get(f"{root}/metrics").text):
            assert time.monotonic() < deadline, figures
            time.sleep(0.05)


@pytest.mark.wire("A13")
def test_models_are_listed_in_anthropics_shape(claude: anthropic.Anthropic, http: httpx2.Client) -> None:
    listed = [model.id for model in claude.models.list()]
    assert "scripted" in listed
    assert claude.models.retrieve("scripted").type == "model"
    assert http.get("/models").json()["object"] == "list"
