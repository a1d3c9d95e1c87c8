"""The adapter for servers of the Responses API: bodies, transcripts cut anywhere, and a server of our own behind it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_upstream import Behaviour, FakeUpstream, Line, events, fake_upstream, status

from backtalk import Backtalk
from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest, ModelNotFound, RateLimited, UpstreamError
from backtalk.core.settings import Settings
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Model,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    Tool,
    ToolCallDelta,
    Usage,
)
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.chat_body import chat_body
from backtalk.models.openai_responses import OpenAIResponses
from backtalk.models.passages import Source
from backtalk.models.responses_body import responses_body
from backtalk.models.responses_events import ResponsesDeltas
from backtalk.models.sse import EventParser
from backtalk.testing import ModelSuite, ScriptedModel, check_transcript, read_transcript, serve

KEY = "sk-canary-1234567890"
TRANSCRIPTS = Path(__file__).parent / "transcripts"
ENCRYPTED, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "status": "completed", "role": role, "content": content, **more}


def call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, text: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def thought(sealed: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "status": "completed", "encrypted_content": sealed, **more}


def body(*items: dict[str, Any], openai: bool = False, **settings: Any) -> dict[str, Any]:
    prompt = Prompt(**{"model": "m", "items": list(items), **settings})
    return responses_body(prompt, mark="far:", openai=openai)[0]


def sent(*items: dict[str, Any]) -> Any:
    return body(*items)["input"]


# ── the body ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_of_every_role_go_out_without_what_is_ours() -> None:
    said = [{"type": "output_text", "text": "Hel", "annotations": [{"x": 1}], "logprobs": []},
            {"type": "output_text", "text": "lo"}]  # fmt: skip
    refused = [said[1], {"type": "refusal", "refusal": "No."}]
    assert sent(
        message("system", "Be kind."),
        message("developer", "Be brief."),
        message("user", [{"type": "input_text", "text": "a"}]),
        message("assistant", said, phase="final_answer"),
        {"role": "user", "content": "c"},
        message("assistant", refused),
        message("assistant", []),
    ) == [
        {"type": "message", "role": "system", "content": "Be kind."},
        {"type": "message", "role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": "Hello", "phase": "final_answer"},
        {"type": "message", "role": "user", "content": "c"},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "lo", "annotations": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
    ]


def test_images_audio_and_files_go_out_as_they_are() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}
    parts = [
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low", "file_id": None},
        {"type": "input_image", "image_url": "https://x/y.png"},
        sound,
        {**file, "file_id": None},
        {"type": "text", "text": "look"},
    ]
    assert sent(message("user", parts))[0]["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
        sound,
        file,
        {"type": "input_text", "text": "look"},
    ]


@pytest.mark.parametrize("kind", ["input_image", "input_file", "input_hologram"])
def test_what_it_cannot_take_is_the_clients_mistake(kind: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sent(message("user", [{"type": kind, "file_id": "file-1"}]))
    assert refused.value.param == "input"


def test_calls_keep_their_ids_and_custom_ones_become_functions() -> None:
    assert sent(
        {**call("c1", arguments='{"x":1}'), "id": "fc_1", "status": "completed"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "run", "input": "ls"},
        {**output("c1", "sunny"), "id": "fco_1", "status": "completed"},
        {
            "type": "custom_tool_call_output",
            "id": "x",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "a"}],
        },
    ) == [
        call("c1", arguments='{"x":1}'),
        call("c2", "run", '{"input":"ls"}'),
        output("c1", "sunny"),
        output("c2", [{"type": "input_text", "text": "a"}]),
    ]


def test_outputs_that_are_no_content_become_json() -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png", "detail": "high"}
    outputs = [{"a": 1}, [{"stdout": "x"}], [1], [], None, [image]]
    made = [sent(call("c"), output("c", value))[1]["output"] for value in outputs]
    assert made == ['{"a":1}', '[{"stdout":"x"}]', "[1]", "[]", "", [image]]


def test_calls_without_an_output_are_answered_and_outputs_without_a_call_dropped() -> None:
    assert sent(
        call("a"), call("b"), output("b", "B"), output("z", "?"), output("b", "again"), message("user", "x")
    ) == [
        call("a"),
        output("a", "This call was not answered."),
        call("b"),
        output("b", "B"),
        {"type": "message", "role": "user", "content": "x"},
    ]


def test_passages_are_told_in_the_words_of_the_other_adapter() -> None:
    found = {"file_id": "file-1", "filename": "a.txt", "score": 1.0, "text": "T", "attributes": {}}
    items = [
        {
            "type": "file_search_call",
            "id": "fs_1",
            "queries": ["q"],
            "results": [found, {**found, "file_id": "file-2"}],
        },
        {"type": "file_search_call", "id": "fs_2", "queries": [], "results": []},
        {"type": "file_search_call", "id": "fs_3", "queries": ["q"], "results": None},
        {"type": "file_search_call", "id": "fs_4", "queries": ["q"], "results": [found]},
    ]
    prompt = Prompt(model="m", items=items)
    made, sources = responses_body(prompt, mark="far:")
    other, others = chat_body(prompt)
    assert sources == others == [Source("file-1", "a.txt"), Source("file-2", "a.txt"), Source("file-1", "a.txt")]
    answers = [item for item in made["input"] if item["type"] == "function_call_output"]
    told = [said["content"] for said in other["messages"] if said["role"] == "tool"]
    assert [item["output"] for item in answers] == told
    assert answers[2]["output"].endswith("[3] from a.txt:\nT")
    assert made["input"][0] == call("fs_1", "file_search", '{"queries":["q"]}')


def test_sealed_thinking_goes_back_to_its_own_server_before_what_came_of_it() -> None:
    summary = [{"type": "summary_text", "text": "Hm"}]
    kept = {"type": "reasoning", "summary": summary, "encrypted_content": "AAA:B"}
    assert sent(
        thought("far:AAA:B", summary=summary, content=[{"type": "reasoning_text", "text": "x"}]),
        thought("other:CCC", summary=summary),
        thought(None, summary=summary),
        call("c"),
        output("c", "1"),
        thought("far:DDD"),
        message("assistant", "Hi"),
        thought("far:led nowhere"),
        message("user", "x"),
        thought("far:nor did this"),
    ) == [
        kept,
        call("c"),
        output("c", "1"),
        {"type": "reasoning", "summary": [], "encrypted_content": "DDD"},
        {"type": "message", "role": "assistant", "content": "Hi"},
        {"type": "message", "role": "user", "content": "x"},
    ]


def test_items_of_other_servers_are_left_out() -> None:
    kinds = ("web_search_call", "code_interpreter_call", "computer_call", "computer_call_output", "mcp_call",
             "mcp_list_tools", "mcp_approval_request", "image_generation_call", "compaction", "item_reference", "new")  # fmt: skip
    assert sent(*({"type": kind, "id": "x", "call_id": "y", "output": "z"} for kind in kinds)) == []


def test_what_is_not_set_is_left_out_and_what_the_wire_does_not_know() -> None:
    plain = {"model": "m", "input": [], "stream": True, "store": False}
    assert body() == plain
    assert body(stop=["x"], seed=1, presence_penalty=1.0, frequency_penalty=1.0, request_id="r", tool_choice="none",
                text_format={"type": "text"}, reasoning_tokens=5) == plain  # fmt: skip


def test_every_setting_has_its_name() -> None:
    form = {"type": "json_schema", "name": "n", "description": None, "schema": {"type": "object"}, "strict": None}
    made = body(
        instructions="I", temperature=0.0, top_p=0.5, max_output_tokens=3, text_format=form, verbosity="low",
        reasoning_effort="high", reasoning_summary="auto", logprobs=2, service_tier="flex", cache_key="k",
        cache_retention="24h", user="u",
    )  # fmt: skip
    assert made == {
        "model": "m", "input": [], "stream": True, "store": False, "instructions": "I", "temperature": 0.0,
        "top_p": 0.5, "max_output_tokens": 3, "service_tier": "flex", "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "safety_identifier": "u", "top_logprobs": 2,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"}, "include": [ENCRYPTED, LOGPROBS],
    }  # fmt: skip
    assert body(logprobs=0)["include"] == [LOGPROBS]
    assert "top_logprobs" not in body(logprobs=0)
    assert body(text_format={"type": "json_object"})["text"] == {"format": {"type": "json_object"}}


def test_tools_and_the_choice_among_them() -> None:
    tools = [Tool("f", "F", {"type": "object"}, strict=False), Tool("g")]
    empty = {"type": "object", "properties": {}}
    made = body(tools=tools, tool_choice="g", parallel_tool_calls=False)
    assert made["tools"] == [
        {"type": "function", "name": "f", "description": "F", "parameters": {"type": "object"}, "strict": False},
        {"type": "function", "name": "g", "description": "", "parameters": empty},
    ]
    assert (made["tool_choice"], made["parallel_tool_calls"]) == ({"type": "function", "name": "g"}, False)
    assert body(tools=tools, tool_choice="required")["tool_choice"] == "required"
    assert not {"tool_choice", "parallel_tool_calls"} & set(body(tools=tools))
    assert "tool_choice" not in body(tools=tools, allowed_tools=["f"])
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    assert body(tools=tools, allowed_tools=["f"], openai=True)["tool_choice"] == allowed
    assert body(tools=tools, allowed_tools=["f"], tool_choice="none", openai=True)["tool_choice"] == "none"


@pytest.mark.parametrize(
    ("model", "asked"),
    [("o3", True), ("o4-mini", True), ("gpt-5.1", True), ("ft:gpt-5-mini:me", True), ("gpt-4o", False),
     ("gpt-5-chat-latest", False), ("gpt-5.2-chat-latest", False)],
)  # fmt: skip
def test_openai_is_asked_for_sealed_thinking_where_the_model_thinks(model: str, asked: bool) -> None:
    assert (body(model=model, openai=True).get("include") == [ENCRYPTED]) is asked
    assert "include" not in body(model=model)
    assert body(model=model, reasoning_effort="low")["include"] == [ENCRYPTED]


def test_openai_takes_no_limit_below_its_own() -> None:
    assert body(openai=True, max_output_tokens=3)["max_output_tokens"] == 16
    assert body(openai=True, max_output_tokens=300)["max_output_tokens"] == 300


def test_openai_is_known_by_its_host() -> None:
    for url, known in (
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://mine.openai.azure.com/openai/v1", True),
        ("https://api.openai.com.evil.org/v1", False),
        ("https://notapi.openai.com/v1", False),
    ):
        assert OpenAIResponses(Upstream("x", url), Egress())._openai is known, url


# ── transcripts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def scored(text: str, logprob: float) -> ScoredTextDelta:
    known = token(text, logprob)
    return ScoredTextDelta(text, ({**known, "top_logprobs": [known, token("Ho", -3.5)]},))


USAGE = Usage(input_tokens=12, output_tokens=7, cached_tokens=4, reasoning_tokens=2)
WRITTEN = Usage(input_tokens=12, output_tokens=7, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2)
FINISH = Finish("stop", USAGE, "default")
EXPECTED: dict[str, list[Delta | type[BacktalkError]]] = {
    "text": [TextDelta("Grüße, Wörld 🌍"), Finish("stop", WRITTEN, "default")],
    "logprobs": [scored("Hi", -0.25), scored("!", -0.5), FINISH],
    "parallel-tools": [
        ToolCallDelta(0, "", "call_a", "get_weather"),
        ToolCallDelta(1, "", "call_b", "now"),
        ToolCallDelta(0, '{"city"'),
        ToolCallDelta(1, "{"),
        ToolCallDelta(0, ':"Köln"}'),
        ToolCallDelta(1, "}"),
        Finish("tool_calls", USAGE, "default"),
    ],
    "summary": [
        SummaryDelta("**Plan**", 0),
        SummaryDelta(" first", 0),
        SummaryDelta("Then", 1),
        SealedReasoning("far:gAAA0=="),
        SummaryDelta("Again", 2),
        SealedReasoning("far:gAAA1=="),
        TextDelta("Done."),
        FINISH,
    ],
    "thinking": [ReasoningDelta("Let me"), ReasoningDelta(" see."), TextDelta("Yes"), FINISH],
    "refusal": [RefusalDelta("I can't"), RefusalDelta(" help."), FINISH],
    "incomplete": [TextDelta("One two "), Finish("length", USAGE, "default")],
    "filtered": [TextDelta("Well"), Finish("content_filter", USAGE, "default")],
    "failed": [UpstreamError],
    "error": [InvalidRequest],
}


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / f"responses-{name}.sse").read_bytes()


def deltas_of(*reads: bytes, sources: Sequence[Source] = ()) -> list[Any]:
    """What comes of an answer in these reads; an error as its type, at the end."""
    parser, deltas = EventParser(lambda: AssertionError("too large")), ResponsesDeltas("It", sources, mark="far:")
    out: list[Any] = []
    try:
        for batch in [*map(parser.feed, reads), parser.finish()]:
            out += deltas.feed(batch)
            if deltas.failure:
                raise deltas.failure
            if deltas.done:
                break
        out.append(deltas.finish())
    except BacktalkError as error:
        out.append(type(error))
    return joined(out)


def joined(deltas: Sequence[Any]) -> list[Any]:
    """Neighbours of plain text as one."""
    out: list[Any] = []
    for delta in deltas:
        if type(delta) is TextDelta and out and type(out[-1]) is TextDelta:
            out[-1] = TextDelta(out[-1].text + delta.text)
        else:
            out.append(delta)
    return out


def test_no_transcript_is_forgotten() -> None:
    names = {path.stem.removeprefix("responses-") for path in TRANSCRIPTS.glob("responses-*.sse")}
    assert names == set(EXPECTED)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "error"])
def test_the_transcripts_are_true_to_the_wire(name: str) -> None:
    check_transcript(read_transcript(transcript(name)))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_says_the_same_wherever_it_is_cut(name: str) -> None:
    whole = transcript(name)
    for at in range(len(whole) + 1):
        assert deltas_of(whole[:at], whole[at:]) == EXPECTED[name], f"cut at {at}"
    assert deltas_of(*(whole[at : at + 1] for at in range(len(whole)))) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_transcript_says_the_same_however_it_is_written(name: str) -> None:
    lines = transcript(name).rstrip(b"\n").split(b"\n")
    odd = b"\xef\xbb\xbf: hello\r\n" + b"\r\n".join(line or b"\r\n: ping" for line in lines)
    for at in range(len(odd) + 1):
        assert deltas_of(odd[:at], odd[at:]) == EXPECTED[name], f"cut at {at}"
    done = transcript(name) + b"data: [DONE]\n\n"
    assert deltas_of(done) == deltas_of(done.replace(b"\n", b"\r")) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("failed", "error")])
def test_a_stream_that_ends_early_is_no_answer(name: str) -> None:
    whole = transcript(name)
    cut = whole[: whole.rindex(b"event: ")]
    *_, end = deltas_of(cut)
    assert end is UpstreamError
    assert joined([*deltas_of(cut)[:-1]]) == EXPECTED[name][:-1]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("failed", "error", "logprobs")])
def test_what_was_not_streamed_is_taken_from_any_later_event(name: str) -> None:
    """Without the pieces, without the wholes of parts, and with nothing but the response at the end."""
    told = read_transcript(transcript(name))
    finals = ("response.completed", "response.incomplete")
    wholes = [event for event in told if not event["type"].endswith(".delta")]
    items = [event for event in wholes if event["type"] in ("response.output_item.done", *finals)]
    only_end = [event for event in items if event["type"] in finals]
    bare = [{key: value for key, value in event.items() if key != "output_index"} for event in told]
    body = [only_end[0]["response"]]
    for events_ in (wholes, items, only_end, body):
        assert gist(deltas_of(stream(*events_))) == gist(EXPECTED[name]), events_
    if name not in ("parallel-tools", "summary"):  # two items of a kind, with nothing to tell them apart
        assert gist(deltas_of(stream(*bare))) == gist(EXPECTED[name])


def gist(deltas: Sequence[Any]) -> Any:
    """All that was said, kind by kind, and the end."""
    said: dict[Any, str] = {}
    for delta in deltas[:-1]:
        if isinstance(delta, ToolCallDelta):
            said[delta.index] = said.get(delta.index, f"{delta.call_id} {delta.name} ") + delta.arguments
        else:
            text = delta.data if isinstance(delta, SealedReasoning) else delta.text
            kind = (type(delta), getattr(delta, "part", 0))
            said[kind] = said.get(kind, "") + text
    return said, deltas[-1]


def stream(*payloads: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads)


# ── events that no grammar allows ────────────────────────────────────────────────────────────────────────────────────


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


piece = partial(event, "output_text.delta")
added = partial(event, "output_item.added")
done = partial(event, "output_item.done")
arguments = partial(event, "function_call_arguments.delta")
END = event("completed")


def test_text_comes_without_anything_around_it() -> None:
    item = message("assistant", [{"type": "output_text", "text": "ab"}])
    bare = [piece(delta="a"), piece(delta=None), piece(), piece(delta="b"), event("output_text.done", text="ab")]
    response = {"output": [{"type": "reasoning"}, None, item], "usage": None, "status": None}
    wholes = [done(output_index=1, item=item), event("completed", response=response)]
    assert deltas_of(stream(*bare, *wholes)) == [TextDelta("ab"), Finish("stop")]
    assert deltas_of(stream(*wholes)) == [TextDelta("ab"), Finish("stop")]


def test_a_content_may_be_a_string_and_indexes_null() -> None:
    item = {"type": "message", "content": "Hi"}
    assert deltas_of(stream(done(output_index=None, item=item), END)) == [TextDelta("Hi"), Finish("stop")]
    assert deltas_of(stream({"object": "response", "output": [item], "status": "completed"})) == [
        TextDelta("Hi"),
        Finish("stop"),
    ]


def test_older_names_of_thinking_are_known() -> None:
    told = [event("reasoning.delta", delta="hm"), event("reasoning_summary.delta", delta={"text": "so"}, summary_index=0),
            event("reasoning.done", text="hm"), END]  # fmt: skip
    assert deltas_of(stream(*told)) == [ReasoningDelta("hm"), SummaryDelta("so"), Finish("stop")]


def test_unknown_events_and_items_are_passed_over() -> None:
    told = [
        event("web_search_call.searching", output_index=0),
        event("mcp_call.failed", error={"message": "x"}),
        event("new.delta", delta=7),
        added(output_index=0, item="?"),
        added(output_index=0, item={"type": "web_search_call"}),
        done(output_index=0, item={"type": "web_search_call", "action": {}}),
        {"type": None},
        {},
        piece(delta="a", logprobs="x"),
        event("completed", response=None),
    ]
    assert deltas_of(stream(*told)) == [TextDelta("a"), Finish("stop")]


def test_arguments_wait_for_the_name_of_their_call() -> None:
    item = call("c1", arguments='{"a":1}')
    told = [arguments(output_index=2, delta='{"a"'), arguments(output_index=2, delta=":1}")]
    expected = [ToolCallDelta(2, '{"a":1}', "c1", "f"), Finish("tool_calls")]
    assert deltas_of(stream(*told, added(output_index=2, item={**item, "arguments": ""}), END)) == expected
    assert deltas_of(stream(*told, done(output_index=2, item=item), END)) == expected
    nameless = {**item, "arguments": "", "name": None}
    assert (
        deltas_of(stream(added(output_index=2, item=nameless), *told, done(output_index=2, item=item), END)) == expected
    )


def test_calls_are_told_apart_by_whatever_is_told() -> None:
    """By ids where there is no index, by their call ids where all have the same index, by their order where neither."""
    one, two = ({**call(name, arguments=f'"{name}"'), "id": f"fc_{name}"} for name in "ab")
    by_id = [
        added(item=one),
        added(item=two),
        arguments(item_id="fc_b", delta='"b"'),
        arguments(item_id="fc_a", delta='"a"'),
    ]
    same = [e for item in (one, two) for e in (added(output_index=0, item=item), arguments(output_index=0, delta=item["arguments"]), done(output_index=0, item=item))]  # fmt: skip
    order = [e for item in (one, two) for e in (added(item={**item, "id": None}), arguments(delta=item["arguments"]))]
    by_call_id = [added(item=one), added(item=two), *(arguments(call_id=x, delta=f'"{x}"') for x in "ba")]
    end = event("completed", response={"output": [one, two]})
    for told in (by_id, same, order, by_call_id, []):
        assert gist(deltas_of(stream(*told, end))) == gist(
            [ToolCallDelta(0, '"a"', "a", "f"), ToolCallDelta(1, '"b"', "b", "f"), Finish("tool_calls")]
        ), told


def test_a_call_without_an_id_gets_one() -> None:
    item = {"type": "function_call", "name": "f", "arguments": {"x": 1}}
    first, second, end = deltas_of(stream(added(output_index=0, item=item), done(output_index=0, item=item), END))
    assert (first.name, first.call_id[:5], second, end) == (
        "f",
        "call_",
        ToolCallDelta(0, '{"x":1}'),
        Finish("tool_calls"),
    )


def test_numbers_of_passages_become_citations() -> None:
    sources = [Source(f"file-{n}", f"{n}.txt") for n in (1, 2)]
    told = [piece(delta="It is ["), piece(delta="2"), piece(delta="]."), piece(delta=" And [9]"), END]
    assert deltas_of(stream(*told), sources=sources) == [
        TextDelta("It is [2]."),
        CitationDelta("file-2", "2.txt"),
        TextDelta(" And [9]"),
        Finish("stop"),
    ]


def test_the_end_that_a_response_tells_counts_more_than_its_event() -> None:
    cut = {"status": "incomplete", "incomplete_details": None}
    assert deltas_of(stream(event("completed", response=cut))) == [Finish("length")]
    assert deltas_of(stream(event("done", response={"status": "completed"}))) == [Finish("stop")]
    assert deltas_of(stream(event("done", response={"status": "failed"}))) == [UpstreamError]
    assert deltas_of(stream(event("cancelled"))) == [UpstreamError]


@pytest.mark.parametrize(
    ("broken", "kind", "words"),
    [
        ({"type": "error", "error": {"code": "rate_limit_exceeded", "message": "slow"}}, RateLimited, "slow"),
        ({"type": "error", "code": 429, "message": "slow"}, RateLimited, "slow"),
        ({"error": "out of memory"}, UpstreamError, "out of memory"),
        ({"type": "error"}, UpstreamError, "no reason"),
        (event("failed", response={"error": {"code": "context_length_exceeded", "message": "long"}}), InvalidRequest, "long"),
        (event("failed"), UpstreamError, "was failed"),
        ({"status": "failed", "output": [], "error": {"message": "x"}}, UpstreamError, "x"),
        ([1], UpstreamError, "cannot be read"),
        ({"type": "response.completed", "response": 5}, UpstreamError, "cannot be read"),
    ],
)  # fmt: skip
def test_what_fails_in_the_stream(broken: Any, kind: type[BacktalkError], words: str) -> None:
    deltas = ResponsesDeltas("It")
    assert deltas.feed([json.dumps(piece(delta="a")).encode(), json.dumps(broken).encode()]) == [TextDelta("a")]
    assert type(deltas.failure) is kind and words in str(deltas.failure)
    with pytest.raises(kind):
        ResponsesDeltas("It").feed([json.dumps(broken).encode()])


# ── on the network ───────────────────────────────────────────────────────────────────────────────────────────────────


def prompt(text: Any = "hi", **settings: Any) -> Prompt:
    return Prompt(model="m", items=[message("user", text)], **settings)


class Rig:
    def __init__(self, upstream: FakeUpstream, egress: Egress) -> None:
        self.upstream = upstream
        self.model = OpenAIResponses(Upstream("far", upstream.url, KEY), egress)

    async def deltas(self, asked: Prompt | None = None) -> list[Delta]:
        return [d async for read in self.model.stream(asked or prompt()) for d in read]

    async def fails(self, kind: type[BacktalkError], asked: Prompt | None = None) -> tuple[list[Delta], Any]:
        got: list[Delta] = []
        with pytest.raises(kind) as failure:
            async for read in self.model.stream(asked or prompt()):
                got += read
        assert KEY not in failure.value.message
        return got, failure.value


@contextlib.asynccontextmanager
async def rig(*behaviours: Behaviour) -> AsyncIterator[Rig]:
    egress = Egress(connect_timeout=2.0, idle_timeout=5.0)
    async with fake_upstream(*behaviours) as upstream:
        try:
            yield Rig(upstream, egress)
        finally:
            await egress.close()


def told(name: str) -> Behaviour:
    return events(*read_transcript(transcript(name)), done=False)


async def test_a_request_carries_key_id_and_body() -> None:
    async with rig(told("text")) as r:
        assert joined(await r.deltas(prompt(request_id="req_1"))) == EXPECTED["text"]
        request = r.upstream.requests[0]
    assert (request.method, request.path, request.headers["authorization"]) == (
        "POST",
        "/v1/responses",
        f"Bearer {KEY}",
    )
    assert request.headers["x-request-id"] == request.headers["x-client-request-id"] == "req_1"
    user = {"type": "message", "role": "user", "content": "hi"}
    assert request.body == {"model": "m", "input": [user], "stream": True, "store": False}


async def test_an_answer_that_is_not_streamed_is_taken_whole() -> None:
    response = read_transcript(transcript("summary"))[-1]["response"]
    async with rig(status(200, response)) as r:
        assert gist(await r.deltas()) == gist(EXPECTED["summary"])


async def test_the_connection_is_used_again() -> None:
    async with rig(told("text")) as r:
        for _ in range(3):
            await r.deltas()
        assert (r.upstream.connections, len(r.upstream.requests)) == (1, 3)


async def test_sealed_thinking_makes_the_round() -> None:
    async with rig(told("summary")) as r:
        sealed = [d.data for d in await r.deltas() if isinstance(d, SealedReasoning)]
        asked = prompt()
        asked.items += [thought(sealed[0]), message("assistant", "Done."), message("user", "And?")]
        await r.deltas(asked)
        assert r.upstream.requests[1].body["input"][1] == {
            "type": "reasoning",
            "summary": [],
            "encrypted_content": "gAAA0==",
        }


async def test_a_failing_server_is_tried_again_and_a_cut_before_the_first_delta() -> None:
    async def cut(line: Line) -> None:
        await line.head()
        await line.event(event("created", response={}))
        line.cut()

    async with rig(status(503), cut, told("text")) as r:
        assert joined(await r.deltas()) == EXPECTED["text"]
        assert len(r.upstream.requests) == 3


async def test_a_cut_midway_is_no_answer() -> None:
    async def cut(line: Line) -> None:
        await line.head()
        await line.event(piece(delta="a"))
        line.cut()

    async with rig(cut) as r:
        got, error = await r.fails(UpstreamError)
        assert (got, error.status, len(r.upstream.requests)) == ([TextDelta("a")], 502, 1)


async def test_a_cut_after_the_end_is_none() -> None:
    async def cut(line: Line) -> None:
        await line.head()
        await line.event(piece(delta="a"))
        await line.event(END)
        line.cut()

    async with rig(cut) as r:
        assert await r.deltas() == [TextDelta("a"), Finish("stop")]


async def test_a_stream_without_an_end_is_a_broken_one() -> None:
    async with rig(events(piece(delta="a"), done=False)) as r:
        got, error = await r.fails(UpstreamError)
        assert (got, error.reason) == ([TextDelta("a")], "upstream_protocol_error")


async def test_leaving_early_closes_the_connection() -> None:
    async def endless(line: Line) -> None:
        await line.head()
        while True:
            await line.event(piece(delta="a"))
            await asyncio.sleep(0.01)

    async with rig(endless) as r:
        reads = r.model.stream(prompt())
        assert await anext(reads)
        await reads.aclose()
        await asyncio.wait_for(r.upstream.left.wait(), 5.0)


async def test_refusals_are_told_and_those_of_formats_remembered() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    said = "Invalid parameter: 'text.format' of type 'json_schema' is not supported with this model."
    refused = status(400, {"error": {"message": said, "param": "text.format", "code": None}})
    wrong = status(400, {"error": {"message": "Bad.", "param": "top_p", "code": "invalid_value"}})
    unknown = status(404, {"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}})
    async with rig(refused, wrong, unknown, status(401)) as r:
        await r.fails(FormatRefused, prompt(text_format=form))
        with pytest.raises(FormatRefused):
            r.model.stream(prompt(text_format=form))
        assert len(r.upstream.requests) == 1
        _, error = await r.fails(InvalidRequest)
        assert (error.param, error.code) == ("top_p", "invalid_value")
        await r.fails(ModelNotFound)
        await r.fails(UpstreamError)


# ── a Backtalk behind it ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", autouse=True)
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(home=tmp_path_factory.mktemp("upstream"), discover=False)
    with serve(Backtalk(settings, models=[ScriptedModel()])) as url:
        TestOverResponses.url = f"{url}/v1"
        yield f"{url}/v1"


@contextlib.asynccontextmanager
async def adapter(url: str) -> AsyncIterator[Model]:
    egress = Egress(connect_timeout=5.0, idle_timeout=10.0)
    try:
        yield OpenAIResponses(Upstream("far", url), egress)
    finally:
        await egress.close()


class TestOverResponses(ModelSuite):
    model_name = "scripted"
    url: ClassVar[str] = ""

    def open_model(self) -> contextlib.AbstractAsyncContextManager[Model]:
        return adapter(self.url)


async def asked(url: str, text: Any, *more: dict[str, Any], **settings: Any) -> list[Delta]:
    async with adapter(url) as model:
        wanted = Prompt(model="scripted", items=[message("user", text), *more], **settings)
        return [delta async for read in model.stream(wanted) for delta in read]


def spoken(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def test_every_word_crosses_the_chain_as_a_delta_of_its_own(chain: str) -> None:
    got = await asked(chain, "[[tokens:40]]")
    assert [d.text for d in got if isinstance(d, TextDelta)] == [f"word{n} " for n in range(40)]


async def test_summaries_and_sealed_thinking_cross_the_chain_and_go_back(chain: str) -> None:
    got = await asked(chain, "[[summarise]] [[think]] Hello", reasoning_effort="low", reasoning_summary="auto")
    summary = [delta for delta in got if isinstance(delta, SummaryDelta)]
    assert [d.part for d in summary] == sorted(d.part for d in summary) and {d.part for d in summary} == {0, 1}
    assert "".join(d.text for d in got if isinstance(d, ReasoningDelta)) == "Let me think about that."
    assert [delta for delta in got if isinstance(delta, SealedReasoning)] == [SealedReasoning("far:sealed")]
    again = await asked(
        chain, "Hello", thought("far:sealed"), message("assistant", "Hi"), message("user", "Say exactly: x")
    )
    assert spoken(again) == "x"


async def test_tools_cross_the_chain_both_ways(chain: str) -> None:
    place = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [Tool("get_weather", "Weather.", place, strict=False)]
    got = await asked(chain, "What's the weather like in Paris?", tools=tools)
    first = next(delta for delta in got if isinstance(delta, ToolCallDelta))
    written = "".join(delta.arguments for delta in got if isinstance(delta, ToolCallDelta))
    assert (first.name, "Paris" in json.loads(written)["city"]) == ("get_weather", True)
    assert isinstance(got[-1], Finish) and got[-1].reason == "tool_calls"
    assert first.call_id
    more = [call(first.call_id, "get_weather", written), output(first.call_id, "sunny, 21 degrees")]
    assert "sunny, 21 degrees" in spoken(await asked(chain, "What's the weather like in Paris?", *more, tools=tools))


async def test_passages_cross_the_chain_and_are_cited(chain: str) -> None:
    found = {"file_id": "file-1", "filename": "a.txt", "score": 1.0, "text": "The code is 4711."}
    search = {"type": "file_search_call", "id": "fs_1", "queries": ["code"], "results": [found]}
    got = await asked(chain, "What is the code?", search)
    assert "[1] from a.txt:\nThe code is 4711." in spoken(got)
    assert CitationDelta("file-1", "a.txt") in got


async def test_structure_images_logprobs_and_refusals_cross_the_chain(chain: str) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "n", "description": None, "schema": schema, "strict": True}
    assert isinstance(json.loads(spoken(await asked(chain, "Count.", text_format=form)))["n"], int)
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    looked = spoken(await asked(chain, [{"type": "input_text", "text": "Look."}, image, image, file]))
    assert "2 images" in looked and "a.pdf" in looked
    scored_ = [d for d in await asked(chain, "Hello", logprobs=1) if isinstance(d, TextDelta)]
    assert all(isinstance(d, ScoredTextDelta) and d.logprobs[0]["token"] == d.text for d in scored_) and scored_
    assert any(isinstance(d, RefusalDelta) for d in await asked(chain, "[[refuse]]"))


async def test_every_setting_is_taken_at_the_other_end(chain: str) -> None:
    got = await asked(
        chain, "Hello", instructions="I", temperature=0.5, top_p=0.5, verbosity="low", reasoning_effort="low",
        service_tier="default", cache_key="k", cache_retention="24h", user="u", parallel_tool_calls=False,
    )  # fmt: skip
    assert spoken(got) and isinstance(got[-1], Finish) and got[-1].usage and got[-1].usage.output_tokens


async def test_failures_cross_the_chain(chain: str) -> None:
    for text, kind in (
        ("[[fail:before]]", UpstreamError),
        ("[[fail:429]]", RateLimited),
        ("[[tokens:9]] [[fail:after:5]]", UpstreamError),
    ):
        with pytest.raises(kind):
            await asked(chain, text)
