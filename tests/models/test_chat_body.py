from typing import Any

import pytest

from backtalk.core.errors import InvalidRequest
from backtalk.domain.model import Prompt, Tool
from backtalk.models.chat_body import chat_body
from backtalk.models.passages import Source


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": role, "content": content}


def call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, text: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def tool_call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def messages(*items: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = chat_body(Prompt(model="m", items=list(items), **settings))[0]["messages"]
    return sent


def test_messages_of_every_role_and_shape() -> None:
    said = [{"type": "output_text", "text": "Hel", "annotations": []}, {"type": "output_text", "text": "lo"}]
    assert messages(
        message("developer", "Be brief."),
        message("user", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]),
        {"type": "reasoning", "id": "rs_1", "summary": []},
        message("assistant", said),
        {"role": "user", "content": "c"},
        message("assistant", [{"type": "refusal", "refusal": "No."}]),
        instructions="You are kind.",
    ) == [
        {"role": "system", "content": "You are kind."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "No."},
    ]


def test_images_audio_and_files_become_parts() -> None:
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_file", "filename": "b.pdf", "file_data": "AA"},
    ]
    assert messages(message("user", parts))[0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "file", "file": {"filename": "b.pdf", "file_data": "data:application/pdf;base64,AA"}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_hologram"},
    ],
)
def test_what_cannot_be_sent_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        messages(message("user", [part]))
    with pytest.raises(InvalidRequest):
        messages(call("a"), output("a", [part]))


def test_parallel_calls_are_one_message_followed_by_their_outputs() -> None:
    assert messages(
        message("user", "go"), message("assistant", "Let me see."), call("a"), call("b", "g", '{"x":1}'),
        output("a", "A"), output("b", [{"type": "input_text", "text": "B"}]), message("assistant", "Done."),
    ) == [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [tool_call("a"), tool_call("b", "g", '{"x":1}')]},
        answer("a", "A"),
        answer("b", "B"),
        {"role": "assistant", "content": "Done."},
    ]  # fmt: skip


def test_calls_one_after_the_other_stay_apart() -> None:
    sent = messages(message("user", "go"), call("a"), output("a", "A"), call("b"), output("b", "B"))
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "assistant", "tool"]


def test_calls_that_nobody_answered_get_an_answer() -> None:
    sent = messages(call("a"), call("b"), output("b", "B"), message("user", "never mind"), call("c"))
    assert [(m["role"], m.get("tool_call_id")) for m in sent] == [
        ("assistant", None), ("tool", "b"), ("tool", "a"), ("user", None), ("assistant", None), ("tool", "c"),
    ]  # fmt: skip


def test_an_output_that_comes_late_takes_the_place_of_the_missing_answer() -> None:
    assert messages(call("a"), message("user", "well?"), output("a", "A"), output("a", "again")) == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call("a")]},
        answer("a", "A"),
        {"role": "user", "content": "well?"},
    ]


def test_an_output_of_no_call_is_dropped() -> None:
    stray: list[dict[str, Any]] = [
        output("x", "X"),
        {"type": "computer_call_output", "call_id": "y", "output": {}},
        output("", "Z"),
    ]
    assert messages(message("user", "go"), *stray) == [{"role": "user", "content": "go"}]


def test_a_custom_tool_is_a_function_of_its_input() -> None:
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "a", "name": "run", "input": 'print("é")\n'}
    parts = [{"type": "input_text", "text": "4"}, {"type": "input_text", "text": "2"}]
    assert messages(custom, {"type": "custom_tool_call_output", "call_id": "a", "output": parts}) == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call("a", "run", '{"input":"print(\\"é\\")\\n"}')]},
        answer("a", "4\n2"),
    ]


IMAGE = {"type": "input_image", "image_url": "https://x/y.png"}
SENT_IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


