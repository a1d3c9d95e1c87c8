"""Clients that talk to a server and write down what they are told, until it is gone.

`CLIENTS` are coroutines that end only when the server does: streams, responses in the background, conversations, chat
completions, WebSockets, uploads that are made searchable. `Wire` is their HTTP.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import urlencode

import aiohttp
import msgspec

from backtalk.testing.ledger import (
    RUNNING,
    TERMINAL,
    Asked,
    Chat,
    Document,
    Fault,
    Ledger,
    Object,
    Thread,
    Told,
    Upload,
    event_of,
    frames_of,
)

PATIENCE = 20.0
"""Seconds in which whatever a crash cut off must have come to an end."""
_PACE = "[[pace:0.002]]"


class Wire:
    """HTTP to the server, while it lives. What comes back goes into the ledger."""

    def __init__(self, http: aiohttp.ClientSession, url: str, ledger: Ledger) -> None:
        self.http = http
        self.base = f"{url}/v1"
        self.ledger = ledger

    async def post(self, path: str, body: Any, *, keyed: bool = False, kind: str = "application/json") -> Any:
        """What a POST answers. Keyed ones are written down: they are sent again after the crash."""
        asked = self._asked(path, body, kind)
        if keyed:
            self.ledger.add(asked)
        async with self.http.post(self.base + path, data=asked.body, headers=asked.headers) as answer:
            data = await answer.read()
            _accept(f"POST {path}", answer.status, data)
        asked.answer = data
        return msgspec.json.decode(data)

    def _asked(self, path: str, body: Any, kind: str = "application/json") -> Asked:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return Asked(path, data, {"content-type": kind, "idempotency-key": self.ledger.word()})

    async def stream(self, body: dict[str, Any], *, keyed: bool = False, most: int | None = None) -> Told:
        """A streamed response, read to its end. Raises `Left` after `most` events, if that is given."""
        asked = self._asked("/responses", {**body, "stream": True})
        if keyed:
            self.ledger.add(asked)
        async with self.http.post(f"{self.base}/responses", data=asked.body, headers=asked.headers) as answer:
            if answer.status != 200:
                _accept("POST /responses", answer.status, await answer.read())
            told = None
            async for frame in read_frames(answer.content):
                asked.events.append(frame)
                told = self.hear(frame, told)
                if len(asked.events) == most:
                    raise Left
        return _ended(told)

    async def resume(self, told: Told, after: int, most: int | None = None) -> None:
        """More of a response's events; only the next `most`, if that is given."""
        query = urlencode({"stream": "true", "starting_after": after})
        async with self.http.get(f"{self.base}/responses/{told.id}?{query}") as answer:
            if answer.status != 200:
                _accept(f"GET /responses/{told.id}", answer.status, await answer.read())
            async for frame in read_frames(answer.content):
                self.hear(frame, told)
                if most is not None and (most := most - 1) < 0:
                    return

    def hear(self, frame: bytes, told: Told | None) -> Told | None:
        """Writes an event down."""
        if frame == b"data: [DONE]":
            return told
        event = event_of(frame)
        if told is None:
            told = Told(event["response"]["id"])
            self.ledger.add(told)
        told.hear(event["sequence_number"], frame)
        if event["type"] in TERMINAL:
            told.end = event["response"]
        return told

    # for checks; a worker that is killed may take a connection with it

    async def get(self, path: str) -> bytes:
        status, data = await self._patiently(lambda: self._once("GET", path))
        if status != 200:
            raise Fault("lost" if status == 404 else "wrong", f"GET {path} answers {status} {data!r}"[:500])
        return data

    async def find(self, path: str) -> Any:
        return msgspec.json.decode(await self.get(path))

    async def ask(self, path: str, body: Any) -> Any:
        data = msgspec.json.encode(body)
        status, answer = await self._patiently(lambda: self._once("POST", path, data, {}))
        if status != 200:
            raise Fault("lost" if status == 404 else "wrong", f"POST {path} answers {status} {answer!r}"[:500])
        return msgspec.json.decode(answer)

    async def pages(self, path: str) -> list[Any]:
        """All pages of a list, the oldest first."""
        found: list[Any] = []
        more = {"order": "asc", "limit": "100"}
        while True:
            page = await self.find(f"{path}?{urlencode(more)}")
            found += page["data"]
            if not page["has_more"]:
                return found
            more["after"] = page["last_id"]

    async def replay(self, response_id: str) -> list[bytes]:
        """All events of a response, which must have an end."""
        try:
            async with asyncio.timeout(PATIENCE):
                frames = frames_of(await self.get(f"/responses/{response_id}?stream=true"))
        except TimeoutError:
            raise Fault("stuck", f"{response_id} does not end within {PATIENCE:g} s") from None
        if frames[-1:] != [b"data: [DONE]"]:
            raise Fault("lost", f"the replay of {response_id} breaks off after {len(frames)} events")
        return frames[:-1]

    async def ended(self, path: str) -> str:
        """The status in the end."""
        deadline = time.monotonic() + PATIENCE
        while (found := await self.find(path))["status"] in RUNNING:
            if time.monotonic() > deadline:
                raise Fault("stuck", f"{path} is {found['status']} after {PATIENCE:g} s")
            await asyncio.sleep(0.1)
        return str(found["status"])

    async def repeat(self, asked: Asked) -> tuple[int, bytes]:
        """Sends a POST again until the first one is no longer under way."""
        deadline = time.monotonic() + PATIENCE
        while True:
            status, data = await self._patiently(lambda: self._once("POST", asked.path, asked.body, asked.headers))
            if status != 409 or b"idempotency_key_in_use" not in data:
                return status, data
            if time.monotonic() > deadline:
                raise Fault("stuck", f"POST {asked.path}: its key is in use after {PATIENCE:g} s")
            await asyncio.sleep(0.2)

    async def _once(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        kind = {"content-type": "application/json"} if body is not None else {}
        async with self.http.request(method, self.base + path, data=body, headers=kind | (headers or {})) as answer:
            return answer.status, await answer.read()

    async def _patiently(self, call: Callable[[], Awaitable[tuple[int, bytes]]]) -> tuple[int, bytes]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await call()
            except (aiohttp.ClientError, ConnectionError) as error:
                if time.monotonic() > deadline:
                    raise Fault("stuck", f"the server does not answer: {error}") from error
                await asyncio.sleep(0.1)


class Left(Exception):
    """The client went before the end, as it meant to."""


class Passing(Exception):
    """The server cannot answer now, because it stops."""


def _accept(name: str, status: int, data: bytes) -> None:
    """Nothing but a 503 may come where a request is in order: a 404 here means that something is not there any more."""
    if status == 503:
        raise Passing
    if status != 200:
        raise Fault("lost" if status == 404 else "wrong", f"{name} answers {status} {data!r}"[:500])


async def read_frames(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Server-sent events that are whole."""
    rest = b""
    async for data in content.iter_any():
        *whole, rest = (rest + data).split(b"\n\n")
        for frame in whole:
            if not frame.startswith(b":"):
                yield frame


def _ended(told: Told | None) -> Told:
    """A stream that was read to its end without one: the server is going down."""
    if told is None or told.end is None:
        raise Passing
    return told


# ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Client: TypeAlias = Callable[[Wire, random.Random], Awaitable[None]]


def _prompt(wire: Wire, chance: random.Random, most: int = 40) -> str:
    return f"{wire.ledger.word()} {_PACE} [[tokens:{chance.randint(1, most)}]]"


async def streams(wire: Wire, chance: random.Random) -> None:
    """Streams, each going on from the last, also from one of an earlier life. Some are left before their end."""
    while True:
        body: dict[str, Any] = {"input": _prompt(wire, chance)}
        if wire.ledger.last and chance.random() < 0.8:
            body["previous_response_id"] = wire.ledger.last
        leaves = chance.randint(1, 20) if chance.random() < 0.2 else None
        with contextlib.suppress(Left):
            told = await wire.stream(body, keyed=chance.random() < 0.4, most=leaves)
            wire.ledger.last = told.id


async def background(wire: Wire, chance: random.Random) -> None:
    """Responses in the background, read in pieces; some are cancelled."""
    while True:
        body = {"input": _prompt(wire, chance, 80), "background": True, "metadata": {"word": wire.ledger.word()}}
        made = await wire.post("/responses", body, keyed=chance.random() < 0.5)
        wire.ledger.add(Object(f"/responses/{made['id']}", made))
        told = Told(made["id"])
        wire.ledger.add(told)
        await wire.resume(told, -1, most=chance.randint(1, 20))
        if chance.random() < 0.2:
            ended = await wire.post(f"/responses/{told.id}/cancel", {})
            wire.ledger.add(Object(f"/responses/{told.id}", ended))
        await wire.resume(told, max(told.frames, default=-1))


async def conversation(wire: Wire, chance: random.Random) -> None:
    """One that grows, new or of an earlier life. No other client may write to it: the order of its items is known."""
    threads = wire.ledger.threads
    if threads and chance.random() < 0.5:
        thread = threads.pop(chance.randrange(len(threads)))
    else:
        made = await wire.post("/conversations", {"title": wire.ledger.word()}, keyed=chance.random() < 0.5)
        wire.ledger.add(Object(f"/conversations/{made['id']}", made))
        thread = Thread(made["id"])
    try:
        while True:
            wire.ledger.add(thread)
            await (_append if chance.random() < 0.5 else _respond)(wire, chance, thread)
    finally:
        threads.append(thread)


async def _append(wire: Wire, chance: random.Random, thread: Thread) -> None:
    path = f"/conversations/{thread.id}/items"
    items = [{"role": "user", "content": wire.ledger.word()} for _ in range(chance.randint(1, 3))]
    added = (await wire.post(path, {"items": items}, keyed=chance.random() < 0.5))["data"]
    for item in added:
        wire.ledger.add(Object(f"{path}/{item['id']}", item))
    thread.marks += [item["id"] for item in added]


async def _respond(wire: Wire, chance: random.Random, thread: Thread) -> None:
    body = {"input": _prompt(wire, chance), "conversation": thread.id}
    keyed = chance.random() < 0.5
    if chance.random() < 0.5:
        said = (await wire.stream(body, keyed=keyed)).end or {}
    else:
        said = await wire.post("/responses", body, keyed=keyed)
        wire.ledger.add(Object(f"/responses/{said['id']}", said))
        wire.ledger.add(Told(said["id"]))
    if said["status"] == "completed":
        thread.marks += [body["input"], *(item["id"] for item in said["output"])]


async def chat(wire: Wire, chance: random.Random) -> None:
    """Stored chat completions."""
    while True:
        body = {"messages": [{"role": "user", "content": _prompt(wire, chance)}], "store": True}
        if chance.random() < 0.5:
            await _chat_stream(wire, body)
        else:
            made = await wire.post("/chat/completions", body, keyed=chance.random() < 0.5)
            wire.ledger.add(Object(f"/chat/completions/{made['id']}", made))


async def _chat_stream(wire: Wire, body: dict[str, Any]) -> None:
    said: Chat | None = None
    async with wire.http.post(f"{wire.base}/chat/completions", json={**body, "stream": True}) as answer:
        if answer.status != 200:
            _accept("POST /chat/completions", answer.status, await answer.read())
        async for frame in read_frames(answer.content):
            if frame == b"data: [DONE]" or "error" in (chunk := event_of(frame)):
                break
            if said is None:
                said = Chat(chunk["id"])
                wire.ledger.add(said)
            said.chunks += 1
            for choice in chunk["choices"]:
                said.text += choice["delta"].get("content") or ""
                said.whole = choice["finish_reason"] is not None


async def sockets(wire: Wire, chance: random.Random) -> None:
    """Turns over a WebSocket: their frames are the events of the stream."""
    async with wire.http.ws_connect(f"{wire.base}/responses", max_msg_size=0) as line:
        told: Told | None = None
        while True:
            previous = {"previous_response_id": told.id} if told else {}
            await line.send_json({"type": "response.create", "input": _prompt(wire, chance), **previous})
            told = None
            while told is None or told.end is None:
                data = (await line.receive_str()).encode()
                kind = msgspec.json.decode(data)["type"]
                if kind == "error":
                    raise Passing
                told = wire.hear(b"event: %b\ndata: %b" % (kind.encode(), data), told)


async def files(wire: Wire, chance: random.Random) -> None:
    """Uploads, made searchable in a store that is new in each life."""
    body = {"name": wire.ledger.word()}
    store = await wire.post("/vector_stores", body, keyed=chance.random() < 0.5)
    wire.ledger.add(Object(f"/vector_stores/{store['id']}", store))
    while True:
        word, parts = wire.ledger.word(), chance.randint(1, 12)
        file_id = await _upload(wire, chance, word, parts)
        attach = {
            "file_id": file_id,
            "attributes": {"word": word},
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
            },
        }
        path = f"/vector_stores/{store['id']}/files"
        made = await wire.post(path, attach, keyed=chance.random() < 0.5)
        wire.ledger.add(Object(f"{path}/{file_id}", made))
        wire.ledger.add(Document(store["id"], file_id, word, parts))
        await asyncio.sleep(chance.uniform(0, 0.2))


async def _upload(wire: Wire, chance: random.Random, word: str, parts: int) -> str:
    lines = (f"{word} part{number}of {'and so on, ' * 15}and {word} ends.\n\n" for number in range(parts))
    data = "".join(lines).encode()
    form = (
        f'--{word}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        f'--{word}\r\ncontent-disposition: form-data; name="file"; filename="{word}.txt"\r\n'
        f"content-type: text/plain\r\n\r\n{data.decode()}\r\n--{word}--\r\n"
    )
    kind = f"multipart/form-data; boundary={word}"
    made = await wire.post("/files", form.encode(), keyed=chance.random() < 0.5, kind=kind)
    wire.ledger.add(Object(f"/files/{made['id']}", made))
    wire.ledger.add(Upload(made["id"], data))
    return str(made["id"])


async def searches(wire: Wire, chance: random.Random) -> None:
    """Searches for what `files` has uploaded, while it does: the index is written meanwhile."""
    while True:
        if documents := [record for record in wire.ledger.fresh if isinstance(record, Document)]:
            document = chance.choice(documents)
            await wire.post(f"/vector_stores/{document.store}/search", {"query": document.word})
        await asyncio.sleep(chance.uniform(0, 0.1))


async def essays(wire: Wire, chance: random.Random) -> None:
    """Items so long that the database soon moves what is in its write-ahead log, and begins that again."""
    made = await wire.post("/conversations", {})
    path = f"/conversations/{made['id']}/items"
    while True:
        text = f"{wire.ledger.word()} " * chance.randint(50_000, 200_000)
        added = await wire.post(path, {"items": [{"role": "user", "content": text}]})
        wire.ledger.add(Object(f"{path}/{added['data'][0]['id']}", added["data"][0]))


CLIENTS: tuple[Client, ...] = (streams, streams, background, conversation, conversation, chat, sockets, files)
