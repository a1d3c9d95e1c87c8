"""Crash loops: a real server is killed again and again, and nothing that it acknowledged may be missing afterwards.

    python -m backtalk.testing.crashes --kills 1000

starts `backtalk serve` in a home of its own and lets clients talk to it: streams, responses in the background,
conversations, chat completions, WebSockets, uploads that are made searchable, POSTs with an `Idempotency-Key`. They write
down what they were told. The server is killed at random moments, also while it starts and while it stops, and started
again; then it is asked for all of it. The exit code is 1 if anything was lost, is there twice, or does not come to an end.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlencode

import aiohttp
import msgspec

from backtalk.testing.server import Server

PATIENCE = 20.0
"""Seconds in which whatever a crash cut off must have come to an end."""
_STOPPING = 15.0
_GRACE = 1
_PACE = "[[pace:0.002]]"
_PART = re.compile(r"part(\d+)of")
_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_RUNNING = ("queued", "in_progress")
_SETTLING = {
    "response": ("id", "object", "created_at", "model", "metadata", "previous_response_id", "conversation"),
    "vector_store": ("id", "object", "created_at", "name", "metadata"),
    "vector_store.file": ("id", "object", "created_at", "vector_store_id", "attributes", "chunking_strategy"),
}
"""What stays as it is in objects that are still being worked on."""
_LISTED = 50
_INTERRUPTED = 130
"""The exit code of what was ended by Ctrl-C."""
_EVERY = 10
_OLD = 20

Say: TypeAlias = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `life` is the longest time, in seconds, that a server is left alone once it is ready."""

    kills: int = 1000
    seed: int = 0
    database: str | None = None
    workers: int = 1
    signal: Literal["KILL", "TERM", "mixed"] = "KILL"
    home: Path | None = None
    life: float = 0.7