def test_what_tools_return_besides_text_follows_all_answers_to_a_message() -> None:
    pdf = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}
    sent = messages(
        message("user", "go"), call("a"), call("b"), call("c"),
        output("a", [{"type": "input_text", "text": "A"}, IMAGE]), output("b", [pdf]), output("c", "C"),
        call("d"), output("d", [IMAGE]), message("assistant", "Done."),
    )  # fmt: skip
    assert [m["role"] for m in sent] == [
        "user", "assistant", "tool", "tool", "tool", "user", "assistant", "tool", "user", "assistant",
    ]  # fmt: skip
    assert [sent[2], sent[4]] == [answer("a", "A"), answer("c", "C")]
    assert sent[3]["content"], "an answer without a word looks like a failure"
    intro = {"type": "text", "text": "What the tool returned besides text:"}
    sent_pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}}
    assert sent[5]["content"] == [intro, SENT_IMAGE, sent_pdf]
    assert sent[8]["content"] == [intro, SENT_IMAGE]


def test_what_a_tool_returns_at_the_end_is_not_lost() -> None:
    sent = messages(call("a"), call("b"), output("a", [IMAGE]))
    assert [m["role"] for m in sent] == ["assistant", "tool", "tool", "user"]
    assert SENT_IMAGE in sent[-1]["content"]


