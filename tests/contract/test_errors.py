"""What goes wrong, and how it is told."""

import json
from typing import Any

import httpx2
import pytest


def envelope(reply: httpx2.Response) -> dict[str, Any]:
    body: dict[str, Any] = reply.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]  # type: ignore[no-any-return]


@pytest.mark.wire("E3", "E1")
@pytest.mark.parametrize("path", ["/responses", "/chat/completions", "/embeddings"])
def test_an_unknown_model(http: httpx2.Client, path: str) -> None:
    body = {"model": "no-such-model", "input": "Hello", "messages": [{"role": "user", "content": "Hello"}]}
    reply = http.post(path, json=body)
    assert reply.status_code == 404
    error = envelope(reply)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.wire("E4")
def test_unknown_urls_and_methods(http: httpx2.Client) -> None:
    reply = http.get("/nonsense")
    assert (reply.status_code, envelope(reply)["code"]) == (404, "unknown_url")
    reply = http.put("/responses")
    assert reply.status_code == 405
    envelope(reply)


@pytest.mark.wire("E5")
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"null", "application/json"),
        (b"[]", "application/json"),
        (b'{"input": "x"}', "text/plain"),
        (b'{"input": "\\ud800"}', "application/json"),
        (b'{"input": "\xff"}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"input": NaN}', "application/json"),
        (b'{"input": "x", "temperature": 1e999}', "application/json"),
    ],
)
def test_what_is_not_json(http: httpx2.Client, content: bytes, kind: str) -> None:
    reply = http.post("/responses", content=content, headers={"content-type": kind})
    assert reply.status_code == 400
    envelope(reply)


@pytest.mark.wire("E6")
def test_request_ids(http: httpx2.Client) -> None:
    replies = [
        http.get("/models"),
        http.get("/nonsense"),
        http.post("/responses", json={"input": "Hello", "stream": True}),
    ]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == 3
    assert all(value.startswith("req_") for value in ids)
    assert all(reply.headers["openai-version"] == "2020-10-01" for reply in replies)


@pytest.mark.wire("E7")
def test_the_unknown_is_ignored(http: httpx2.Client) -> None:
    body = {"input": "Hello", "client_metadata": {"a": 1}, "prompt_cache_key": "k"}
    reply = http.post("/responses?beta=true", json=body, headers={"x-client-request-id": "1", "openai-beta": "x"})
    assert reply.status_code == 200
    assert reply.json()["prompt_cache_key"] == "k"


@pytest.mark.wire("E8")
def test_a_body_over_the_limit(http: httpx2.Client) -> None:
    body = json.dumps({"input": "x" * (9 * 2**20)}).encode()
    reply = http.post("/responses", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    envelope(reply)

    def pieces() -> Any:
        for _ in range(10):
            yield b" " * 2**20

    chunked = http.post("/responses", content=pieces(), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert http.post("/responses", json={"input": "Hello"}).status_code == 200


SEARCH: dict[str, Any] = {"type": "file_search_call", "queries": ["a"], "status": "completed"}


@pytest.mark.wire("E2")
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/responses", {"input": [{"type": "reasoning", "content": [1]}]}, "input[0].content[0]"),
        ("/responses", {"input": [{"type": "reasoning", "summary": 5}]}, "input[0].summary"),
        ("/responses", {"input": [{**SEARCH, "results": [None]}]}, "input[0].results[0]"),
        ("/responses", {"input": [{**SEARCH, "results": [{"text": 5}]}]}, "input[0].results[0].text"),
        ("/responses", {"input": [{"type": "mcp_call", "name": 5}]}, "input[0].name"),
        *[
            ("/responses", {"input": [{"role": "user", "content": [part]}]}, f"input[0].content[0].{field}")
            for part, field in [
                ({"type": "input_audio"}, "input_audio"),
                ({"type": "input_audio", "input_audio": "x"}, "input_audio"),
                ({"type": "input_audio", "input_audio": {"data": "x"}}, "input_audio.format"),
                ({"type": "input_image", "image_url": 5}, "image_url"),
                ({"type": "input_image", "image_url": {"url": "x"}}, "image_url"),
                ({"type": "input_file", "file_data": ["x"]}, "file_data"),
            ]
        ],
        ("/conversations", {"items": [{"type": "reasoning", "content": {"a": 1}}]}, "items[0].content"),
        ("/responses", {"input": "x", "tools": [{"type": "mcp", "name": [1]}]}, "tools[0].name"),
        (
            "/responses",
            {"input": "x", "tool_choice": {"type": "allowed_tools", "tools": [{"name": [1]}]}},
            "tool_choice.tools",
        ),
        ("/chat/completions", {"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "file", "file": "x"}]}]},
            "messages[0].content[0].file",
        ),
        (
            "/chat/completions",
            {
                "messages": [{"role": "user", "content": "x"}],
                "tools": [{"function": {"name": "f", "parameters": "x"}}],
            },
            "tools[0].function.parameters",
        ),
    ],
)
def test_a_mistake_deep_in_a_body(http: httpx2.Client, path: str, body: dict[str, Any], param: str) -> None:
    reply = http.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert envelope(reply)["param"] == param


@pytest.mark.wire("R2")
def test_items_of_every_kind_pass_through(http: httpx2.Client) -> None:
    items = [
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "x"}},
        {**SEARCH, "results": [{"file_id": "file-1"}]},
        {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}", "output": None},
        {"type": "web_search_call", "action": {"type": "search"}, "results": [5]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "content": None},
        {"role": "user", "content": "Say exactly: yes"},
    ]
    for model in ("scripted", "backtalk/extractive"):
        reply = http.post("/responses", json={"input": items, "model": model})
        assert reply.status_code == 200, reply.text


@pytest.mark.wire("E2")
@pytest.mark.parametrize("model", ["scripted", "backtalk/extractive"])
def test_a_schema_that_is_none(http: httpx2.Client, model: str) -> None:
    schema = {"type": "object", "properties": ["a", {}], "required": 5}
    form = {"type": "json_schema", "name": "x", "schema": schema}
    reply = http.post("/responses", json={"model": model, "input": "x", "text": {"format": form}})
    assert reply.status_code == 400
    assert "schema" in envelope(reply)["message"]