class Fault(Exception):
    """A promise that was broken. `kind` is `lost`, `duplicated`, `stuck` or `wrong`."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(f"{kind}: {words}")
        self.kind = kind


class Tally:
    """What was seen so far."""

    def __init__(self) -> None:
        self.kills = 0
        self.lives = 0
        self.verified: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.interrupted = False

    def add(self, fault: Fault) -> None:
        self.faults.setdefault(str(fault), fault)

    def __str__(self) -> str:
        kinds = Counter(fault.kind for fault in self.faults.values())
        told = ", ".join(f"{kind} {kinds[kind]}" for kind in ("lost", "duplicated", "stuck", "wrong"))
        events, objects = self.verified["events"], self.verified["objects"]
        return f"{self.kills} kills, {events:,} events and {objects:,} objects verified; {told}"


class Victim(Server):
    """A server that leads a process group, so that all of it can be killed at once."""

    def start(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "backtalk", "serve", "--port", str(self.port), *self.args]
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL for everything that belongs to the server."""
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def workers(self) -> list[int]:
        """The process ids of the workers. Only Linux tells them."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return []


# ── what clients were told ───────────────────────────────────────────────────────────────────────────────────────────


class Record:
    """Something that was acknowledged. `check` raises `Fault` when the server no longer stands by it."""

    first: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    """Checked now and then: waiting for it takes a while."""

    def __init__(self) -> None:
        self.verified: Counter[str] = Counter()

    @property
    def size(self) -> dict[str, int]:
        """How many events and objects it stands for."""
        return {"objects": 1}

    async def check(self, wire: "Wire") -> None:
        raise NotImplementedError


class Told(Record):
    """A response, and the events of it that were read. Once it has ended, a digest of all of them is kept."""

    def __init__(self, response_id: str) -> None:
        super().__init__()
        self.id = response_id
        self.frames: dict[int, bytes] = {}
        self.heard = 0
        self.end: dict[str, Any] | None = None
        self.digest = b""

    @property
    def size(self) -> dict[str, int]:
        return {"events": self.heard, "objects": 1}

    def hear(self, number: int, frame: bytes) -> None:
        if self.frames.setdefault(number, frame) != frame:
            raise Fault(
                "wrong", f"event {number} of {self.id} was told in two ways: {self.frames[number]!r}, {frame!r}"
            )
        self.heard = max(self.heard, len(self.frames))

    async def check(self, wire: "Wire") -> None:
        frames = await wire.replay(self.id)
        events = [_event(frame) for frame in frames]
        self._check_numbers([event["sequence_number"] for event in events])
        self._check_bytes(frames)
        await self._check_end(wire, [event for event in events if event["type"] in _TERMINAL], events)
        digest = hashlib.sha256(b"".join(frames)).digest()
        if self.digest and digest != self.digest:
            raise Fault("wrong", f"the events of {self.id} are others than at an earlier replay")
        self.digest, self.frames = digest, {}

    def _check_numbers(self, numbers: list[int]) -> None:
        if len(set(numbers)) < len(numbers):
            raise Fault("duplicated", f"events of {self.id}: the replay has the numbers {_shown(numbers)}")
        if numbers != list(range(len(numbers))) or not numbers:
            raise Fault("lost", f"events of {self.id}: the replay has the numbers {_shown(numbers)}")

    def _check_bytes(self, frames: list[bytes]) -> None:
        for number, frame in self.frames.items():
            if number >= len(frames):
                raise Fault("lost", f"event {number} of {self.id}: the replay ends at {len(frames) - 1}")
            if frames[number] != frame:
                raise Fault("wrong", f"event {number} of {self.id} was {frame!r} and is {frames[number]!r}")

    async def _check_end(self, wire: "Wire", ends: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        found = await wire.find(f"/responses/{self.id}")
        if found["status"] in _RUNNING:
            raise Fault("stuck", f"{self.id} is {found['status']} although its events have ended")
        if len(ends) != (found["status"] != "cancelled") or (ends and events[-1] is not ends[0]):
            raise Fault("wrong", f"{self.id} is {found['status']} and has {len(ends)} terminal events")
        if ends and ends[0]["response"] != found:
            raise Fault("wrong", f"{self.id} is not what its last event told")


class Object(Record):
    """An object that came with a 2xx."""

    def __init__(self, path: str, told: dict[str, Any]) -> None:
        super().__init__()
        self.path = path
        self.told = told

    async def check(self, wire: "Wire") -> None:
        found = await wire.find(self.path)
        settled = self.told.get("status", "") not in ("queued", "in_progress") and "file_counts" not in self.told
        fields = self.told if settled else self.told.keys() & _SETTLING[self.told["object"]]
        changed = [name for name in fields if name not in found or found[name] != self.told[name]]
        if changed:
            told = {name: self.told[name] for name in changed}
            now = {name: found.get(name) for name in changed}
            raise Fault("wrong", f"{self.path} was {told} and is {now}"[:1000])


class Thread(Record):
    """A conversation. `marks` are the ids and texts of its items, in the order in which they were acknowledged."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__()
        self.id = conversation_id
        self.marks: list[str] = []

    @property
    def size(self) -> dict[str, int]:
        return {"objects": len(self.marks)}

    async def check(self, wire: "Wire") -> None:
        items = await wire.pages(f"/conversations/{self.id}/items")
        ids = [item["id"] for item in items]
        texts = [_text(item) for item in items if item.get("role") == "user"]
        for mark, times in Counter(ids + texts).items():
            if times > 1:
                raise Fault("duplicated", f"{mark!r} is {times} times in {self.id}")
        places = {_text(item): place for place, item in enumerate(items)} | {
            name: place for place, name in enumerate(ids)
        }
        if missing := [mark for mark in self.marks if mark not in places]:
            raise Fault("lost", f"items of {self.id}: {missing}")
        if sorted(self.marks, key=places.__getitem__) != self.marks:
            raise Fault("wrong", f"the items of {self.id} are in another order than they were acknowledged in")


class Upload(Record):
    """The bytes of a file."""

    def __init__(self, file_id: str, data: bytes) -> None:
        super().__init__()
        self.id = file_id
        self.data = data

    async def check(self, wire: "Wire") -> None:
        if await wire.get(f"/files/{self.id}/content") != self.data:
            raise Fault("lost", f"the bytes of {self.id} are not those that were uploaded")


class Document(Record):
    """A file in a vector store: each of its chunks is found once."""

    slow = True

    def __init__(self, store_id: str, file_id: str, word: str, parts: int) -> None:
        super().__init__()
        self.store = store_id
        self.file = file_id
        self.word = word
        self.parts = parts

    async def check(self, wire: "Wire") -> None:
        path = f"/vector_stores/{self.store}/files/{self.file}"
        status = await wire.ended(path)
        body = {"query": self.word, "max_num_results": 50, "filters": {"type": "eq", "key": "word", "value": self.word}}
        found = await wire.ask(f"/vector_stores/{self.store}/search", body)
        texts = [part["text"] for hit in found["data"] for part in hit["content"] if hit["file_id"] == self.file]
        parts = Counter(int(number) for text in texts for number in _PART.findall(text))
        if twice := [part for part, times in parts.items() if times > 1]:
            raise Fault("duplicated", f"the parts {twice} of {self.file} in {self.store}")
        if status == "completed" and len(parts) < self.parts:
            raise Fault(
                "lost", f"{path} is completed, but {self.parts - len(parts)} of {self.parts} parts are not found"
            )


