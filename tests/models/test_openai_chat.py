import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from fake_upstream import (
    USAGE,
    Behaviour,
    FakeUpstream,
    Line,
    delta,
    events,
    fake_upstream,
    finish,
    status,
    tokens,
)

from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest, ModelNotFound, RateLimited, UpstreamError
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Live,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.openai_chat import OpenAIChat

KEY = "sk-canary-1234567890"


def prompt(text: str = "hi", **settings: Any) -> Prompt:
    return Prompt(model="m", items=[{"type": "message", "role": "user", "content": text}], **settings)


class Rig:
    def __init__(self, upstream: FakeUpstream, egress: Egress) -> None:
        self.upstream = upstream
        self.model = OpenAIChat(Upstream("fake", upstream.url, KEY), egress)

    async def deltas(self, asked: Prompt | None = None) -> list[Delta]:
        got: list[Delta] = []
        await self._read(asked or prompt(), got)
        return got

    async def _read(self, asked: Prompt, got: list[Delta]) -> None:
        """As a run does: what can come live comes live."""

        def take(deltas: Sequence[Delta]) -> bool:
            got.extend(deltas)
            return True

        async for read in self.model.stream(asked):
            if isinstance(read, Live):
                await read.feed(take)
            got += read

    async def fails(self, kind: type[BacktalkError], asked: Prompt | None = None) -> tuple[list[Delta], Any]:
        """What came before the failure, and the failure."""
        got: list[Delta] = []
        with pytest.raises(kind) as failure:
            await self._read(asked or prompt(), got)
        assert KEY not in failure.value.message
        return got, failure.value


@contextlib.asynccontextmanager
async def rig(*behaviours: Behaviour, idle: float = 5.0) -> AsyncIterator[Rig]:
    egress = Egress(connect_timeout=2.0, idle_timeout=idle)
    async with fake_upstream(*behaviours) as upstream:
        try:
            yield Rig(upstream, egress)
        finally:
            await egress.close()


def text_of(deltas: list[Delta]) -> list[str]:
    return [d.text for d in deltas if isinstance(d, TextDelta)]


GOOD = tokens("Hel", "lo", " there")
HELLO = ["Hel", "lo", " there"]
FINISH = Finish("stop", Usage(input_tokens=12, output_tokens=7, cached_tokens=4, reasoning_tokens=2))


async def test_tokens_keep_their_boundaries_and_usage_comes_with_the_finish() -> None:
    async with rig(GOOD) as r:
        assert await r.deltas() == [*map(TextDelta, HELLO), FINISH]
        sent = r.upstream.requests[0]
    assert (sent.method, sent.path, sent.headers["authorization"]) == ("POST", "/v1/chat/completions", f"Bearer {KEY}")
    assert sent.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_read_with_many_tokens_is_one_list() -> None:
    async def burst(line: Line) -> None:
        await line.head()
        payloads = [delta(content=t) for t in HELLO] + [finish(), USAGE]
        data = b"".join(b"data: %s\n\n" % json.dumps(p).encode() for p in payloads) + b"data: [DONE]\n\n"
        await line.chunk(data)
        await line.end()

    async with rig(burst) as r:
        reads = [read async for read in r.model.stream(prompt())]
    assert reads == [[*map(TextDelta, HELLO), FINISH]]


async def test_the_connection_is_used_again() -> None:
    async with rig(GOOD) as r:
        for _ in range(5):
            await r.deltas()
            await asyncio.sleep(0.02)
        assert (r.upstream.connections, len(r.upstream.requests)) == (1, 5)


async def test_the_connection_is_used_again_although_the_end_comes_late() -> None:
    async def slow_end(line: Line) -> None:
        await line.head()
        for payload in (delta(content="a"), finish(), b"[DONE]"):
            await line.event(payload)
        await asyncio.sleep(0.05)
        await line.end()

    async with rig(slow_end) as r:
        for _ in range(3):
            assert text_of(await r.deltas()) == ["a"]
            await asyncio.sleep(0.15)
        assert r.upstream.connections == 1


