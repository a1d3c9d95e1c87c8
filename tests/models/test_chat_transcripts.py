"""Streams of Chat Completions as model servers write them, cut and dressed in every way; and what other servers of the
Responses API made of such streams, which ours must not."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from fake_upstream import Behaviour, Line, delta, events, finish, status
from openai.lib.streaming.responses._responses import ResponseStreamState
from rechunk import cuts, manners
from test_chain import House, house

from backtalk.core.errors import BacktalkError, InvalidRequest, RateLimited, UpstreamError
from backtalk.domain.model import (
    Delta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.models.chat_chunks import ChatDeltas
from backtalk.models.sse import EventParser
from backtalk.testing import check_transcript

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def scored(text: str, logprob: float) -> ScoredTextDelta:
    known = token(text, logprob)
    return ScoredTextDelta(text, ({**known, "top_logprobs": [known, token("Ho", -3.5)]},))


def text(*texts: str) -> list[Delta]:
    return [*map(TextDelta, texts)]


COUNTED = Usage(input_tokens=12, output_tokens=7)
CACHED = Usage(input_tokens=12, output_tokens=7, cached_tokens=4)
USAGE = Usage(input_tokens=12, output_tokens=7, cached_tokens=4, reasoning_tokens=2)
WRITTEN = Usage(input_tokens=12, output_tokens=7, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2)
HITS = Usage(input_tokens=12, output_tokens=7, cached_tokens=8, reasoning_tokens=2)
FEW = [Usage(input_tokens=12, output_tokens=made) for made in range(10)]
DEFAULT = "default"
COLOGNE = '{"city":"Köln"}'
TOLD: dict[str, list[Delta | type[BacktalkError]]] = {
    "openai-text": [*text("Grüße, ", "Wörld 🌍"), Finish("stop", USAGE, DEFAULT)],
    "openai-parallel-tools": [
        ToolCallDelta(0, "", "call_a", "get_weather"),
        ToolCallDelta(0, '{"city"'),
        ToolCallDelta(0, ':"Köln"}'),
        ToolCallDelta(1, "", "call_b", "now"),
        ToolCallDelta(1, "{}"),
        Finish("tool_calls", USAGE, DEFAULT),
    ],
    "openai-interleaved-tools": [
        ToolCallDelta(0, "", "call_a", "f"),
        ToolCallDelta(1, "", "call_b", "g"),
        ToolCallDelta(1, '{"y"'),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(1, ":2}"),
        ToolCallDelta(0, "1}"),
        Finish("tool_calls", None, DEFAULT),
    ],
    "openai-refusal": [RefusalDelta("I can't"), RefusalDelta(" help."), Finish("stop", USAGE, DEFAULT)],
    "openai-logprobs": [scored("Hé", -0.25), scored("!", -0.5), Finish("length", USAGE, DEFAULT)],
    "openai-content-filter": [*text("Well"), Finish("content_filter", USAGE, DEFAULT)],
    "gemini-text": [*text("Hello", " there."), Finish("stop", FEW[3])],
    "gemini-tools": [
        ToolCallDelta(0, COLOGNE, "function-call-1", "get_weather"),
        ToolCallDelta(1, "{}", "function-call-2", "now"),
        Finish("tool_calls", FEW[9]),
    ],
    "gemini-tools-no-index": [
        ToolCallDelta(0, COLOGNE, "call_*", "get_weather"),
        ToolCallDelta(1, '{"city":"Bonn"}', "call_*", "get_weather"),
        ToolCallDelta(2, "{}", "call_*", "now"),
        Finish("tool_calls", FEW[9]),
    ],
    "gemini-tools-chunks": [
        ToolCallDelta(0, '{"x":1}', "call_*", "f"),
        ToolCallDelta(1, '{"x":1}', "call_*", "f"),
        Finish("tool_calls", FEW[9]),
    ],
    "ollama-thinking": [ReasoningDelta("Okay"), ReasoningDelta(", so"), *text("Yes"), Finish("stop")],
    "ollama-tools": [
        ToolCallDelta(0, '{"x":1}', "call_a", "f"),
        ToolCallDelta(1, "{}", "call_b", "g"),
        Finish("tool_calls"),
    ],
    "vllm": [ReasoningDelta("Hm"), ReasoningDelta("."), *text("Ja", "!"), Finish("stop", CACHED)],
    "vllm-tools": [
        ToolCallDelta(0, "", "chatcmpl-tool-1", "f"),
        ToolCallDelta(0, '{"x": '),
        ToolCallDelta(0, "1}"),
        Finish("tool_calls"),
    ],
    "vllm-error": [*text("One"), UpstreamError],
    "vllm-too-long": [InvalidRequest],
    "deepseek": [ReasoningDelta("Let me"), ReasoningDelta(" see."), *text("Yes", "."), Finish("stop", HITS)],
    "openrouter": [ReasoningDelta("Hm"), ReasoningDelta("!"), *text("Yes"), Finish("stop", WRITTEN)],
    "openrouter-sealed": [SummaryDelta("Plan", 0), SealedReasoning("gAAA"), *text("Yes"), Finish("stop")],
    "openrouter-error": [*text("One"), UpstreamError],
    "openrouter-limited": [RateLimited],
    "mistral-thinking": [
        ReasoningDelta("Hm"),
        ReasoningDelta(", so"),
        *text("Yes", ", ", "sure."),
        Finish("stop", COUNTED),
    ],
    "mistral-tools": [
        ToolCallDelta(0, '{"x": 1}', "D681PevKs", "f"),
        ToolCallDelta(1, "{}", "null", "g"),
        Finish("tool_calls"),
    ],
    "mistral-error": [*text("One", " two"), UpstreamError],
    "groq": [ReasoningDelta("Hm"), *text("Yes"), Finish("stop", USAGE, "on_demand")],
    "groq-error": [*text("One"), UpstreamError],
    "llamacpp": [ReasoningDelta("Hm"), *text("Yes"), Finish("length", COUNTED)],
    "azure": [*text("Yes"), Finish("stop", USAGE)],
    "azure-filtered": [*text("Well"), Finish("content_filter")],
    "think-in-text": [*text("<think>", "\nHm\n", "</think>", "\n\nYes"), Finish("stop")],
    "equal-chunks": [*text(*["ha"] * 50), Finish("stop")],
    "careless": [*text("Hi"), Finish("stop", Usage())],
}
TO_THE_END = [name for name, said in TOLD.items() if isinstance(said[-1], Finish)]


SAID = {
    "vllm-error": ("EngineCore", "server_error"),
    "vllm-too-long": ("4096 tokens", "context_length_exceeded"),
    "openrouter-error": ("disconnected", "server_error"),
    "openrouter-limited": ("Rate limited", "rate_limit_exceeded"),
    "mistral-error": ("no reason", "server_error"),
    "groq-error": ("over capacity", "server_error"),
}


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / f"chat-{name}.sse").read_bytes()


def read(reads: list[bytes]) -> list[Any]:
    """The deltas of an answer in these reads; an error as its type, at the end. Ids that we made are `call_*`."""
    parser, deltas = EventParser(lambda: AssertionError("too large")), ChatDeltas("It")
    out: list[Any] = []
    try:
        for piece in (*reads, None):
            out += deltas.feed(parser.finish() if piece is None else parser.feed(piece))
            if deltas.failure:
                raise deltas.failure
            if deltas.done:
                break
        out.append(deltas.finish())
    except BacktalkError as error:
        out.append(type(error))
    return [_anonymous(delta) for delta in out]


def _anonymous(delta: Any) -> Any:
    ours = isinstance(delta, ToolCallDelta) and len(delta.call_id or "") > 20
    return ToolCallDelta(delta.index, delta.arguments, "call_*", delta.name) if ours else delta


def test_no_transcript_is_forgotten() -> None:
    assert {path.stem.removeprefix("chat-") for path in TRANSCRIPTS.glob("chat-*.sse")} == set(TOLD)


@pytest.mark.parametrize("name", TOLD)
def test_a_transcript_says_the_same_however_it_is_written_and_cut(name: str) -> None:
    for manner, data in manners(transcript(name)):
        for number, reads in enumerate(cuts(data)):
            assert read(reads) == TOLD[name], f"{manner}, cut at {number + 1}"


@pytest.mark.parametrize("name", [name for name in TO_THE_END if name != "equal-chunks"])
def test_a_stream_that_breaks_off_is_no_whole_answer(name: str) -> None:
    """Up to the chunk in which the model says that it is done; behind it, only figures are lost."""
    data = transcript(name)
    end = data.rindex(b'"finish_reason":"')
    for at in range(0, end, 7):
        *said, last = read([data[:at]])
        assert last is UpstreamError
        assert said == TOLD[name][: len(said)]
    behind = data.index(b"\n\n", end)
    *said, last = read([data[:behind]])
    assert said == TOLD[name][:-1] and isinstance(last, Finish)


@pytest.mark.parametrize("name", SAID)
def test_an_error_in_the_stream_says_what_the_server_said(name: str) -> None:
    deltas = ChatDeltas("It")
    events = EventParser(AssertionError).feed(transcript(name))
    try:
        deltas.feed(events)
        failure: Any = deltas.failure
    except BacktalkError as error:
        failure = error
    words, code = SAID[name]
    assert words in failure.message and failure.code == code


def test_a_call_without_a_name_is_none() -> None:
    """Such as one of a kind that was not asked for."""
    custom = b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","type":"custom","custom":{"name":"run"}}]}}]}'
    deltas = ChatDeltas("It")
    assert deltas.feed([custom, b"[DONE]"]) == [] and deltas.finish() == Finish("stop")


def call(**fields: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"delta": {"tool_calls": [{"index": 0, **fields}]}}]})


def test_what_comes_before_the_name_of_a_call_is_kept() -> None:
    pieces = [
        call(id="a"),
        call(function={"arguments": '{"x"'}),
        call(id="b", index=1, function={"arguments": ""}),
        call(function={"name": "f", "arguments": ":"}),
        call(function={"arguments": "1}"}),
        call(index=1, function={"name": "g", "arguments": "{}"}),
    ]
    assert ChatDeltas("It").feed(pieces) == [
        ToolCallDelta(0, '{"x":', "a", "f"),
        ToolCallDelta(0, "1}"),
        ToolCallDelta(1, "{}", "b", "g"),
    ]


def test_pieces_of_a_call_follow_it_where_the_server_uses_an_index_twice() -> None:
    first = [call(id="a", function={"name": "f"}), call(function={"arguments": "{}"})]
    second = [call(id="b", function={"name": "g", "arguments": ""}), call(function={"arguments": '{"y":1}'})]
    again = [call(id="b", function={"name": "g", "arguments": " "})]
    assert ChatDeltas("It").feed([*first, *second, *again]) == [
        ToolCallDelta(0, "", "a", "f"),
        ToolCallDelta(0, "{}"),
        ToolCallDelta(1, "", "b", "g"),
        ToolCallDelta(1, '{"y":1}'),
        ToolCallDelta(1, " "),
    ]


# ── what others made of such streams ─────────────────────────────────────────────────────────────────────────────────


def told(name: str) -> Behaviour:
    """A transcript as an upstream sends it."""

    async def behave(line: Line) -> None:
        await line.head()
        await line.chunk(transcript(name))
        await line.end()

    return behave


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}


TOOLS = [tool(name) for name in ("get_weather", "now", "f", "g")]


async def seen(h: House, **fields: Any) -> tuple[list[dict[str, Any]], Any]:
    """The events of a streamed response and its end, which the SDK's accumulator must have gathered, too."""
    body: Any = {"model": "a/m", "input": "hi", **fields}
    events_ = [event async for event in await h.sdk.responses.create(**body, stream=True)]
    found = [event.to_dict() for event in events_]
    check_transcript(found)
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    gathered = [made for event in events_ for made in state.handle_event(event)]
    end = found[-1]["response"]
    if found[-1]["type"] == "response.completed":
        assert [item.id for item in gathered[-1].response.output] == [item["id"] for item in end["output"]]
        assert gathered[-1].response.output_text == said(end)
    return found, end