class Chat(Record):
    """A streamed chat completion: what was read of its text."""

    def __init__(self, completion_id: str) -> None:
        super().__init__()
        self.id = completion_id
        self.text = ""
        self.chunks = 0
        self.whole = False

    @property
    def size(self) -> dict[str, int]:
        return {"events": self.chunks, "objects": int(self.whole)}

    async def check(self, wire: "Wire") -> None:
        frames = await wire.replay(self.id.replace("chatcmpl-", "resp_"))
        said = "".join(event["delta"] for event in map(_event, frames) if event["type"].endswith("output_text.delta"))
        if not said.startswith(self.text):
            raise Fault("lost", f"{self.id} had said {self.text!r}, and its log has {said!r}")
        if self.whole:
            found = await wire.find(f"/chat/completions/{self.id}")
            if found["choices"][0]["message"]["content"] != self.text:
                raise Fault("wrong", f"{self.id} had said {self.text!r}, and is stored as {found['choices']}")


class Asked(Record):
    """A POST with an `Idempotency-Key`. Sent again it makes nothing again, and is answered as it was."""

    first = True

    def __init__(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.path = path
        self.body = body
        self.headers = headers
        self.answer: bytes | None = None
        self.events: list[bytes] = []

    @property
    def size(self) -> dict[str, int]:
        return {"objects": int(self.answer is not None or bool(self.events))}

    async def check(self, wire: "Wire") -> None:
        status, data = await wire.repeat(self)
        lost = status == 409 and b"idempotency_answer_lost" in data
        if self.answer is not None:
            if status != 200 or data != self.answer:
                raise Fault(
                    "lost", f"the answer to {self._name}: it was {self.answer!r} and is {status} {data!r}"[:1500]
                )
        elif self.events:
            if status != 200 or _frames(data)[: len(self.events)] != self.events:
                raise Fault("lost", f"the stream of {self._name}: it began {self.events[:3]} and is {data!r}"[:1500])
        elif not lost and status != 200:
            raise Fault("wrong", f"{self._name} is answered {status} {data!r}"[:1500])
        elif status == 200 and data.startswith(b"{"):
            self._check_kind(msgspec.json.decode(data))
            if b'"background":true' not in self.body:  # of which it tells the state
                self.answer = data

    def _check_kind(self, answer: dict[str, Any]) -> None:
        """An answer that nobody has seen before must be such as this path gives, and be whole."""
        kind = "chat.completion" if "/chat/" in self.path else "response" if self.path == "/responses" else None
        if kind and answer["object"] != kind:
            raise Fault("wrong", f"{self._name} is answered with a {answer['object']}: {answer}"[:1000])
        if kind == "response" and answer["status"] in _RUNNING and not answer["background"]:
            raise Fault("wrong", f"{self._name} is answered before the response has ended: {answer}"[:1000])

    @property
    def _name(self) -> str:
        return f"POST {self.path} {self.body[:200]!r} with the key {self.headers['idempotency-key']}"


class Ledger:
    """All records: the fresh ones, to be checked after the next start, and those that were found in order."""

    def __init__(self, seed: int) -> None:
        self.fresh: dict[Record, None] = {}
        self.settled: dict[Record, None] = {}
        self.last: str | None = None
        self.threads: list[Thread] = []
        self._seed = seed
        self._words = 0

    def add(self, record: Record) -> None:
        """Also says of an older record that there is more of it now."""
        self.settled.pop(record, None)
        self.fresh[record] = None

    def word(self) -> str:
        """A word that nobody has said before."""
        self._words += 1
        return f"word{self._seed}x{self._words}x"

    def some(self, chance: random.Random) -> list[Record]:
        """A few of the settled ones."""
        settled = [record for record in self.settled if not record.slow]
        return chance.sample(settled, min(_OLD, len(settled)))


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        event = _event(frame)
        if told is None:
            told = Told(event["response"]["id"])
            self.ledger.add(told)
        told.hear(event["sequence_number"], frame)
        if event["type"] in _TERMINAL:
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
                frames = _frames(await self.get(f"/responses/{response_id}?stream=true"))
        except TimeoutError:
            raise Fault("stuck", f"{response_id} does not end within {PATIENCE:g} s") from None
        if frames[-1:] != [b"data: [DONE]"]:
            raise Fault("lost", f"the replay of {response_id} breaks off after {len(frames)} events")
        return frames[:-1]

    async def ended(self, path: str) -> str:
        """The status in the end."""
        deadline = time.monotonic() + PATIENCE
        while (found := await self.find(path))["status"] in _RUNNING:
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


def _frames(data: bytes) -> list[bytes]:
    return [frame for frame in data.split(b"\n\n")[:-1] if not frame.startswith(b":")]


def _event(frame: bytes) -> dict[str, Any]:
    event: dict[str, Any] = msgspec.json.decode(frame.partition(b"data: ")[2])
    return event


def _ended(told: Told | None) -> Told:
    """A stream that was read to its end without one: the server is going down."""
    if told is None or told.end is None:
        raise Passing
    return told


def _text(item: dict[str, Any]) -> str:
    content = item.get("content") or []
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else str(content)


def _shown(numbers: Sequence[int]) -> str:
    return str(list(numbers)) if len(numbers) < 50 else f"{list(numbers[:25])} … {list(numbers[-25:])}"


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────

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
            if frame == b"data: [DONE]" or "error" in (chunk := _event(frame)):
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


CLIENTS: tuple[Client, ...] = (streams, streams, background, conversation, conversation, chat, sockets, files)


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Crashes:
    """One run of a plan. `between` is called while the server is down, with the home of that server."""

    def __init__(
        self, plan: Plan, home: Path, say: Say = lambda line: None, between: Callable[[Path], None] | None = None
    ) -> None:
        self.plan = plan
        self.tally = Tally()
        self.ledger = Ledger(plan.seed)
        self.victim = Victim(home, _environment(plan), ["--grace", str(_GRACE), "--workers", str(plan.workers)])
        self._say = say
        self._between = between
        self._chance = random.Random(plan.seed)  # noqa: S311  # a test's dice
        self._start_seconds = 1.0
        self._began = time.monotonic()
        self._reported = 0

    async def run(self) -> None:
        """All of it. Raises RuntimeError if the server does not start."""
        try:
            await self._kill_starting()
            while self.tally.kills < self.plan.kills:
                await self._live()
            await self._last_life()
        finally:
            if self.victim.process:
                self.victim.kill()
        self._check_file()

    async def _live(self) -> None:
        """A life of the server: it is started, asked for what its predecessors promised, put to work, and killed."""
        await self._start()
        self.tally.lives += 1
        async with self._wire() as wire:
            slow = self.tally.kills // _EVERY > self._reported
            await self._check(wire, [*self.ledger.fresh, *self.ledger.some(self._chance)], slow=slow)
            if slow:
                self._report()
            await self._work(wire)
        if self._between and not self.victim.alive:
            self._between(self.victim.home)
        if not self.victim.alive and self._chance.random() < 0.2 and self.tally.kills < self.plan.kills:
            await self._kill_starting()

    async def _last_life(self) -> None:
        await self._start()
        async with self._wire() as wire:
            await self._check(wire, [*self.ledger.fresh, *self.ledger.settled], slow=True)
        await self._terminate()

    async def _start(self) -> None:
        if self.victim.alive:
            return
        began = time.monotonic()
        self.victim.start()
        await asyncio.to_thread(self.victim.wait_ready, 60.0)
        self._start_seconds = time.monotonic() - began

    @contextlib.asynccontextmanager
    async def _wire(self) -> AsyncIterator[Wire]:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            yield Wire(http, self.victim.url, self.ledger)

    def _report(self) -> None:
        self._reported = self.tally.kills // _EVERY
        spent = time.monotonic() - self._began
        left = spent / self.tally.kills * (self.plan.kills - self.tally.kills)
        self._say(f"{self.tally}; {spent:.0f} s, about {max(left, 0):.0f} s to go")

    # killing

    async def _kill_starting(self) -> None:
        """Kills the server somewhere between its first instruction and its first answer."""
        self.victim.start()
        await asyncio.sleep(self._chance.uniform(0, 1.1 * self._start_seconds))
        self.victim.kill()
        self.tally.kills += 1

    async def _work(self, wire: Wire) -> None:
        """Lets the clients talk, kills the server while they do, and waits until all have noticed."""
        clients = [asyncio.create_task(self._serve(client, wire, n)) for n, client in enumerate(CLIENTS)]
        await asyncio.sleep(self._chance.uniform(0.02, self.plan.life))
        await self._strike()
        self.tally.kills += 1
        await asyncio.wait(clients, timeout=0.2)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve(self, client: Client, wire: Wire, number: int) -> None:
        chance = random.Random(f"{self.plan.seed} {self.tally.lives} {number}")  # noqa: S311  # a test's dice
        try:
            await client(wire, chance)
        except Fault as fault:
            self.tally.add(fault)
        except (Passing, aiohttp.ClientError, aiohttp.WSMessageTypeError, ConnectionError, TimeoutError):
            pass  # what it was told until then is written down

    async def _strike(self) -> None:
        gently = self.plan.signal == "TERM" or (self.plan.signal == "mixed" and self._chance.random() < 0.3)
        workers = self.victim.workers() if self.plan.workers > 1 else []
        if gently and self._chance.random() < 0.3:  # and then not gently, while it stops
            self._signal(signal.SIGTERM)
            await asyncio.sleep(self._chance.uniform(0, 0.5))
            self.victim.kill()
        elif gently:
            await self._terminate()
        elif workers and self._chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)
        else:
            self.victim.kill()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victim.pid, number)

    async def _terminate(self) -> None:
        try:
            await asyncio.to_thread(self.victim.stop, _STOPPING)
        except subprocess.TimeoutExpired:
            self.tally.add(Fault("stuck", f"the server does not stop within {_STOPPING:g} s of a SIGTERM"))

    # checking

    async def _check(self, wire: Wire, records: Iterable[Record], *, slow: bool) -> None:
        """Sends again what was under way, then looks for everything else; what is found in order is settled."""
        wanted = [record for record in dict.fromkeys(records) if slow or not record.slow]
        turns = asyncio.Semaphore(8)
        for first in (True, False):
            await asyncio.gather(*(self._check_one(wire, one, turns) for one in wanted if one.first is first))

    async def _check_one(self, wire: Wire, record: Record, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                await record.check(wire)
            except Fault as fault:
                self.tally.add(fault)
        self.ledger.fresh.pop(record, None)
        self.ledger.settled[record] = None
        for name, count in record.size.items():
            self.tally.verified[name] += max(count - record.verified[name], 0)
            record.verified[name] = max(count, record.verified[name])

    def _check_file(self) -> None:
        """SQLite's own look at its file."""
        url = self.plan.database or f"sqlite:///{self.victim.home / 'backtalk.sqlite'}"
        if url.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
                found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                self.tally.add(Fault("wrong", f"the database file is damaged: {found[:5]}"))


def _environment(plan: Plan) -> dict[str, str]:
    database = {"BACKTALK_DATABASE": plan.database} if plan.database else {}
    models = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
    return {**models, "BACKTALK_ACCESS_LOG": "false", **database}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def crash(plan: Plan, say: Say = lambda line: None, *, between: Callable[[Path], None] | None = None) -> Tally:
    """Carries a plan out. Without a home of the plan's own, one is made, and kept only if something was wrong.

    `between` is called with that home whenever the server is down.
    """
    home = plan.home or Path(tempfile.mkdtemp(prefix="backtalk-crashes-"))
    crashes = Crashes(plan, home, say, between)
    tally = crashes.tally
    try:
        asyncio.run(crashes.run())
    except KeyboardInterrupt:
        say("interrupted; what was seen until then:")
        tally.interrupted = True
    if tally.faults:
        say(f"the server's home is kept: {home}")
    elif plan.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return tally


def main(arguments: Sequence[str] | None = None, *, between: Callable[[Path], None] | None = None) -> int:
    """The command; returns its exit code."""
    plan = _plan(arguments)
    tally = crash(plan, _print, between=between)
    for words in list(tally.faults)[:_LISTED]:
        _print(f"  {words}")
    if len(tally.faults) > _LISTED:
        _print(f"  … and {len(tally.faults) - _LISTED} more")
    _print(str(tally))
    return 1 if tally.faults else _INTERRUPTED if tally.interrupted else 0


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m backtalk.testing.crashes", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="how often the server is killed (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the dice; the moments still differ (default: 0)")
    parser.add_argument("--database", help="URL of an empty database (default: SQLite in the home)")
    parser.add_argument("--workers", type=int, default=1, help="processes that serve; single ones are killed too")
    parser.add_argument("--signal", choices=("KILL", "TERM", "mixed"), default="KILL", help="default: KILL")
    parser.add_argument("--home", type=Path, help="folder for the server (default: one that is made and removed)")
    return Plan(**vars(parser.parse_args(arguments)))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must not outlive us
    sys.exit(main())
