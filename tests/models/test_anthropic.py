import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_upstream import Behaviour, FakeUpstream, Line, fake_upstream, status

from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest, RateLimited, UpstreamError
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Model,
    Prompt,
    ReasoningDelta,
    SealedReasoning,
    TextDelta,
    Tool,
    ToolCallDelta,
    Usage,
)
from backtalk.http.egress import Egress
from backtalk.models.anthropic import Anthropic
from backtalk.models.anthropic_body import anthropic_body, version
from backtalk.models.anthropic_events import AnthropicDeltas
from backtalk.models.base import Upstream
from backtalk.models.chat_body import chat_body
from backtalk.models.passages import Source
from backtalk.models.sse import EventParser
from backtalk.testing import ModelSuite, ScriptedModel
from backtalk.testing.server import serve

KEY = "sk-ant-canary-1234567890"
OLD, NEW = "claude-sonnet-4-5", "claude-opus-4-7"


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": role, "content": content}


def call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, value: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def thought(sealed: str | None, *texts: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content, "encrypted_content": sealed}


def body(*items: dict[str, Any], model: str = OLD, **settings: Any) -> dict[str, Any]:
    return anthropic_body(Prompt(model=model, items=list(items), **settings))[0]


def messages(*items: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = body(*items, **settings)["messages"]
    return sent


def content(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = messages(message("user", list(parts)))[0]["content"]
    return blocks


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def user(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {**user(*blocks), "role": "assistant"}


def use(made: str, name: str = "f", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": made, "name": name, "input": given}


def result(made: str, *blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": made, "content": user(*blocks)["content"]}


def test_a_plain_request() -> None:
    assert body(message("user", "hi"), instructions="Be kind.", user="u1") == {
        "model": OLD,
        "messages": [user("hi")],
        "system": [text("Be kind.")],
        "max_tokens": 8192,
        "metadata": {"user_id": "u1"},
        "stream": True,
    }


def test_messages_of_every_role_and_shape() -> None:
    said = [{"type": "output_text", "text": "Hel", "annotations": []}, {"type": "refusal", "refusal": "No."}]
    sent = body(
        message("developer", "Be brief."),
        {"role": "user", "content": "a"},
        message("user", [{"type": "input_text", "text": "b"}, {"type": "input_text", "text": " "}]),
        message("assistant", said),
        message("assistant", ""),
        message("system", "Be long."),
        message("user", "c"),
        instructions="You are kind.",
    )
    assert sent["system"] == [text("You are kind."), text("Be brief.")]
    assert sent["messages"] == [user("a", "b"), assistant("Hel", "No."), user("System note: Be long.", "c")]


def test_the_first_and_the_last_word_are_a_users() -> None:
    assert messages(message("assistant", "Hello!")) == [user("Begin."), assistant("Hello!"), user("Go on.")]
    assert messages() == messages(message("user", "  ")) == [user("Begin.")]
    assert messages(call("a"), output("a", "A"))[0] == user("Begin.")


def test_images_become_sources() -> None:
    assert content(
        {"type": "input_image", "image_url": "data:image/jpg;base64,AA"},
        {"type": "input_image", "image_url": "https://x/y.png", "cache_control": {"type": "ephemeral"}},
    ) == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA"}},
        {
            "type": "image",
            "source": {"type": "url", "url": "https://x/y.png"},
            "cache_control": {"type": "ephemeral"},
        },
    ]


def test_files_become_documents() -> None:
    words = base64.b64encode("a,é\n".encode()).decode()
    assert content(
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_file", "filename": "b.pdf", "file_data": "AA"},
        {"type": "input_file", "filename": "c.csv", "file_data": f"data:text/csv;charset=utf-8;base64,{words}"},
        {"type": "input_file", "file_data": words},
    ) == [
        {"type": "document", "source": {"type": kind, "media_type": media_type, "data": data}, "title": name}
        for kind, media_type, data, name in (
            ("base64", "application/pdf", "AA", "a.pdf"),
            ("base64", "application/pdf", "AA", "b.pdf"),
            ("text", "text/plain", "a,é\n", "c.csv"),
            ("text", "text/plain", "a,é\n", "file"),
        )
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_file", "filename": "a.zip", "file_data": base64.b64encode(b"PK\x03\x04\xff").decode()},
        {"type": "input_file", "filename": "a.bin", "file_data": "AAAA"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        {"type": "input_hologram"},
    ],
)
def test_what_cannot_be_sent_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        messages(message("user", [part]))
    with pytest.raises(InvalidRequest):
        messages(call("a"), output("a", [part]))


def test_a_mark_for_the_cache_stays_on_its_block() -> None:
    marked = {"type": "input_text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    block = {**text("long"), "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    sent = body(message("system", [marked]), message("user", [marked]), call("a"), output("a", [marked]))
    assert sent["system"] == [block]
    assert sent["messages"][0] == user(block)
    assert sent["messages"][2] == user({**result("a", "long"), "cache_control": {"type": "ephemeral", "ttl": "1h"}})


def test_parallel_calls_are_one_message_and_their_results_the_next() -> None:
    assert messages(
        message("user", "go"), message("assistant", "Let me see."), call("a"), call("b", "g", '{"x":1}'),
        output("a", "A"), output("b", [{"type": "input_text", "text": "B"}]), message("user", "And?"),
        message("assistant", "Done."), message("user", "Thanks"),
    ) == [
        user("go"),
        assistant("Let me see.", use("a"), use("b", "g", x=1)),
        user(result("a", "A"), result("b", "B"), "And?"),
        assistant("Done."),
        user("Thanks"),
    ]  # fmt: skip


def test_calls_one_after_the_other_stay_apart() -> None:
    sent = messages(message("user", "go"), call("a"), output("a", "A"), call("b"), output("b", "B"))
    assert sent[1:] == [assistant(use("a")), user(result("a", "A")), assistant(use("b")), user(result("b", "B"))]


def test_calls_that_nobody_answered_get_an_answer_which_a_late_one_replaces() -> None:
    missing = "This call was not answered."
    items = [call("a"), call("b"), output("b", "B"), message("user", "well?"), call("c")]
    assert messages(*items)[1:] == [
        assistant(use("a"), use("b")),
        user(result("b", "B"), result("a", missing), "well?"),
        assistant(use("c")),
        user(result("c", missing)),
    ]
    assert messages(*items, output("a", "A"), output("a", "again"))[2] == user(
        result("b", "B"), result("a", "A"), "well?"
    )


def test_outputs_of_no_call_are_dropped() -> None:
    stray = [output("x", "X"), {"type": "computer_call_output", "call_id": "y", "output": {}}, output("", "Z")]
    assert messages(message("user", "go"), *stray) == [user("go")]


def test_ids_and_names_are_made_to_fit_and_kept_apart() -> None:
    sent = messages(call("functions.f:0", "a.b"), output("functions.f:0", "1"), call("functions.f:0"), call("x"))
    assert sent[1] == assistant(use("functions_f_0", "a_b"))
    again = sent[3]["content"][0]["id"]
    assert again != "functions_f_0" and sent[4]["content"][0]["tool_use_id"] == again
    twice = messages(call("a"), call("a"), output("a", "A"))
    ids = [block["id"] for m in twice for block in m["content"] if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for m in twice for block in m["content"] if block["type"] == "tool_result"]
    assert len(set(ids)) == 2 and sorted(ids) == sorted(answered)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}), ('{"x":1}', {"x": 1}), ("[1]", {"input": [1]}), ('{"x":', {"input": '{"x":'}),
        ("[" * 9999, {"input": "[" * 9999}),
    ],
)  # fmt: skip
def test_arguments_are_an_object_whatever_the_model_wrote(arguments: str, given: Any) -> None:
    assert messages(call("a", "f", arguments))[1]["content"][0]["input"] == given


def test_what_a_function_returns_besides_text_stays_in_its_result() -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png"}
    shot = {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA"}
    shell = [{"stdout": "a", "outcome": {"type": "exit"}}]
    sent = messages(
        call("a"), output("a", [{"type": "input_text", "text": "A"}, image]),
        {"type": "computer_call", "id": "cu_1", "call_id": "b", "action": {"type": "click"}},
        {"type": "computer_call_output", "call_id": "b", "output": shot},
        {"type": "shell_call", "id": "sh_1", "call_id": "c", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c", "output": shell},
        call("d"), output("d", ""),
    )  # fmt: skip
    assert sent[2] == user(result("a", "A", {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}))
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    assert sent[3:5] == [assistant(use("b", "computer", action={"type": "click"})), user(result("b", png))]
    assert sent[6] == user(result("c", json.dumps(shell, separators=(",", ":"))))
    assert sent[8] == user(result("d"))


def test_other_calls_are_told_as_functions() -> None:
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "a", "name": "run", "input": "print()"}
    mcp = {"type": "mcp_call", "id": "m", "name": "look", "arguments": '{"q":1}', "output": "found"}
    web = {"type": "web_search_call", "id": "w", "status": "completed", "action": {"query": "q"}}
    assert messages(
        message("user", "go"), custom, {"type": "custom_tool_call_output", "call_id": "a", "output": "4"}, mcp, web,
        {"type": "mcp_approval_request", "id": "r"},
    )[1:] == [
        assistant(use("a", "run", input="print()")), user(result("a", "4")),
        assistant(use("m", "look", q=1)), user(result("m", "found")),
        assistant(use("w", "web_search", action={"query": "q"})), user(result("w", "completed")),
    ]  # fmt: skip


def searched(results: Any) -> dict[str, Any]:
    return {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": results}


PASSAGES = [
    {"file_id": f"file-{n}", "filename": f"{n}.txt", "score": 1.0, "text": f"T{n}", "attributes": {}} for n in (1, 2)
]


@pytest.mark.parametrize("results", [PASSAGES, []])
def test_passages_are_told_in_the_same_words_as_in_chat_completions(results: Any) -> None:
    asked = Prompt(model=OLD, items=[message("user", "?"), searched(results)])
    sent, sources = anthropic_body(asked)
    chat, same = chat_body(asked)
    assert sent["messages"][1:] == [
        assistant(use("fs_1", "file_search", queries=["q"])),
        user(result("fs_1", chat["messages"][2]["content"])),
    ]
    assert sources == same == [Source(p["file_id"], p["filename"]) for p in results]
    assert messages(message("user", "?"), searched(None)) == [user("?")]


def test_thinking_goes_back_within_the_turn_that_tools_interrupted() -> None:
    old, new = thought("anthropic:s0", "Old."), thought("anthropic:s1", "Let me", " see.")
    sent = messages(
        message("user", "a"), old, message("assistant", "b"), message("user", "c"), new,
        thought("anthropic-redacted:c2Vj"), thought("gAAAA", "x"), thought(None, "y"), call("a"), output("a", "A"),
        thought("anthropic:s2"), call("b"), output("b", "B"),
    )  # fmt: skip
    signed = {"type": "thinking", "thinking": "Let me see.", "signature": "s1"}
    assert sent == [
        user("a"), assistant("b"), user("c"),
        assistant(signed, {"type": "redacted_thinking", "data": "c2Vj"}, use("a")), user(result("a", "A")),
        assistant({"type": "thinking", "thinking": "", "signature": "s2"}, use("b")), user(result("b", "B")),
    ]  # fmt: skip


TOOL = Tool("f", "Does it.", {"properties": {"x": {"type": "integer"}}}, strict=True)


@pytest.mark.parametrize(
    ("settings", "choice"),
    [
        ({}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": "f", "parallel_tool_calls": False},
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_tools(settings: Any, choice: Any) -> None:
    sent = body(message("user", "go"), tools=[TOOL, Tool("g")], **settings)
    assert sent["tools"] == [
        {
            "name": "f",
            "description": "Does it.",
            "input_schema": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
        {"name": "g", "input_schema": {"type": "object"}},
    ]
    assert sent.get("tool_choice") == choice


def test_calls_of_tools_that_are_gone_are_of_known_tools_all_the_same() -> None:
    sent = body(message("user", "go"), call("a"), output("a", "A"))
    assert sent["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}


def test_settings() -> None:
    sent = body(message("user", "go"), temperature=1.7, top_p=0.5, stop=["END", " \n"], service_tier="default", seed=1)
    told = {key: value for key, value in sent.items() if key not in ("model", "messages", "stream")}
    assert told == {
        "max_tokens": 8192, "temperature": 1.0, "stop_sequences": ["END"], "service_tier": "standard_only",
    }  # fmt: skip
    assert body(top_p=0.5, service_tier="priority").items() >= {"top_p": 0.5, "service_tier": "auto"}.items()
    assert "service_tier" not in body(service_tier="flex")
    assert not {"temperature", "top_p"} & set(body(model=NEW, temperature=0.5, top_p=0.5)), "they refuse them"


@pytest.mark.parametrize(
    ("settings", "thinking", "limit"),
    [
        ({}, None, 8192),
        ({"reasoning_effort": "low"}, 2048, 2048 + 8192),
        ({"reasoning_effort": "xhigh"}, 32768, 32768 + 8192),
        ({"reasoning_effort": "high", "reasoning_tokens": 5000}, 5000, 5000 + 8192),
        ({"reasoning_tokens": 10}, 1024, 1024 + 8192),
        ({"reasoning_tokens": 5000, "max_output_tokens": 6000}, 5000, 6000),
        ({"reasoning_tokens": 5000, "max_output_tokens": 2000}, 1999, 2000),
        ({"reasoning_tokens": 5000, "max_output_tokens": 1024}, None, 1024),
        ({"reasoning_effort": "high", "tools": [TOOL], "tool_choice": "required"}, None, 16384 + 8192),
        ({"reasoning_effort": "none"}, 0, 8192),
        ({"reasoning_effort": "minimal"}, 0, 8192),
    ],
)
def test_models_that_are_given_a_budget_for_thinking(settings: Any, thinking: int | None, limit: int) -> None:
    sent = body(message("user", "go"), temperature=0.5, top_p=0.5, **settings)
    wanted = {"type": "enabled", "budget_tokens": thinking} if thinking else {"type": "disabled"}
    assert sent.get("thinking") == (None if thinking is None else wanted)
    assert sent["max_tokens"] == limit
    assert ("temperature" in sent, "top_p" in sent) == (not thinking, False)


def test_a_turn_that_began_without_a_thought_goes_on_without_one() -> None:
    begun = [message("user", "go"), call("a"), output("a", "A")]
    assert "thinking" not in body(*begun, reasoning_effort="low")
    assert "thinking" in body(begun[0], thought("anthropic:s", "t"), *begun[1:], reasoning_effort="low")
    assert "thinking" in body(*begun, message("assistant", "A!"), message("user", "more"), reasoning_effort="low")


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("claude-opus-4-6", {}, {"max_tokens": 8192}),
        (
            "claude-opus-4-6",
            {"reasoning_effort": "xhigh"},
            {
                "max_tokens": 40960,
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "max"},
            },
        ),
        (
            "anthropic/claude-opus-4.7",
            {"reasoning_tokens": 3000, "max_output_tokens": 4000, "tools": [TOOL], "tool_choice": "f"},
            {
                "max_tokens": 4000,
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "medium"},
            },
        ),
        ("claude-opus-4-8", {"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ("claude-sonnet-5", {"reasoning_effort": "none"}, {"max_tokens": 8192, "thinking": {"type": "disabled"}}),
        ("claude-opus-5-5", {"reasoning_effort": "none"}, {"max_tokens": 8192, "output_config": {"effort": "low"}}),
        ("claude-mythos-preview", {"reasoning_effort": "none"}, {"output_config": {"effort": "low"}}),
        (
            "claude-fable-5-1",
            {"reasoning_summary": "auto"},
            {"max_tokens": 24576, "thinking": {"type": "adaptive", "display": "summarized"}},
        ),
    ],
)
def test_models_that_decide_themselves_how_long_they_think(model: str, settings: Any, told: Any) -> None:
    sent = body(message("user", "go"), model=model, **settings)
    assert sent.items() >= told.items()
    assert {"thinking", "output_config"} & set(sent) <= set(told) | {"thinking"}


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ("claude-sonnet-4-5-20250929", (4, 5)), ("claude-3-7-sonnet-20250219", (3, 7)), ("claude-opus-5", (5, 0)),
        ("claude-sonnet-4-20250514", (4, 0)), ("anthropic.claude-opus-4-6-v1", (4, 6)), ("claude-2.1", (2, 1)),
        ("claude-mythos-preview", (999, 0)), ("glm-4.6", (0, 0)),
    ],
)  # fmt: skip
def test_generations(model: str, made: tuple[int, int]) -> None:
    assert version(model) == made


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TOLD: dict[str, list[Delta]] = {
    "text": [
        TextDelta("Grüß dich, Welt 🌍."),
        Finish("stop", Usage(input_tokens=25, output_tokens=9), stop_sequence="END"),
    ],
    "tools": [
        TextDelta("I look."),
        ToolCallDelta(0, "", "toolu_a", "get_weather"),
        ToolCallDelta(0, '{"city": "Paris"}'),
        ToolCallDelta(1, "", "toolu_b", "now"),
        ToolCallDelta(1, "{}"),
        Finish("tool_calls", Usage(input_tokens=25, output_tokens=40)),
    ],
    "thinking": [
        ReasoningDelta("Let me see."),
        SealedReasoning("anthropic:EqQBxyz=="),
        SealedReasoning("anthropic-redacted:c2VjcmV0"),
        TextDelta("42"),
        Finish("stop", Usage(input_tokens=25, output_tokens=30, reasoning_tokens=20)),
    ],
    "limit": [TextDelta("Once upon"), Finish("length", Usage(input_tokens=25, output_tokens=2))],
    "cache": [
        TextDelta("Hi"),
        Finish(
            "stop",
            Usage(input_tokens=1230, output_tokens=5, cached_tokens=1000, cache_write_tokens=200),
            service_tier="default",
        ),
    ],
}


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / f"anthropic-{name}.sse").read_bytes()


def read(*reads: bytes) -> list[Delta]:
    """As an answer is read that comes in these pieces."""
    parser, deltas = EventParser(lambda: AssertionError("too large")), AnthropicDeltas("It")
    out: list[Delta] = []
    for piece in (*reads, None):
        out += deltas.feed(parser.finish() if piece is None else parser.feed(piece))
        if deltas.failure:
            raise deltas.failure
        if deltas.done:
            break
    return joined([*out, deltas.finish()])


def joined(deltas: list[Delta]) -> list[Delta]:
    out: list[Delta] = []
    for delta in deltas:
        last = out[-1] if out else None
        if isinstance(delta, (TextDelta, ReasoningDelta)) and type(last) is type(delta):
            out[-1] = type(delta)(last.text + delta.text)  # type: ignore[union-attr]
        elif isinstance(delta, ToolCallDelta) and isinstance(last, ToolCallDelta) and delta.call_id is last.call_id:
            out[-1] = ToolCallDelta(last.index, last.arguments + delta.arguments)
        else:
            out.append(delta)
    return out


def manners(data: bytes) -> Iterator[bytes]:
    yield data
    yield data.replace(b"\n", b"\r\n")
    yield b": hi\n\n" + data.replace(b"\ndata", b"\n: well\ndata")
    yield data.rstrip(b"\n")


@pytest.mark.parametrize("name", TOLD)
def test_a_transcript_says_the_same_wherever_it_is_cut(name: str) -> None:
    for data in manners(transcript(name)):
        assert read(data) == TOLD[name]
        assert read(*(data[at : at + 1] for at in range(len(data)))) == TOLD[name]
        for at in range(1, len(data)):
            assert read(data[:at], data[at:]) == TOLD[name], f"cut at {at}"


def test_an_error_in_the_stream_comes_after_what_was_said() -> None:
    deltas = AnthropicDeltas("It")
    out = deltas.feed(EventParser(AssertionError).feed(transcript("error")))
    assert out == [TextDelta("Once")]
    assert isinstance(deltas.failure, UpstreamError) and deltas.failure.status == 503
    assert "Overloaded" in deltas.failure.message


def test_a_text_that_ends_before_the_message_does_is_a_protocol_error() -> None:
    data = transcript("text")
    for at in range(0, data.index(b"event: message_delta"), 50):
        with pytest.raises(UpstreamError) as failure:
            read(data[:at])
        assert failure.value.reason == "upstream_protocol_error"
    assert read(data[: data.index(b"event: message_stop")]) == TOLD["text"], "the model said that it is done"


def said(*events: Any, sources: Any = ()) -> list[Delta]:
    deltas = AnthropicDeltas("It", sources)
    return [*deltas.feed([msgspec.json.encode(event) for event in events]), deltas.finish()]


def ended(reason: str) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": None}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("new_reason", "stop"),
        ("max_tokens", "length"), ("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)  # fmt: skip
def test_reasons(theirs: str, ours: str) -> None:
    assert said(ended(theirs)) == [Finish(ours)]


def test_a_whole_message() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "Hi", "citations": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        {"type": "mystery", "text": None},
    ]
    whole = {"type": "message", "content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 1}}
    assert said(whole) == [
        ReasoningDelta("hm"),
        SealedReasoning("anthropic:s"),
        SealedReasoning("anthropic-redacted:d"),
        TextDelta("Hi"),
        ToolCallDelta(0, "", "t", "f"),
        ToolCallDelta(0, '{"x":1}'),
        Finish("tool_calls", Usage(input_tokens=1)),
    ]


def test_numbers_of_passages_become_citations() -> None:
    def piece(text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    got = said(piece("So ["), piece("2]. [9]"), ended("end_turn"), sources=[Source("a", "a.txt"), Source("b", "b.txt")])
    assert got[:-1] == [TextDelta("So ["), TextDelta("2]. [9]"), CitationDelta("b", "b.txt")]


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"type":"content_block_delta","delta":7}', b"\xff", b"[" * 100_000])
def test_an_event_that_cannot_be_read_is_a_protocol_error(broken: bytes) -> None:
    with pytest.raises(UpstreamError) as failure:
        AnthropicDeltas("It").feed([broken])
    assert failure.value.reason == "upstream_protocol_error"


# ── end to end ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Rig:
    def __init__(self, upstream: FakeUpstream, egress: Egress) -> None:
        self.upstream = upstream
        self.model = Anthropic(Upstream("fake", upstream.url, KEY, adapter="anthropic"), egress)

    async def deltas(self, **settings: Any) -> list[Delta]:
        prompt = Prompt(**{"model": OLD, "items": [message("user", "hi")], **settings})
        return joined([delta async for read in self.model.stream(prompt) for delta in read])

    async def fails(self, kind: type[BacktalkError], **settings: Any) -> Any:
        with pytest.raises(kind) as failure:
            await self.deltas(**settings)
        assert KEY not in failure.value.message
        return failure.value


@contextlib.asynccontextmanager
async def rig(*behaviours: Behaviour) -> AsyncIterator[Rig]:
    egress = Egress(connect_timeout=2.0, idle_timeout=5.0)
    async with fake_upstream(*behaviours) as upstream:
        try:
            yield Rig(upstream, egress)
        finally:
            await egress.close()


def stream(data: bytes, *, cut: bool = False) -> Behaviour:
    async def behave(line: Line) -> None:
        await line.head()
        await line.chunk(data)
        if cut:
            await asyncio.sleep(0.05)
            line.cut()
        await line.end()

    return behave


def error(kind: str, said: str = "no") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said}}


def failing(kind: str, said: str = "no") -> Behaviour:
    """An error where the first event should be, after the status has said 200."""
    return stream(b"event: error\ndata: " + json.dumps(error(kind, said)).encode() + b"\n\n")


GOOD = stream(transcript("text"))


async def test_the_key_goes_where_anthropic_wants_it() -> None:
    async with rig(GOOD) as r:
        assert await r.deltas(request_id="req_1") == TOLD["text"]
        sent = r.upstream.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    told = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "x-request-id": "req_1"}
    assert sent.headers.items() >= told.items()
    assert [name for name, value in sent.headers.items() if KEY in value] == ["x-api-key"]
    assert sent.body == body(message("user", "hi"))


async def test_a_message_that_is_not_streamed_is_taken_whole() -> None:
    whole = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "max_tokens"}
    async with rig(status(200, whole)) as r:
        assert await r.deltas() == [TextDelta("Hi"), Finish("length")]