def said(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part.get("text", "") for part in parts)


def kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


@pytest.mark.parametrize("name", TOLD)
async def test_every_transcript_becomes_a_proper_responses_stream(name: str, tmp_path: Path) -> None:
    async with house(tmp_path, told(name)) as h:
        try:
            found, end = await seen(h, tools=TOOLS)
        except openai.APIError:
            assert name in SAID
            return
    assert end["id"] == found[0]["response"]["id"]
    assert end["status"] == ("failed" if name in SAID else end["status"])
    assert said(end) == "".join(delta.text for delta in TOLD[name] if isinstance(delta, TextDelta))
    if isinstance(finish_ := TOLD[name][-1], Finish):
        assert end["status"] == ("incomplete" if finish_.reason in ("length", "content_filter") else "completed")
        calls = [(item["name"], item["arguments"]) for item in end["output"] if item["type"] == "function_call"]
        assert calls == written(name)


def written(name: str) -> list[tuple[str, str]]:
    """The calls of a transcript."""
    found: dict[int, tuple[str, str]] = {}
    for delta_ in TOLD[name]:
        if isinstance(delta_, ToolCallDelta):
            before = found.get(delta_.index, (delta_.name or "", ""))
            found[delta_.index] = (before[0], before[1] + delta_.arguments)
    return list(found.values())


