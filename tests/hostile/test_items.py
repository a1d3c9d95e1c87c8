"""Items whose insides are not what their kind says: they are taken or named, and never break what reads them later."""

from typing import Any

import httpx2
import pytest
from shape import assert_clean

from backtalk.domain.compaction import Compaction, pack

BAD_FILE = {"type": "input_file", "file_data": 5}
INSIDES: list[Any] = [
    {"type": "input_file", "file_data": {}}, BAD_FILE, {"type": "input_file", "file_id": {"a": 1}}, {"type": "input_image", "file_id": ["x"]},
    {"type": "input_text", "text": 5}, {"type": ["input_file"]}, {},
]  # fmt: skip
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."}
ITEMS: list[list[dict[str, Any]]] = [
    *([{"type": "reasoning", "summary": [], "content": [inside]}] for inside in INSIDES),
    *([{"type": "reasoning", "summary": [inside]}] for inside in INSIDES),
    *([CALL, {**OUTPUT, "content": [inside]}] for inside in INSIDES),
    *([{**CALL, "content": [inside]}, OUTPUT] for inside in INSIDES),
    *([{"role": "user", "content": "x", "output": [inside]}] for inside in INSIDES),
    *([{"type": kind, "call_id": wrong}] for kind in ("local_shell_call", "computer_call", "shell_call", "mcp_call") for wrong in (["x"], {"a": 1}, 5)),
    [{"type": "computer_call_output", "call_id": "x", "output": [BAD_FILE]}], [{"type": "local_shell_call_output", "output": 5}],
    [{"type": "mcp_call", "name": "f", "output": {"a": [BAD_FILE]}, "content": [BAD_FILE]}], [{"type": "web_search_call", "results": 5, "action": []}],
    [{"type": "file_search_call", "queries": [5, {}], "results": [{"text": "a"}], "content": [BAD_FILE]}], [{"type": "code_interpreter_call", "outputs": {}}],
]  # fmt: skip


@pytest.mark.parametrize("items", ITEMS, ids=str)
def test_an_item_with_something_else_inside(http: httpx2.Client, items: list[dict[str, Any]]) -> None:
    """In the input, in a compaction, and kept in a conversation before a turn comes upon it."""
    user = {"role": "user", "content": "x"}
    short = {"type": "compaction", "encrypted_content": pack(Compaction("s", items))}
    turns: list[dict[str, Any]] = [{"input": [user, *items]}, {"input": [short, user]}]
    for body in turns:
        for path in ("/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"):
            answer = http.post(path, json={"model": "scripted", **body})
            assert_clean(answer.status_code, answer.headers, answer.content, path)
    made = http.post("/v1/conversations", json={"items": items})
    assert_clean(made.status_code, made.headers, made.content)
    if made.status_code == 200:
        answer = http.post("/v1/responses", json={"model": "scripted", "input": "x", "conversation": made.json()["id"]})
        assert_clean(answer.status_code, answer.headers, answer.content)


LABELS: list[dict[str, Any]] = [{"server_label": ["a"]}, {"server_label": {}}, {"name": ["a"]}, {"name": 5}]


@pytest.mark.parametrize("wrong", LABELS, ids=str)
def test_a_label_that_is_no_word(http: httpx2.Client, wrong: dict[str, Any]) -> None:
    function = {"type": "function", "name": "f"}
    only = {"type": "allowed_tools", "mode": "auto", "tools": [function]}
    tools = [function, {"type": "mcp", **wrong}]
    answer = http.post("/v1/responses", json={"input": "x", "tools": tools, "tool_choice": only})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"tools[1].{next(iter(wrong))}")
    only["tools"] = [function, {"type": "mcp", **wrong}]
    answer = http.post("/v1/responses", json={"input": "x", "tools": [function], "tool_choice": only})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice.tools")
