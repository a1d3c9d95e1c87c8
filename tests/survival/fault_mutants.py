"""Transcripts of model servers, spoilt: by bytes, by events, by what stands in them. Each is made by its seed."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRANSCRIPTS = Path(__file__).parents[1] / "models" / "transcripts"
ODD: list[Any] = [
    None, True, 0, -1, 2**63, 1e308, "", "x", "\ud800", "\0", [], {}, [[]], [None], {"": None}, [{}], "9" * 400, 0.5,
]  # fmt: skip
Mutate = Callable[[bytes, random.Random], bytes]


def names() -> list[str]:
    return sorted(path.name for path in TRANSCRIPTS.glob("*.sse"))


def mutant(name: str, seed: int) -> tuple[str, bytes]:
    """(how it was spoilt, the bytes)."""
    chance = random.Random(f"{name} {seed}")
    how = chance.choice([*MUTATIONS])
    data = (TRANSCRIPTS / name).read_bytes()
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        data = MUTATIONS[how](data, chance)
    return how, data


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """The data in reads of any size."""
    chance = random.Random(seed)
    while data:
        size = chance.choice((1, 7, 100, 5000))
        yield data[:size]
        data = data[size:]


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _flip(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(min(len(out), chance.choice((1, 3, 30)))):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _lose(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randrange(200) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice((b"\n", b"\r", b"\n\n", b"\0", b"\xff", b"data:", b"{", b"[" * 3000)) + data[at:]


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _events(data: bytes) -> list[bytes]:
    return data.split(b"\n\n")


def _repeat(data: bytes, chance: random.Random) -> bytes:
    events = _events(data)
    at = chance.randrange(len(events))
    return b"\n\n".join([*events[:at], *[events[at]] * chance.choice((2, 50)), *events[at:]])


def _reorder(data: bytes, chance: random.Random) -> bytes:
    events = _events(data)
    chance.shuffle(events)
    return b"\n\n".join(events)


def _drop(data: bytes, chance: random.Random) -> bytes:
    events = _events(data)
    del events[chance.randrange(len(events))]
    return b"\n\n".join(events)


# ── what stands in them ──────────────────────────────────────────────────────────────────────────────────────────────


def _in_event(data: bytes, chance: random.Random, change: Callable[[Any, random.Random], Any]) -> bytes:
    """Changes the JSON of one event."""
    lines = data.split(b"\n")
    able = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
    if not able:
        return data
    at = chance.choice(able)
    try:
        value = json.loads(lines[at][6:])
    except ValueError:
        return data
    lines[at] = b"data: " + json.dumps(change(copy.deepcopy(value), chance)).encode()
    return b"\n".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _remove_field(value: Any, chance: random.Random) -> Any:
    if places := list(_places(value)):
        holder, key = chance.choice(places)
        del holder[key]
    return value


def _change_type(value: Any, chance: random.Random) -> Any:
    holder, key = chance.choice([*_places(value), ([value], 0)])
    holder[key] = chance.choice(ODD)
    return value


MUTATIONS: dict[str, Mutate] = {
    "bytes flipped": _flip,
    "truncated": _truncate,
    "bytes lost": _lose,
    "bytes put in": _insert,
    "an event again": _repeat,
    "events out of order": _reorder,
    "an event lost": _drop,
    "a field lost": lambda data, chance: _in_event(data, chance, _remove_field),
    "another type": lambda data, chance: _in_event(data, chance, _change_type),
}
