"""A model without manners: whatever it says, in whatever order, a client sees a stream that keeps to the grammar.

`ROUNDS=20 pytest tests/turn/test_wild_model.py` makes twenty times as many streams. Each is made from its number alone.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backtalk import Backtalk, Settings
from backtalk.core.errors import FormatRefused, InvalidRequest, RateLimited, UpstreamError
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
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
from backtalk.testing import check_transcript, read_transcript, serve
from support import until

STREAMS = 120 * int(os.environ.get("ROUNDS", "1"))
NEVER = 10**9
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

WORDS = ["Hello", " ", "", "\n", "Häuser 🏠", "\u2028", "{", '{"a": 1}', '{"a":', "1}", "```json\n", '"', "\\", "\x00", "data: [DONE]\n\n"]  # fmt: skip
ARGUMENTS = ["", "{", "}", "{}", '{"a":', '"b"}', '{"queries": ["a"]}', '{"input": "ls', ' -l"}', "nonsense", "[1]", "\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")]  # fmt: skip
NAMES = ["get_weather", "get_weather", "shell", "file_search", "file_search", "find", "nope", "crm", ""]
TOKEN = {
    "token": "x",
    "bytes": [120],
    "logprob": -0.5,
    "top_logprobs": [{"token": "y", "bytes": [121], "logprob": -1.0}],
}
REASONS = ["stop", "stop", "tool_calls", "tool_calls", "length", "content_filter", "unheard of"]
ERRORS: list[Exception] = [UpstreamError("It broke."), RateLimited("Too many."), InvalidRequest("No."), FormatRefused("No."), RuntimeError("Oops."), ValueError()]  # fmt: skip


class Wild:
    """Says what `seed` makes it say; each call of one turn something else."""

    id = "scripted"
    structured = True

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, seed: int, *, slow: bool = False) -> None:
        self.seed, self.slow, self.calls = seed, slow, count()
        self.structured = seed % 2 == 0

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        chance = random.Random(f"{self.seed} {next(self.calls)}")
        if chance.random() < 0.05:
            raise chance.choice(ERRORS)
        for batch in batches(chance, saying(chance)):
            yield batch
            if self.slow or chance.random() < 0.3:
                await asyncio.sleep(0.02 if self.slow else chance.choice([0, 0.001, 0.02]))
            if chance.random() < 0.01:
                raise chance.choice(ERRORS)


def batches(chance: random.Random, deltas: list[Delta]) -> Iterator[list[Delta]]:
    while deltas:
        size = chance.choice([0, 1, 1, 2, 5, 40])
        yield deltas[:size]
        deltas = deltas[size:]


def saying(chance: random.Random) -> list[Delta]:
    """Runs of deltas of one kind, mixed; then an end of some kind, or none, or more behind it."""
    runs = [run for _ in range(chance.randrange(1, 6)) for run in [chance.choice(KINDS)(chance)]]
    deltas = [delta for run in runs for delta in run]
    if chance.random() < 0.3:
        chance.shuffle(deltas)
    if chance.random() < 0.85:
        usage = chance.choice([None, Usage(10, len(deltas)), Usage()])
        deltas.append(Finish(chance.choice(REASONS), usage, chance.choice([None, "flex", "unheard of"])))
    return deltas + texts(chance)[:1] if chance.random() < 0.05 else deltas


def words(chance: random.Random) -> list[str]:
    return [chance.choice(WORDS) for _ in range(chance.randrange(1, 8))]


def texts(chance: random.Random) -> list[Delta]:
    return [TextDelta(word) for word in words(chance)]


def scored(chance: random.Random) -> list[Delta]:
    return [ScoredTextDelta(word, (TOKEN,) * chance.randrange(3)) for word in words(chance)]


def answers(chance: random.Random) -> list[Delta]:
    return [TextDelta('{"a":'), TextDelta(" 1}")]


def refusals(chance: random.Random) -> list[Delta]:
    return [RefusalDelta(word) for word in words(chance)]


def thoughts(chance: random.Random) -> list[Delta]:
    return [ReasoningDelta(word) for word in words(chance)]


def summaries(chance: random.Random) -> list[Delta]:
    return [SummaryDelta(word, chance.randrange(3)) for word in words(chance)]


def seals(chance: random.Random) -> list[Delta]:
    return [SealedReasoning(f"sealed {i}") for i in range(chance.randrange(1, 3))]


def citations(chance: random.Random) -> list[Delta]:
    return [TextDelta("So it is."), CitationDelta("file-1", "a.txt"), CitationDelta("file-2", "b.txt")]


def calls(chance: random.Random) -> list[Delta]:
    """One call or several, one after another or all at once, some with the same id or number as one before."""
    found: list[Delta] = []
    for _ in range(chance.randrange(1, 5)):
        index = chance.randrange(5)
        call_id = chance.choice([None, "", "call_1", f"call_{chance.randrange(100)}"])
        found.append(ToolCallDelta(index, chance.choice(ARGUMENTS), call_id, chance.choice(NAMES)))
        found += [ToolCallDelta(index, chance.choice(ARGUMENTS)) for _ in range(chance.randrange(4))]
    if chance.random() < 0.5:
        chance.shuffle(found)
    return found


KINDS = [texts, scored, answers, refusals, thoughts, summaries, seals, citations, calls, calls, calls]

FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
SHELL = {"type": "custom", "name": "shell"}
CRM = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]}
CHOICES: list[Any] = [
    "auto", "auto", "auto", "none", "required", {"type": "function", "name": "get_weather"}, {"type": "custom", "name": "shell"}, {"type": "file_search"},
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "shell"}, {"type": "file_search"}]},
]  # fmt: skip
INCLUDES = ["message.output_text.logprobs", "file_search_call.results", "reasoning.encrypted_content"]


def request(chance: random.Random, store: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "scripted", "input": "Which?", "stream": True}
    if chance.random() < 0.8:
        tools = [FUNCTION, SHELL, {"type": "file_search", "vector_store_ids": [store]}]
        body |= {"tools": [*tools, CRM] if chance.random() < 0.5 else tools, "tool_choice": chance.choice(CHOICES)}
    options: dict[str, Any] = {
        "background": True,
        "parallel_tool_calls": False,
        "max_tool_calls": chance.randrange(1, 3),
        "max_output_tokens": chance.randrange(1, 60),
        "text": {"format": {"type": "json_object"}},
        "include": chance.sample(INCLUDES, chance.randrange(4)),
    }
    return body | {name: value for name, value in options.items() if chance.random() < 0.25}


class Place:
    """A server with the wild model and an empty vector store."""

    def __init__(self, http: httpx2.Client, model: Wild) -> None:
        self.http = http
        self.model = model
        self.store: str = http.post("/vector_stores", json={}).json()["id"]

    def stream(self, body: dict[str, Any], cancel_at: int) -> bytes:
        """What a client reads, frames for other readers left out; at some event it cancels."""
        data, seen = b"", 0
        with self.http.stream("POST", "/responses", json=body) as reply:
            assert reply.status_code == 200, reply.read()
            for chunk in reply.iter_bytes():
                data += chunk
                if seen <= cancel_at < (seen := data.count(b"\n\n")):
                    response_id = read_transcript(data.partition(b"\n\n")[0])[0]["response"]["id"]
                    assert self.http.post(f"/responses/{response_id}/cancel").status_code == 200
        return data

    def replay(self, response_id: str, after: int = -1) -> bytes:
        query = {"stream": "true", "starting_after": after}
        reply = self.http.get(f"/responses/{response_id}", params=query)
        assert reply.status_code == 200, reply.text
        return reply.content


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    model = Wild()
    home: Path = tmp_path_factory.mktemp("wild")
    app = Backtalk(Settings(home=home, discover=False), models=[model])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        yield Place(http, model)


def frames(data: bytes) -> list[bytes]:
    return [frame for frame in data.split(b"\n\n") if frame and not frame.startswith(b":")]


@pytest.mark.parametrize("seed", range(STREAMS))
def test_a_wild_stream_keeps_to_the_grammar(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    body = request(chance, place.store)
    cancel_at = chance.randrange(2, 30) if chance.random() < 0.2 else NEVER
    place.model.begin(seed, slow=cancel_at < NEVER)
    data = place.stream(body, cancel_at)

    events = read_transcript(data)
    response_id = events[0]["response"]["id"]
    until(lambda: place.http.get(f"/responses/{response_id}").json()["status"] not in ("queued", "in_progress"))
    found = place.http.get(f"/responses/{response_id}").json()
    Response.model_validate_json(json.dumps(found), strict=True)
    check_transcript(events, complete=found["status"] != "cancelled")
    if found["status"] == "cancelled":
        done = [event for event in events if event["type"] == "response.output_item.done"]
        assert [item["id"] for item in found["output"]] == [event["item"]["id"] for event in done]
    else:
        assert events[-1]["response"] == found
    _follow(events)
    _check_calls(body, found["output"])

    assert frames(place.replay(response_id)) == frames(data)
    after = chance.randrange(-1, len(events))
    assert frames(place.replay(response_id, after)) == frames(data)[after + 1 :]


def _follow(events: list[dict[str, Any]]) -> None:
    """As the SDK does: each event of its type, all of them put together."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_json(json.dumps(event), strict=True))


def _check_calls(body: dict[str, Any], output: list[dict[str, Any]]) -> None:
    """A client can answer what it is asked to call, and was not told to call what it did not offer."""
    made = [item for item in output if item["type"] in ("function_call", "custom_tool_call")]
    ids = [item["call_id"] for item in made]
    assert all(ids) and len(set(ids)) == len(ids)
    if body.get("tool_choice") == "none":
        assert not made
    if body.get("parallel_tool_calls") is False:
        assert len(made) <= 1
    searches = [item for item in output if item["type"] == "file_search_call"]
    assert len(searches) <= body.get("max_tool_calls", 100)
    for item in made:
        if item["status"] == "completed" and item["type"] == "function_call":
            assert item["arguments"]