@pytest.mark.parametrize("first", [status(529, error("overloaded_error")), failing("overloaded_error")])
async def test_an_overloaded_server_is_asked_again(first: Behaviour) -> None:
    async with rig(first, first, GOOD) as r:
        assert await r.deltas() == TOLD["text"]
        assert len(r.upstream.requests) == 3
    async with rig(first) as r:
        assert (await r.fails(UpstreamError)).status == 503
        assert len(r.upstream.requests) == 3


async def test_after_the_first_word_nothing_is_asked_again() -> None:
    async with rig(stream(transcript("error")), GOOD) as r:
        assert (await r.fails(UpstreamError)).status == 503
        assert len(r.upstream.requests) == 1
    half = transcript("text")[: transcript("text").index(b"event: content_block_stop")]
    async with rig(stream(half, cut=True), GOOD) as r:
        await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 1
    async with rig(stream(half), GOOD) as r:
        assert (await r.fails(UpstreamError)).reason == "upstream_protocol_error"


@pytest.mark.parametrize("way", [failing, lambda kind, said: status(400, error(kind, said))])
async def test_a_prompt_that_is_too_long(way: Any) -> None:
    async with rig(way("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")) as r:
        assert (await r.fails(InvalidRequest)).code == "context_length_exceeded"
        assert len(r.upstream.requests) == 1