async def test_an_answer_that_is_not_streamed_is_taken_whole() -> None:
    message = {"role": "assistant", "content": "Hello", "tool_calls": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": USAGE["usage"]}
    async with rig(status(200, body)) as r:
        assert await r.deltas() == [TextDelta("Hello"), Finish("length", FINISH.usage)]


async def test_tool_calls_reasoning_and_refusals() -> None:
    def call(**fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[fields])

    stream = events(
        delta(role="assistant", content=None, reasoning_content="hm"),
        delta(reasoning="so"),
        delta(refusal="No."),
        call(index=0, id="call_a", type="function", function={"name": "f", "arguments": ""}),
        call(index=0, function={"arguments": '{"x":'}),
        call(index=0, function={"arguments": "1}"}),
        call(index=1, id="call_b", function={"name": "g", "arguments": {"y": 2}}),
        finish("tool_calls"),
    )
    async with rig(stream) as r:
        assert await r.deltas() == [
            ReasoningDelta("hm"),
            ReasoningDelta("so"),
            RefusalDelta("No."),
            ToolCallDelta(0, "", "call_a", "f"),
            ToolCallDelta(0, '{"x":'),
            ToolCallDelta(0, "1}"),
            ToolCallDelta(1, '{"y":2}', "call_b", "g"),
            Finish("tool_calls"),
        ]


async def test_calls_without_index_or_id_are_told_apart_and_named() -> None:
    stream = events(
        delta(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": "{}"}}]),
        delta(tool_calls=[{"id": "b", "function": {"name": "g", "arguments": "{}"}}]),
        finish("stop"),
    )
    async with rig(stream, events(delta(tool_calls=[{"function": {"name": "h"}}]), finish())) as r:
        first = await r.deltas()
        second = await r.deltas()
    assert first[:2] == [ToolCallDelta(0, "{}", "a", "f"), ToolCallDelta(1, "{}", "b", "g")]
    assert first[-1] == Finish("tool_calls")
    call = second[0]
    assert isinstance(call, ToolCallDelta) and call.name == "h" and (call.call_id or "").startswith("call_")


async def test_numbers_of_passages_in_the_text_become_citations() -> None:
    results = [
        {"file_id": f"file-{n}", "filename": f"{n}.txt", "score": 1.0, "text": "T", "attributes": {}} for n in (1, 2)
    ]
    asked = prompt()
    asked.items.append({"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": results})
    async with rig(tokens("So", " it is [", "2", "].", " And [1][9]")) as r:
        got = await r.deltas(asked)
    assert got[:-1] == [
        TextDelta("So"),
        TextDelta(" it is ["),
        TextDelta("2"),
        TextDelta("]."),
        CitationDelta("file-2", "2.txt"),
        TextDelta(" And [1][9]"),
        CitationDelta("file-1", "1.txt"),
    ]


async def test_thinking_in_details_is_told_once() -> None:
    def details(*parts: Any, **fields: Any) -> dict[str, Any]:
        return delta(reasoning_details=list(parts), **fields)

    summary = {"type": "reasoning.summary", "summary": "In short", "index": 1}
    stream = events(
        details({"type": "reasoning.text", "text": "hm", "signature": None}, reasoning="hm", content=""),
        details(summary, {"type": "reasoning.summary", "summary": "x", "index": None}, reasoning_content="In shortx"),
        details({"type": "reasoning.encrypted", "data": "c2VhbGVk"}, reasoning=None),
        details(reasoning="only here"),
        delta(content="a"),
        finish(),
    )
    async with rig(stream) as r:
        assert await r.deltas() == [
            ReasoningDelta("hm"),
            SummaryDelta("In short", 1),
            SummaryDelta("x", 0),
            SealedReasoning("c2VhbGVk"),
            ReasoningDelta("only here"),
            TextDelta("a"),
            Finish("stop"),
        ]


def scored(text: str, *tokens: Any) -> dict[str, Any]:
    chunk = delta(content=text)
    chunk["choices"][0]["logprobs"] = {"content": list(tokens), "refusal": None}
    return chunk


async def test_text_comes_with_the_logprobs_of_its_tokens() -> None:
    high = {"token": "Hé", "bytes": [72, 195, 169], "logprob": -0.1}
    low = {"token": "é", "bytes": None, "logprob": -3}
    stream = events(
        scored("Hé", {**high, "top_logprobs": [high, low], "rank": 1}),
        scored("é!", {**low, "top_logprobs": None}, {"token": "!", "logprob": 0}),
        finish(),
    )
    known = {"token": "é", "bytes": [195, 169], "logprob": -3.0}
    mark = {"token": "!", "bytes": [33], "logprob": 0.0, "top_logprobs": []}
    async with rig(stream) as r:
        assert await r.deltas() == [
            ScoredTextDelta("Hé", ({**high, "top_logprobs": [high, known]},)),
            ScoredTextDelta("é!", ({**known, "top_logprobs": []}, mark)),
            Finish("stop"),
        ]


@pytest.mark.parametrize(
    "strange",
    [None, 0.5, "x", [], {}, {"content": None}, {"content": 7}, {"content": [None]}, {"content": [{"token": 1}]},
     {"content": [{"token": "a", "logprob": "high"}]}, {"tokens": ["a"], "token_logprobs": [-1.0]}],
)  # fmt: skip
async def test_strange_logprobs_are_passed_over(strange: Any) -> None:
    chunk = delta(content="a")
    chunk["choices"][0]["logprobs"] = strange
    async with rig(events(chunk, finish())) as r:
        assert await r.deltas() == [TextDelta("a"), Finish("stop")]


@pytest.mark.parametrize(
    "strange",
    [None, "x", 7, {}, [None], ["x"], [{}], [{"type": "reasoning.text", "text": None}],
     [{"type": "reasoning.summary", "summary": 1}], [{"type": "reasoning.new", "text": "x"}],
     [{"type": "reasoning.encrypted", "data": {}}]],
)  # fmt: skip
async def test_strange_details_are_passed_over(strange: Any) -> None:
    async with rig(events(delta(content="a", reasoning="hm", reasoning_details=strange), finish())) as r:
        assert await r.deltas() == [ReasoningDelta("hm"), TextDelta("a"), Finish("stop")]


@pytest.mark.parametrize("code", [500, 502, 503, 504, 529, 429, 408])
async def test_a_failing_server_is_tried_twice_more(code: int) -> None:
    async with rig(status(code), status(code), GOOD) as r:
        assert text_of(await r.deltas()) == HELLO
        assert len(r.upstream.requests) == 3


async def test_two_retries_are_all() -> None:
    async with rig(status(500, {"error": {"message": "kaputt"}})) as r:
        _, error = await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 3
    assert (error.status, error.reason) == (502, "upstream_error")
    assert "kaputt" in error.message


@pytest.mark.parametrize(
    "header", [{"retry_after": "0.2"}, {"retry_after_ms": "200"}, {"retry_after": "9", "retry_after_ms": "200"}]
)
async def test_retry_after_is_obeyed(header: dict[str, str]) -> None:
    async with rig(status(429, **header), GOOD) as r:
        started = time.monotonic()
        assert text_of(await r.deltas()) == HELLO
        assert time.monotonic() - started >= 0.2


async def test_a_date_as_retry_after_is_obeyed() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    async with rig(status(503, retry_after=moment), GOOD) as r:
        started = time.monotonic()
        assert text_of(await r.deltas()) == HELLO
        assert time.monotonic() - started >= 0.9


async def test_a_long_retry_after_is_handed_on_at_once() -> None:
    async with rig(status(429, {"error": {"message": "slow down"}}, retry_after="30")) as r:
        _, error = await r.fails(RateLimited)
        assert len(r.upstream.requests) == 1
    assert error.headers["retry-after"] == "30"


async def test_an_empty_purse_is_not_tried_again() -> None:
    async with rig(status(429, {"error": {"message": "pay", "code": "insufficient_quota"}})) as r:
        _, error = await r.fails(RateLimited)
        assert len(r.upstream.requests) == 1
    assert error.code == "insufficient_quota"


async def test_a_connection_that_breaks_before_the_first_token_is_tried_again() -> None:
    async def cut_at_once(line: Line) -> None:
        line.cut()

    async def cut_after_role(line: Line) -> None:
        await line.head()
        await line.event(delta(role="assistant", content=""))
        line.cut()

    async with rig(cut_at_once, cut_after_role, GOOD) as r:
        assert text_of(await r.deltas()) == HELLO
        assert len(r.upstream.requests) == 3


@pytest.mark.parametrize("count", [1, 2, 7])
async def test_after_the_first_token_nothing_is_tried_again(count: int) -> None:
    async def cut_after(line: Line) -> None:
        await line.head()
        for number in range(count):
            await line.event(delta(content=f"t{number}"))
        await asyncio.sleep(0.05)
        line.cut()

    async with rig(cut_after, GOOD) as r:
        got, error = await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 1
    assert text_of(got) == [f"t{number}" for number in range(count)]
    assert error.reason == "upstream_error"


async def test_a_stream_without_an_end_is_a_protocol_error() -> None:
    async with rig(events(delta(content="a"), done=False)) as r:
        got, error = await r.fails(UpstreamError)
    assert text_of(got) == ["a"]
    assert error.reason == "upstream_protocol_error"


async def test_done_without_a_finish_reason_is_an_end() -> None:
    async with rig(events(delta(content="a"))) as r:
        assert await r.deltas() == [TextDelta("a"), Finish("stop")]


async def test_a_finish_reason_without_done_is_an_end_even_if_the_line_then_breaks() -> None:
    async def cut_after_finish(line: Line) -> None:
        await line.head()
        await line.event(delta(content="a"))
        await line.event(finish("length"))
        await asyncio.sleep(0.05)
        line.cut()

    async with rig(events(delta(content="a"), finish(), done=False), cut_after_finish) as r:
        assert await r.deltas() == [TextDelta("a"), Finish("stop")]
        assert await r.deltas() == [TextDelta("a"), Finish("length")]


async def test_a_silent_server_times_out() -> None:
    async def stall(line: Line) -> None:
        await line.head()
        await line.event(delta(content="a"))
        await asyncio.sleep(60)

    async with rig(stall, idle=0.2) as r:
        got, error = await r.fails(UpstreamError)
        assert text_of(got) == ["a"]
        await asyncio.wait_for(r.upstream.left.wait(), 5)
    assert (error.reason, error.status) == ("upstream_timeout", 504)


async def test_a_server_that_never_answers_times_out_once() -> None:
    async def mute(line: Line) -> None:
        await asyncio.sleep(60)

    async with rig(mute, idle=0.2) as r:
        _, error = await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 1
    assert error.reason == "upstream_timeout"


async def test_closing_early_closes_the_connection() -> None:
    async def endless(line: Line) -> None:
        await line.head()
        while True:
            await line.event(delta(content="a"))
            await asyncio.sleep(0.01)

    async with rig(endless) as r:
        stream = r.model.stream(prompt())
        assert await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(r.upstream.left.wait(), 5)


async def test_a_cancelled_task_closes_the_connection() -> None:
    async def mute(line: Line) -> None:
        await asyncio.sleep(60)

    async with rig(mute) as r:
        task = asyncio.create_task(r.deltas())
        while not r.upstream.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(r.upstream.left.wait(), 5)


async def test_a_closed_port_is_unavailable() -> None:
    async with fake_upstream(GOOD) as gone:
        url = gone.url
    egress = Egress(connect_timeout=2.0)
    with pytest.raises(UpstreamError) as failure:
        async for _ in OpenAIChat(Upstream("fake", url), egress).stream(prompt()):
            pass
    await egress.close()
    assert (failure.value.reason, failure.value.status) == ("upstream_unavailable", 503)
    assert "retry-after" in failure.value.headers


@pytest.mark.parametrize(
    "behaviour",
    [
        status(200, b"<html>welcome</html>", "text/html"),
        status(302, b"", location="http://127.0.0.1:9/v1/chat/completions"),
        status(307, b"", location="/elsewhere"),
        status(200, b"{not json", "application/json"),
        status(200, b"data: x\n\n", content_encoding="gzip"),
        events(b"{\"choices\": [{\"delta\": {\"content\""),
        events({"choices": "none"}),
        events(b"[1, 2]"),
        events(b"\xff\xfe"),
    ],
)  # fmt: skip
async def test_nonsense_is_a_protocol_error(behaviour: Behaviour) -> None:
    async with rig(behaviour) as r:
        _, error = await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 1
    assert error.reason == "upstream_protocol_error"


async def test_what_came_before_a_broken_chunk_is_kept() -> None:
    async def behave(line: Line) -> None:
        await line.head()
        await line.chunk(b"data: " + json.dumps(delta(content="a")).encode() + b"\n\ndata: {oops\n\n")
        await asyncio.sleep(60)

    async with rig(behave) as r:
        got, error = await r.fails(UpstreamError)
    assert text_of(got) == ["a"]
    assert error.reason == "upstream_protocol_error"


async def test_strange_but_harmless_chunks_are_passed_over() -> None:
    stream = events(
        {}, {"choices": None}, {"choices": []}, {"choices": [{}]}, {"choices": [{"delta": None}]}, {"x": 1, "usage": None},
        {"choices": [{"index": 1, "delta": {"content": "other"}}]}, delta(content=None), delta(content=""),
        delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]),
        delta(tool_calls=None), delta(content="b", unknown={"x": [1]}), finish("eos"),
    )  # fmt: skip
    async with rig(stream) as r:
        assert await r.deltas() == [ReasoningDelta("hm"), TextDelta("a"), TextDelta("b"), Finish("stop")]