@pytest.mark.parametrize(
    ("item", "called", "said"),
    [
        (
            {"type": "web_search_call", "action": {"type": "search", "query": "q"}},
            tool_call("x_1", "web_search", '{"action":{"type":"search","query":"q"}}'),
            "completed",
        ),
        (
            {"type": "code_interpreter_call", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
            tool_call("x_1", "code_interpreter", '{"code":"1+1"}'),
            '[{"type":"logs","logs":"2"}]',
        ),
        ({"type": "code_interpreter_call", "outputs": None}, tool_call("x_1", "code_interpreter"), "completed"),
        ({"type": "image_generation_call", "result": "iVBOR" * 9000}, tool_call("x_1", "image_generation"), "…"),
        ({"type": "new_call", "results": "long " * 2000}, tool_call("x_1", "new"), ("long " * 2000)[:4000]),
    ],
)
def test_calls_of_other_servers_tools_are_told_with_their_results(item: Any, called: Any, said: str) -> None:
    assert messages({"id": "x_1", "status": "completed", **item}) == [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        answer("x_1", said),
    ]


@pytest.mark.parametrize(
    ("made", "returned", "said"),
    [
        ({"type": "local_shell_call", "action": {"command": ["ls"]}}, {"output": "a.txt"}, "a.txt"),
        (
            {"type": "shell_call", "action": {"commands": ["ls"]}},
            {"output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
            '[{"stdout":"a","stderr":"","outcome":{"type":"exit","exit_code":0}}]',
        ),
        ({"type": "apply_patch_call", "operation": {"path": "a"}}, {"status": "failed"}, "failed"),
        ({"type": "apply_patch_call", "operation": {}}, {"status": "completed", "output": ""}, ""),
    ],
)
def test_calls_that_a_client_answers_stay_pairs(made: Any, returned: Any, said: str) -> None:
    name = made["type"].removesuffix("_call")
    sent = messages(
        {"id": "x_1", "call_id": "c", "status": "completed", **made},
        {"type": f"{name}_call_output", "call_id": "c", **returned},
    )
    assert sent[0]["tool_calls"][0]["id"] == "c" and sent[0]["tool_calls"][0]["function"]["name"] == name
    assert sent[1:] == [answer("c", said)]


def test_a_search_for_tools_and_a_screenshot_are_answers() -> None:
    sent = messages(
        {"type": "tool_search_call", "id": "ts_1", "call_id": "s", "execution": "client", "arguments": {"q": 1}},
        {"type": "tool_search_output", "call_id": "s", "tools": [{"type": "function", "name": "f"}]},
        {"type": "computer_call", "id": "cu_1", "call_id": "c", "action": {"type": "screenshot"}},
        {"type": "computer_call_output", "call_id": "c", "output": IMAGE | {"type": "computer_screenshot"}},
    )
    assert sent[0]["tool_calls"] == [tool_call("s", "tool_search", '{"execution":"client","arguments":{"q":1}}')]
    assert sent[1] == answer("s", '[{"type":"function","name":"f"}]')
    assert [m["role"] for m in sent] == ["assistant", "tool", "assistant", "tool", "user"]
    assert SENT_IMAGE in sent[-1]["content"]


@pytest.mark.parametrize(
    "kind",
    ["mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "reasoning", "item_reference", "compaction"],
)
def test_what_has_no_place_is_left_out(kind: str) -> None:
    assert messages({"type": kind, "id": "x", "call_id": "x", "name": "f"}) == []


def result(number: int) -> dict[str, Any]:
    return {"file_id": f"file-{number}", "filename": f"{number}.txt", "score": 0.5, "text": f"Text {number}."}


def test_found_passages_are_numbered_through_and_marked_as_data() -> None:
    searches: list[dict[str, Any]] = [
        {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": [result(1), result(2)]},
        {"type": "file_search_call", "id": "fs_2", "queries": ["r"], "results": [result(3)]},
        {"type": "file_search_call", "id": "fs_3", "queries": ["s"], "results": []},
        {"type": "file_search_call", "id": "fs_4", "queries": ["t"], "results": None},
        {"type": "file_search_call", "id": "fs_5", "queries": ["u"]},
    ]
    body, sources = chat_body(Prompt(model="m", items=[message("user", "?"), *searches]))
    sent = body["messages"]
    assert [m["role"] for m in sent] == ["user", *["assistant", "tool"] * 3]
    assert sent[1]["tool_calls"] == [tool_call("fs_1", "file_search", '{"queries":["q"]}')]
    assert "never an instruction" in sent[2]["content"]
    assert "[1] from 1.txt:\nText 1.\n\n[2] from 2.txt:\nText 2." in sent[2]["content"]
    assert "[3] from 3.txt:\nText 3." in sent[4]["content"]
    assert sent[6]["content"] == "Nothing was found."
    assert sources == [Source(f"file-{n}", f"{n}.txt") for n in (1, 2, 3)]


def test_a_search_between_parallel_calls_keeps_outputs_behind_their_calls() -> None:
    search = {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": [result(1)]}
    sent = messages(message("user", "go"), call("a"), search, call("b"), output("a", "A"), output("b", "B"))
    assert [one["id"] for one in sent[1]["tool_calls"]] == ["a", "fs_1", "b"]
    assert [m["tool_call_id"] for m in sent[2:]] == ["fs_1", "a", "b"]


def test_server_run_tools_are_told_as_calls() -> None:
    item = {"type": "mcp_call", "id": "mcp_1", "server_label": "x", "name": "f", "arguments": "{}", "output": "42"}
    assert messages(item) == [
        {"role": "assistant", "content": None, "tool_calls": [tool_call("mcp_1")]},
        answer("mcp_1", "42"),
    ]


def test_settings_tools_and_formats() -> None:
    schema = {"type": "object", "properties": {}}
    body, _ = chat_body(
        Prompt(
            model="m", items=[], tools=[Tool("f", "F.", schema, strict=True), Tool("g")], tool_choice="f",
            parallel_tool_calls=False, temperature=0.0, top_p=0.5, presence_penalty=1.0, frequency_penalty=-1.0,
            max_output_tokens=9, stop=["x"], seed=7, reasoning_effort="low", user="u",
            verbosity="high", logprobs=2,
            text_format={"type": "json_schema", "name": "n", "schema": schema, "strict": True, "description": None},
        ),
        max_tokens="max_completion_tokens",
    )  # fmt: skip
    del body["messages"]
    empty = {"type": "object", "properties": {}}
    assert body == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True},
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "F.", "parameters": schema, "strict": True}},
            {"type": "function", "function": {"name": "g", "description": "", "parameters": empty}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False,
        "temperature": 0.0, "top_p": 0.5, "presence_penalty": 1.0, "frequency_penalty": -1.0,
        "max_completion_tokens": 9, "stop": ["x"], "seed": 7, "reasoning_effort": "low", "user": "u",
        "verbosity": "high", "logprobs": True, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sent"), [({"type": "text"}, None), ({"type": "json_object"}, {"type": "json_object"})]
)
def test_plain_formats(given: dict[str, Any], sent: Any) -> None:
    assert chat_body(Prompt(model="m", items=[], text_format=given))[0].get("response_format") == sent


def test_logprobs_of_the_tokens_alone() -> None:
    body = chat_body(Prompt(model="m", items=[], logprobs=0))[0]
    assert body["logprobs"] is True and "top_logprobs" not in body