async def test_errors_in_the_stream() -> None:
    async with rig(failing("rate_limit_error")) as r:
        await r.fails(RateLimited)
    async with rig(failing("invalid_request_error")) as r:
        assert (await r.fails(InvalidRequest)).code is None
    async with rig(failing("authentication_error")) as r:
        assert (await r.fails(UpstreamError)).status == 502


STRICT = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}


async def test_formats() -> None:
    invalid = error("invalid_request_error", "output_config.format.schema: Invalid schema: too large")
    async with rig(GOOD, status(400, invalid), status(400, error("invalid_request_error"))) as r:
        await r.deltas(text_format=STRICT, model=NEW, reasoning_effort="low")
        sent = r.upstream.requests[0].body["output_config"]
        assert sent == {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}
        await r.fails(FormatRefused, text_format=STRICT)
        assert not isinstance(await r.fails(InvalidRequest, text_format=STRICT), FormatRefused)
        asked = len(r.upstream.requests)
        for form, model in ((STRICT, "glm-4.6"), ({**STRICT, "strict": None}, OLD), ({"type": "json_object"}, OLD)):
            await r.fails(FormatRefused, text_format=form, model=model)
        assert len(r.upstream.requests) == asked, "what is known to be refused is not asked for"


# ── the suite, against a server of Anthropic's shape ─────────────────────────────────────────────────────────────────