@pytest.mark.parametrize(
    "payload",
    [{"error": {"message": "GPU on fire"}}, {"error": "GPU on fire"}, {"object": "error", "message": "GPU on fire"}],
)
async def test_an_error_inside_the_stream_fails_it(payload: Any) -> None:
    async with rig(events(delta(content="a"), payload)) as r:
        got, error = await r.fails(UpstreamError)
    assert text_of(got) == ["a"]
    assert (error.reason, error.code) == ("upstream_error", "server_error")
    assert "GPU on fire" in error.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [("rate_limit_exceeded", RateLimited), (429, RateLimited), ("context_length_exceeded", InvalidRequest)],
)
async def test_an_error_inside_the_stream_keeps_its_meaning(code: Any, kind: type[BacktalkError]) -> None:
    async with rig(events({"error": {"message": "no", "code": code}})) as r:
        await r.fails(kind)
        assert len(r.upstream.requests) == 1


async def test_a_line_without_end_is_too_large() -> None:
    async def flood(line: Line) -> None:
        await line.head()
        piece = b"x" * 65536
        while True:
            await line.chunk(piece)

    async with rig(flood) as r:
        _, error = await r.fails(UpstreamError)
    assert error.reason == "upstream_too_large"


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_a_refused_request_is_the_clients_to_mend(code: int) -> None:
    body = {"error": {"message": "bad temperature", "param": "temperature", "code": "invalid_value", "type": "x"}}
    async with rig(status(code, body)) as r:
        _, error = await r.fails(InvalidRequest)
        assert len(r.upstream.requests) == 1
    assert (error.message, error.param, error.code, error.status) == (
        "bad temperature",
        "temperature",
        "invalid_value",
        400,
    )


SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(("code", "body"), [
    (400, {"error": {"message": "This model does not support response format `json_schema`."}}),
    (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}),
    (400, {"error": {"message": "Structured outputs are not enabled here"}}),
])  # fmt: skip
async def test_a_format_that_a_server_does_not_know_is_said_and_remembered(code: int, body: Any) -> None:
    async with rig(status(code, body), GOOD) as r:
        for _ in range(2):
            got, error = await r.fails(FormatRefused, prompt(text_format=SCHEMA))
            assert (got, error.param, error.status) == ([], "text.format", 400) and error.message
        assert len(r.upstream.requests) == 1
        assert text_of(await r.deltas(prompt(text_format={"type": "json_object"}))) == HELLO
        assert text_of(await r.deltas(prompt(text_format={"type": "text"}))) == HELLO
        assert text_of(await r.deltas()) == HELLO


@pytest.mark.parametrize(
    "said", ["failed to parse grammar", "'messages' must contain the word 'json' for response_format"]
)
async def test_what_a_server_has_against_one_prompt_is_not_remembered(said: str) -> None:
    async with rig(status(400, {"error": {"message": said}}), GOOD) as r:
        await r.fails(FormatRefused, prompt(text_format=SCHEMA))
        assert text_of(await r.deltas(prompt(text_format=SCHEMA))) == HELLO


