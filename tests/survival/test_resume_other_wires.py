"""A socket that breaks is gone on with over HTTP; a chat's stored completion is what its broken stream had begun to say."""

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from resume_model import EVENTS, EveryKind, every_kind
from resume_wire import ROUNDS, Line, all_of, checked, filled_store, frames, response_id
from websockets.asyncio.client import connect

from backtalk import Backtalk, Settings
from backtalk.domain.model import Delta, Finish, Prompt, TextDelta
from backtalk.testing import ScriptedModel, serve

CUTS = 12 * ROUNDS
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}
CHATS: dict[str, dict[str, Any]] = {
    "text": {"content": "[[summarise]] [[think]] [[tokens:60]]"},
    "refusal": {"content": "[[think]] [[refuse]]"},
    "calls": {"content": "[[think]] What's the weather like in Paris and in San Francisco?", "tools": [WEATHER]},
    "choices": {"content": "[[think]] [[tokens:30]]", "n": 3},
}


class Place:
    def __init__(self, url: str, store: str) -> None:
        self.line = Line(url)
        self.socket = url.replace("http", "ws") + "/v1/responses"
        self.http = f"{url}/v1"
        self.store = store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = Settings(home=tmp_path_factory.mktemp("wires"), discover=False)
    app = Backtalk(settings, models=[ScriptedModel(), EveryKind(), Uneven()])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        yield Place(url, filled_store(http))


# ── the socket ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def heard(place: Place, count: int, *, lane: str | None) -> list[bytes]:
    """The first frames of a turn, without the name of its lane. Then the line is dead."""
    body = every_kind(place.store, "[[pace:0.005]]", type="response.create", **({"stream_id": lane} if lane else {}))
    tail = f',"stream_id":"{lane}"}}'
    async with connect(place.socket, max_size=None) as socket:
        await socket.send(json.dumps(body))
        found = [str(await socket.recv()) for _ in range(count)]
        if count % 2:
            socket.transport.abort()
    return [(frame.removesuffix(tail) + "}" if lane else frame).encode() for frame in found]


def framed(data: bytes) -> bytes:
    """What a stream would have sent in place of a socket's frame."""
    return b"event: %b\ndata: %b\n\n" % (json.loads(data)["type"].encode(), data)