def _item(block: dict[str, Any], role: str) -> dict[str, Any]:
    match block["type"]:
        case "tool_use":
            return call(block["id"], block["name"], json.dumps(block["input"]))
        case "tool_result":
            return output(block["tool_use_id"], block["content"])
    return message(role, block["text"])


def _asked(sent: dict[str, Any]) -> Prompt:
    choice = sent.get("tool_choice", {"type": "auto"})
    form = sent.get("output_config", {}).get("format")
    return Prompt(
        model=sent["model"],
        items=[_item(block, m["role"]) for m in sent["messages"] for block in m["content"]],
        tools=[Tool(tool["name"], tool.get("description", ""), tool["input_schema"]) for tool in sent.get("tools", ())],
        tool_choice=choice.get("name") or {"any": "required"}.get(choice["type"], choice["type"]),
        max_output_tokens=sent["max_tokens"],
        text_format={**form, "name": "x"} if form else None,
    )


def _events(deltas: list[Delta]) -> Iterator[dict[str, Any]]:
    """A block for each delta, calls aside: more than a model would make, and as good."""
    for index, delta in enumerate(deltas):
        if isinstance(delta, ToolCallDelta) and delta.call_id:
            block = {"type": "tool_use", "id": delta.call_id, "name": delta.name, "input": {}}
            yield {"type": "content_block_start", "index": 1000 + delta.index, "content_block": block}
        elif isinstance(delta, ToolCallDelta):
            piece = {"type": "input_json_delta", "partial_json": delta.arguments}
            yield {"type": "content_block_delta", "index": 1000 + delta.index, "delta": piece}
        elif isinstance(delta, TextDelta):
            yield {"type": "content_block_start", "index": index, "content_block": text("")}
            piece = {"type": "text_delta", "text": delta.text}
            yield {"type": "content_block_delta", "index": index, "delta": piece}
            yield {"type": "content_block_stop", "index": index}
        elif isinstance(delta, Finish) and delta.usage:
            used = {"input_tokens": delta.usage.input_tokens, "output_tokens": delta.usage.output_tokens}
            reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
            yield {"type": "message_delta", "delta": {"stop_reason": reasons.get(delta.reason)}, "usage": used}
    yield {"type": "message_stop"}


async def _server(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    data, more = b"", True
    while more:
        came = await receive()
        data, more = data + came.get("body", b""), came.get("more_body", False)
    prompt = _asked(json.loads(data or b"{}")) if scope["path"] == "/v1/messages" else None
    deltas = [delta async for read in ScriptedModel().stream(prompt) for delta in read] if prompt else []
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in _events(deltas):
        await send({"type": "http.response.body", "body": b"data: %s\n\n" % msgspec.json.encode(event), "more_body": 1})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve(_server) as url:
        yield url


@pytest.mark.usefixtures("_url")
class TestAnthropic(ModelSuite):
    model_name = OLD
    url = ""

    @pytest.fixture
    def _url(self, server: str) -> None:
        type(self).url = f"{server}/v1"

    @contextlib.asynccontextmanager
    async def open_model(self) -> AsyncIterator[Model]:
        egress = Egress(connect_timeout=5.0, idle_timeout=10.0)
        try:
            yield Anthropic(Upstream("far", self.url, KEY, adapter="anthropic"), egress)
        finally:
            await egress.close()
