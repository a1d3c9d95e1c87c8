"""Streams of Chat Completions as model servers write them, cut and dressed in every way; and what other servers of the
Responses API made of such streams, which ours must not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from rechunk import cuts, manners

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


def test_a_call_of_a_kind_that_was_not_asked_for_is_nameless() -> None:
    """What has no name is shown to nobody, so that nothing is called that was not offered."""
    custom = b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","type":"custom","custom":{"name":"run"}}]}}]}'
    deltas = ChatDeltas("It")
    assert deltas.feed([custom]) == [ToolCallDelta(0, "", "c", "")]


def test_pieces_of_a_call_follow_it_where_the_server_uses_an_index_twice() -> None:
    def call(**fields: Any) -> bytes:
        return msgspec.json.encode({"choices": [{"delta": {"tool_calls": [{"index": 0, **fields}]}}]})

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
