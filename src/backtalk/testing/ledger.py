"""What clients were told, and whether a server still stands by it.

A `Record` is something that was acknowledged: a response with the events that were read, an object, the bytes of a file.
A `Ledger` holds all of them; a `Fault` is a promise that was broken, and a `Tally` counts.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

if TYPE_CHECKING:
    from backtalk.testing.talk import Wire

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
RUNNING = ("queued", "in_progress")
_PART = re.compile(r"part(\d+)of")
_SETTLING = {
    "response": ("id", "object", "created_at", "model", "metadata", "previous_response_id", "conversation"),
    "vector_store": ("id", "object", "created_at", "name", "metadata"),
    "vector_store.file": ("id", "object", "created_at", "vector_store_id", "attributes", "chunking_strategy"),
}
"""What stays as it is in objects that are still being worked on."""
_OLD = 20


class Fault(Exception):
    """A promise that was broken. `kind` is `lost`, `duplicated`, `stuck` or `wrong`."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(f"{kind}: {words}")
        self.kind = kind


class Tally:
    """What was seen so far."""

    def __init__(self) -> None:
        self.verified: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.interrupted = False

    def add(self, fault: Fault) -> None:
        self.faults.setdefault(str(fault), fault)

    def count(self, record: "Record") -> None:
        """What of the record was not counted before."""
        for name, count in record.size.items():
            self.verified[name] += max(count - record.verified[name], 0)
            record.verified[name] = max(count, record.verified[name])

    def __str__(self) -> str:
        kinds = Counter(fault.kind for fault in self.faults.values())
        told = ", ".join(f"{kind} {kinds[kind]}" for kind in ("lost", "duplicated", "stuck", "wrong"))
        events, objects = self.verified["events"], self.verified["objects"]
        return f"{events:,} events and {objects:,} objects verified; {told}"


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
        events = [event_of(frame) for frame in frames]
        self._check_numbers([event["sequence_number"] for event in events])
        self._check_bytes(frames)
        await self._check_end(wire, [event for event in events if event["type"] in TERMINAL], events)
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
        if found["status"] in RUNNING:
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
        said = "".join(event["delta"] for event in map(event_of, frames) if event["type"].endswith("output_text.delta"))
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
            if status != 200 or frames_of(data)[: len(self.events)] != self.events:
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
        if kind == "response" and answer["status"] in RUNNING and not answer["background"]:
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

    def settle(self, record: Record) -> None:
        """Says of a record that it was looked at."""
        self.fresh.pop(record, None)
        self.settled[record] = None

    def word(self) -> str:
        """A word that nobody has said before."""
        self._words += 1
        return f"word{self._seed}x{self._words}x"

    def some(self, chance: random.Random) -> list[Record]:
        """A few of the settled ones."""
        settled = [record for record in self.settled if not record.slow]
        return chance.sample(settled, min(_OLD, len(settled)))


def frames_of(data: bytes) -> list[bytes]:
    return [frame for frame in data.split(b"\n\n")[:-1] if not frame.startswith(b":")]


def event_of(frame: bytes) -> dict[str, Any]:
    event: dict[str, Any] = msgspec.json.decode(frame.partition(b"data: ")[2])
    return event


def _text(item: dict[str, Any]) -> str:
    content = item.get("content") or []
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else str(content)


def _shown(numbers: Sequence[int]) -> str:
    return str(list(numbers)) if len(numbers) < 50 else f"{list(numbers[:25])} … {list(numbers[-25:])}"