@pytest.mark.parametrize("asked", [
    (prompt(), "response_format is unknown"),
    (prompt(text_format={"type": "text"}), "response_format is unknown"),
    (prompt(text_format=SCHEMA), "bad temperature"),
    (prompt(text_format=SCHEMA), "Invalid schema for response_format 'n': 'required' is missing"),
    (prompt(text_format=SCHEMA), "response_format: maximum context length is 9 tokens"),
])  # fmt: skip
async def test_other_refusals_say_nothing_of_the_format(asked: tuple[Prompt, str]) -> None:
    sent, said = asked
    async with rig(status(400, {"error": {"message": said}}), GOOD) as r:
        _, error = await r.fails(InvalidRequest, sent)
        assert not isinstance(error, FormatRefused) and error.message == said
        assert text_of(await r.deltas(sent)) == HELLO


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, you requested 9000",
                "code": 400,
            }
        },
        {"object": "error", "message": "the request exceeds the available context size"},
        {"error": "prompt is too long: 300000 tokens > 200000 maximum"},
    ],
)
async def test_a_prompt_that_is_too_long_keeps_its_code(body: Any) -> None:
    async with rig(status(400, body)) as r:
        _, error = await r.fails(InvalidRequest)
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize("code", [401, 403])
async def test_a_wrong_key_is_the_operators_to_mend(code: int) -> None:
    async with rig(status(code, {"error": {"message": f"Incorrect API key provided: {KEY}"}})) as r:
        _, error = await r.fails(UpstreamError)
        assert len(r.upstream.requests) == 1
    assert error.status == 502
    assert "key" in error.message