@pytest.mark.parametrize("lane", [None, "a lane"])
async def test_a_socket_breaks_and_http_goes_on(place: Place, lane: str | None) -> None:
    async def leave(count: int) -> str:
        before = [framed(data) for data in await heard(place, count, lane=lane)]
        name = response_id(before[0])
        rest, whole = await asyncio.gather(place.line.replay(name, count - 1), place.line.replay(name))
        assert b"".join(before) + rest == whole
        return str(checked(whole)[-1]["type"])

    end, *ends = await all_of([leave(count) for count in (EVENTS, *range(1, 48, max(1, 47 // CUTS)))])
    assert end == "response.completed"
    assert "response.incomplete" in ends  # one that was cut near its end may have been quicker than its client


# ── chats ────────────────────────────────────────────────────────────────────────────────────────────────────────────

Said = dict[tuple[int, str], str]
"""What was said, by choice and field; the arguments of a call have its number for a field."""


def chunked(body: bytes) -> list[dict[str, Any]]:
    """The whole chunks in some bytes of a chat's stream."""
    data = [frame.removeprefix(b"data: ") for frame in body.split(b"\n\n")[:-1]]
    return [json.loads(one) for one in data if one.startswith(b"{")]


def of_chunks(chunks: Sequence[dict[str, Any]]) -> Said:
    said: Said = defaultdict(str)
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        for field in ("content", "refusal", "reasoning_content"):
            said[choice["index"], field] += choice["delta"].get(field) or ""
        for call in choice["delta"].get("tool_calls", ()):
            said[choice["index"], str(call["index"])] += call["function"]["arguments"]
    return said


def of_stored(completion: dict[str, Any]) -> Said:
    said: Said = {}
    for choice in completion["choices"]:
        message = choice["message"]
        for field in ("content", "refusal", "reasoning_content"):
            said[choice["index"], field] = message.get(field) or ""
        for number, call in enumerate(message.get("tool_calls", ())):
            said[choice["index"], str(number)] = call["function"]["arguments"]
    return said


def of_events(choice: int, events: Sequence[dict[str, Any]]) -> Said:
    """The same, out of the response that a completion is kept as."""
    fields = {"output_text": "content", "refusal": "refusal"}
    fields |= dict.fromkeys(("reasoning_text", "reasoning_summary_text"), "reasoning_content")
    said: Said = {(choice, field): "" for field in fields.values()}
    calls: dict[int, str] = {}
    for event in events:
        if event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call":
            calls[event["output_index"]] = str(len(calls))
            said[choice, calls[event["output_index"]]] = ""
        elif event["type"].endswith(".delta"):
            kind = event["type"].removeprefix("response.").removesuffix(".delta")
            said[choice, fields.get(kind) or calls[event["output_index"]]] += event["delta"]
    return said


async def stored(http: httpx2.AsyncClient, completion: str) -> dict[str, Any]:
    """A stored completion, once it has ended."""
    async with asyncio.timeout(20):
        while (reply := await http.get(f"/chat/completions/{completion}")).status_code == 404:
            await asyncio.sleep(0.02)
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
async def test_a_stored_completion_is_what_its_broken_stream_began_to_say(place: Place, chat: dict[str, Any]) -> None:
    chat = {**chat}
    message = {"role": "user", "content": f"[[pace:0.015]] {chat.pop('content')}"}
    body = {"model": "scripted", "store": True, "messages": [message], **chat}
    whole = await place.line.post(body, path="/v1/chat/completions")

    async with httpx2.AsyncClient(base_url=place.http, timeout=30) as http:
        full = await stored(http, chunked(whole)[0]["id"])
        assert of_chunks(chunked(whole)) == of_stored(full)

        async def leave(cut: int) -> bool:
            chunks = chunked(await place.line.post(body, cut, path="/v1/chat/completions"))
            completion = chunks[0]["id"]
            name = completion.replace("chatcmpl-", "resp_")
            names = [name, *(f"{name}_{i}" for i in range(1, chat.get("n", 1)))]
            replays = [checked(await place.line.replay(one)) for one in names]
            said = [of_events(choice, events) for choice, events in enumerate(replays)]
            kept = of_stored(await stored(http, completion))
            assert all(kept[place].startswith(text) for place, text in of_chunks(chunks).items())
            assert kept == {place: text for one in said for place, text in one.items()}
            return replays[0][-1]["type"] == "response.incomplete"

        chance = random.Random(2)
        first = whole.index(b"\n\n") + 20
        left = await all_of([leave(chance.randrange(first, len(whole) * 4 // 5)) for _ in range(CUTS)])
    assert any(left)


class Uneven:
    """Answers the second of two choices slowly."""

    id = "uneven"

    def __init__(self) -> None:
        self._calls = itertools.count()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        slow = next(self._calls) % 2
        for word in ("one ", "two ", "three"):
            await asyncio.sleep(0.2 * slow)
            yield [TextDelta(word)]
        yield [Finish()]


async def test_a_stored_completion_is_not_shown_before_all_choices_have_ended(place: Place) -> None:
    """Neither listed nor read: what GET tells of it is what the stream says in the end."""
    message = {"role": "user", "content": "Count."}
    body = {"model": "uneven", "store": True, "n": 2, "messages": [message], "metadata": {"topic": "uneven"}}
    telling = asyncio.create_task(place.line.post(body, path="/v1/chat/completions"))
    async with httpx2.AsyncClient(base_url=place.http, timeout=30) as http:
        while not (found := (await http.get("/chat/completions?metadata[topic]=uneven")).json()["data"]):
            await asyncio.sleep(0.02)
        read = await http.get(f"/chat/completions/{found[0]['id']}")
    said = of_chunks(chunked(await telling))
    assert {place: text for place, text in said.items() if text} == {
        place: text for place, text in of_stored(read.json()).items() if text
    }


async def test_frames_of_a_response_are_the_chunks_of_its_chat(place: Place) -> None:
    """One log, two wires: the chat's chunks are what the response's own events say, in the same order."""
    message = {"role": "user", "content": "[[summarise]] [[think]] Say exactly: one two three"}
    body = {"model": "scripted", "store": True, "messages": [message]}
    chunks = chunked(await place.line.post(body, path="/v1/chat/completions"))
    whole = await place.line.replay(chunks[0]["id"].replace("chatcmpl-", "resp_"))
    said = [event["delta"] for event in checked(whole) if event["type"].endswith(".delta")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]]
    assert [text for delta in deltas for text in delta.values()] == said
    assert len(frames(whole)) > len(said)
