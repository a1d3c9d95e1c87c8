"""Rows 10 and 11: what model servers send, spoilt in every way. It ends in an answer or in an error of ours, always.

`ROUNDS=17` makes ten thousand of them.
"""

import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fault_house import Line, house
from fault_mutants import TRANSCRIPTS, mutant, names, pieces

from backtalk.core.errors import BacktalkError
from backtalk.domain.model import Finish
from backtalk.models import health
from backtalk.models.anthropic_events import AnthropicDeltas
from backtalk.models.chat_chunks import ChatDeltas
from backtalk.models.responses_events import ResponsesDeltas
from backtalk.models.retry import Again
from backtalk.models.sse import EventParser
from backtalk.testing import TranscriptError, check_transcript, read_transcript

ROUNDS = int(os.environ.get("ROUNDS", "1"))
EACH = 12
READERS = {"chat": ChatDeltas, "responses": ResponsesDeltas, "anthropic": AnthropicDeltas}
ADAPTERS = {"chat": "openai", "responses": "openai-responses", "anthropic": "anthropic"}
PATHS = {
    "/v1/responses": {"input": "hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
}
MOST_MEMORY = 8 * 2**20
LONGEST = 20.0


def outcome(kind: str, data: bytes, seed: int) -> object:
    """The Finish of an answer, or the error of ours that it ended with, read as `calling` does it."""
    parser, deltas = EventParser(lambda: AssertionError("too large")), READERS[kind]("It")
    try:
        for piece in (*pieces(data, seed), None):
            deltas.feed(parser.finish() if piece is None else parser.feed(piece))
            if deltas.failure:
                raise deltas.failure
            if deltas.done:
                break
        return deltas.finish()
    except BacktalkError as error:
        return error
    except Again as again:  # nothing was given yet: the server may be asked once more
        return again.error


def test_row_10_what_is_untouched_is_read() -> None:
    """The tests below can fail: their reader reads."""
    kinds = {type(outcome(name.split("-")[0], (TRANSCRIPTS / name).read_bytes(), 1)) for name in names()}
    assert Finish in kinds and len(names()) > 40


@pytest.mark.parametrize("name", names())
def test_row_11_a_spoilt_transcript_ends_in_an_answer_or_in_an_error_of_ours(name: str) -> None:
    tracemalloc.start()
    try:
        for seed in range(EACH * ROUNDS):
            how, data = mutant(name, seed)
            start = time.monotonic()
            try:
                ended = outcome(name.split("-")[0], data, seed)
            except Exception as error:
                raise AssertionError(f"{name}, seed {seed}, {how}: {error!r}") from error
            assert isinstance(ended, (Finish, BacktalkError)), f"{name}, seed {seed}, {how}"
            assert time.monotonic() - start < LONGEST, f"{name}, seed {seed}, {how}: it hung"
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def sent(data: bytes) -> Any:
    async def behave(line: Line) -> None:
        await line.head()
        await line.chunk(data or b"\n")
        await line.end()

    return behave


def check_answer(reply: Any, path: str, case: str) -> None:
    """A whole answer, or an envelope of ours."""
    if reply.status_code == 200:
        assert reply.json(), case
        return
    # of a server's own errors: what our client did wrong, and limits
    assert reply.status_code in (502, 503) or 400 <= reply.status_code < 500, (
        f"{case}: {reply.status_code} {reply.text}"
    )
    error = reply.json()["error"]
    assert error["message"], case
    assert "type" in error and (path == "/v1/messages" or set(error) == {"message", "type", "param", "code"}), case


def check_stream(reply: Any, path: str, case: str) -> None:
    if reply.status_code != 200:
        check_answer(reply, path, case)
    elif path == "/v1/responses":
        try:
            check_transcript(read_transcript(reply.content))
        except TranscriptError as error:
            raise AssertionError(f"{case}: {error}") from error
    elif path == "/v1/messages":
        assert reply.content.count(b"event: message_stop") + reply.content.count(b"event: error") == 1, case
    else:
        assert reply.content.endswith(b"data: [DONE]\n\n"), case


@pytest.mark.parametrize("kind", READERS)
async def test_row_11_through_the_front_door(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FAILURES", 10**9)  # a server that only ever fails is else left alone
    mine = [name for name in names() if name.startswith(kind)]
    async with house(tmp_path, sent(b""), upstream={"adapter": ADAPTERS[kind]}) as h:
        for seed in range(14 * ROUNDS):
            name = mine[seed % len(mine)]
            how, data = mutant(name, 1000 + seed)
            h.fake.behaviours[:] = [sent(data)]
            path = [*PATHS][seed % len(PATHS)]
            case = f"{path}, {name}, seed {1000 + seed}, {how}"
            body = {"model": "a/m", **PATHS[path]}
            check_answer(await h.http.post(path, json=body), path, case)
            check_stream(await h.http.post(path, json={**body, "stream": True}), path, case)
        assert not h.app.runner.running
