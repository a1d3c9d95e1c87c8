"""Frames of a WebSocket that no client of good will sends: each is answered, and the line goes on."""

import json
import random
from typing import Any

import httpx2
from places import bodies, changed
from shape import things
from websockets.sync.client import ClientConnection, connect

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
FRAMES: list[str | bytes] = [
    "", " ", "null", "[]", "17", '"x"', "{", "{}", "[" * 100_000, "NaN", '{"type": NaN}', '{"type": 5}', '{"type": null}', b"", b"\xff\xfe",
    b'{"type": "response.create"}', '{"type": "response.create"}', '{"type": "response.create", "input": {"\\ud800": 1}}', '{"type": "\\ud800"}',
    '{"type": "response.cancel"}', '{"type": "response.create", "stream_id": [], "input": "x"}', '{"type": "response.create", "stream_id": "' + "x" * 65 + '"}',
    '{"type": "response.create", "response": {"input": "x"}}', '{"type": "response.create", "input": ' + "9" * 20_000 + "}",
    '{"type": "response.steer", "previous_response_id": {"a": 1}, "input": [1]}', '{"type": "response.create", "generate": "x", "input": 5}',
]  # fmt: skip


def line_to(url: str) -> ClientConnection:
    return connect(f"{url.replace('http', 'ws')}/v1/responses", max_size=None)


def answer(line: ClientConnection, frame: str | bytes) -> dict[str, Any]:
    """The frame that ends what a frame has begun."""
    line.send(frame)
    while True:
        event: dict[str, Any] = json.loads(line.recv(timeout=30))
        if event["type"] in ENDS or event["type"].endswith(".failed"):
            return event


def test_frames_that_are_none(server: str) -> None:
    with line_to(server) as line:
        for frame in FRAMES:
            event = answer(line, frame)
            assert event["type"] in ("error", "response.steer.failed"), (frame[:80], event)
            assert "server_error" not in json.dumps(event), (frame[:80], event)
        assert answer(line, json.dumps(GOOD))["type"] == "response.completed"


GOOD = {"type": "response.create", "model": "scripted", "input": "Still there?"}


def test_every_place_of_a_turn(server: str) -> None:
    body = bodies(things(server))["/v1/responses"]
    right = {"type": "response.create", **{key: body[key] for key in body.keys() - {"stream", "stream_options"}}}
    chance = random.Random(1)
    ends = []
    with line_to(server) as line:
        assert answer(line, json.dumps(right))["type"] == "response.completed"
        for wrong in changed(right, chance):
            event = answer(line, json.dumps(wrong))
            assert "server_error" not in json.dumps(event.get("error")), (wrong, event)
            ends.append(event["type"])
        assert answer(line, json.dumps(GOOD))["type"] == "response.completed"
    assert len(ends) > 80 and {"error", "response.completed"} <= set(ends)
    assert httpx2.get(f"{server}/healthz").status_code == 200