async def test_a_key_that_an_upstream_echoes_is_masked() -> None:
    async with rig(status(400, {"error": {"message": f"weird header Bearer {KEY}"}})) as r:
        _, error = await r.fails(InvalidRequest)
    assert "***" in error.message


async def test_an_unknown_model_is_not_found_and_a_wrong_url_is_said() -> None:
    body = {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}
    async with rig(status(404, body), status(404, b"<html>", "text/html")) as r:
        _, error = await r.fails(ModelNotFound)
        assert (error.param, error.code) == ("model", "model_not_found")
        _, error = await r.fails(UpstreamError)
        assert "/v1" in error.message


def test_an_upstream_never_shows_its_key() -> None:
    assert KEY not in repr(Upstream("fake", "http://x/v1", KEY)) + str([Upstream("fake", "http://x/v1", KEY)])


@pytest.mark.parametrize(
    ("url", "takes_files"),
    [
        ("https://api.openai.com/v1", True),
        ("https://openrouter.ai/api/v1", True),
        ("http://127.0.0.1:11434/v1", False),
        ("https://proxy.example/api.openai.com/v1", False),
    ],
)
async def test_it_says_what_it_can(url: str, takes_files: bool) -> None:
    egress = Egress()
    model = OpenAIChat(Upstream("far", url), egress)
    await egress.close()
    assert (model.structured, model.files) == (True, takes_files)