async def test_text_and_thinking_in_turns_have_items_of_their_own(tmp_path: Path) -> None:
    """Elsewhere: text after thinking without an item, a part that nobody had added, deltas for an item of another kind."""
    pieces = [
        delta(reasoning_content="a"), delta(content="b"), delta(reasoning_content="c"), delta(content="d", reasoning_content="e"),
        delta(refusal="f"), delta(content="g"), delta(tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{}"}}]),
        delta(content="h"), delta(reasoning_content="i"),
    ]  # fmt: skip
    async with house(tmp_path, events(*pieces, finish())) as h:
        _, end = await seen(h, tools=TOOLS)
    assert said(end) == "bdgh"
    assert kinds(end) == [
        "reasoning", "message", "reasoning", "message", "function_call", "message", "reasoning",
    ]  # fmt: skip


async def test_items_end_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    async with house(tmp_path, told("openai-interleaved-tools")) as h:
        found, end = await seen(h, tools=TOOLS)
    done = [event["output_index"] for event in found if event["type"] == "response.output_item.done"]
    assert done == sorted(done) == [0, 1]
    assert [(item["call_id"], item["arguments"]) for item in end["output"]] == [
        ("call_a", '{"x":1}'),
        ("call_b", '{"y":2}'),
    ]


async def test_ids_are_ours_and_stay_whatever_the_upstream_calls_its_chunks(tmp_path: Path) -> None:
    pieces = [{**delta(content=str(n)), "id": f"chatcmpl-{n}", "model": f"m{n}", "created": n} for n in range(5)]
    async with house(tmp_path, events(*pieces, finish())) as h:
        found, end = await seen(h)
        assert {event["response"]["id"] for event in found if "response" in event} == {end["id"]}
        assert end["model"] == found[0]["response"]["model"] == "a/m"
        assert (await h.sdk.responses.retrieve(end["id"])).output_text == "01234"


async def test_calls_stay_in_a_chain_of_responses(tmp_path: Path) -> None:
    async with house(tmp_path, told("openai-parallel-tools")) as h:
        h.fakes["a"].behaviours.append(told("openai-text"))
        _, first = await seen(h, tools=TOOLS)
        outputs: Any = [
            {"type": "function_call_output", "call_id": call_id, "output": text_}
            for call_id, text_ in (("call_b", "noon"), ("call_a", "sunny"))
        ]
        _, second = await seen(h, tools=TOOLS, input=outputs, previous_response_id=first["id"])
        await seen(h, tools=TOOLS, input="And?", previous_response_id=second["id"])
        sent = h.fakes["a"].requests[2].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert [call_["id"] for call_ in sent[1]["tool_calls"]] == ["call_a", "call_b"]
    assert {message["tool_call_id"]: message["content"] for message in sent[2:4]} == {
        "call_a": "sunny",
        "call_b": "noon",
    }


@pytest.mark.parametrize("code", [500, 502, 429, 400, "", None, {"a": 1}, [1], 1.5, True])
async def test_codes_of_errors_are_words_whatever_the_upstream_sends(code: Any, tmp_path: Path) -> None:
    error = {"error": {"message": "kaputt", "code": code, "type": 7, "param": 3}}
    async with house(tmp_path, events(delta(content="a"), error)) as h:
        _, end = await seen(h)
        assert end["error"]["code"] in ("server_error", "rate_limit_exceeded") and "kaputt" in end["error"]["message"]
        h.fakes["a"].behaviours[:] = [status(400, error)]
        with pytest.raises(openai.BadRequestError) as caught:
            await h.ask("a/m")
    assert caught.value.code is caught.value.param is None


@pytest.mark.parametrize("where", ["in a frame", "in a word", "before the end", "in a head"])
async def test_a_stream_that_is_cut_is_told_as_failed(where: str, tmp_path: Path) -> None:
    """Elsewhere the client's stream ended with it, and no frame said why."""

    async def cut(line: Line) -> None:
        await line.head()
        await line.event(delta(content="Hel"))
        if where == "in a frame":
            await line.chunk(b'data: {"choices":[{"del')
        elif where == "in a word":
            await line.chunk('data: {"choices":[{"delta":{"content":"ü'.encode()[:-1])
        elif where == "in a head":
            await line.raw(b"7")
        await asyncio.sleep(0.05)
        line.cut()

    async with house(tmp_path, cut) as h:
        found, end = await seen(h)
    assert (found[-1]["type"], end["status"], said(end)) == ("response.failed", "failed", "Hel")
    assert end["error"]["code"] == "server_error" and end["output"][0]["status"] == "incomplete"


async def test_equal_chunks_are_no_loop(tmp_path: Path) -> None:
    async with house(tmp_path, told("equal-chunks")) as h:
        found, end = await seen(h)
    assert said(end) == "ha" * 50 and end["status"] == "completed"
    assert len([event for event in found if event["type"] == "response.output_text.delta"]) == 50
