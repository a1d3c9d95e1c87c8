"""Every place of bodies that have everything in them: whatever stands there instead, it is taken or refused.

`ROUNDS=20 pytest tests/hostile/test_places.py` goes over all places that often, with other values each time.
"""

import json
import os
import random
from typing import Any

import httpx2
from places import bodies, changed
from shape import assert_clean, things

ROUNDS = int(os.environ.get("ROUNDS", "1"))


def test_every_place_of_every_body(on_each: str) -> None:
    ids, chance = things(on_each), random.Random(0)
    sent = refused = 0
    with httpx2.Client(base_url=on_each, timeout=30) as http:
        for path, body in bodies(ids).items():
            assert send(http, path, body) == 200, path
        for path, body in [*bodies(ids).items()] * ROUNDS:
            for wrong in changed(body, chance):
                sent, refused = sent + 1, refused + (send(http, path, wrong) >= 400)
    print(f"{sent} bodies, {refused} refused")
    assert sent > 300 * ROUNDS
    assert 0.2 * sent < refused < 0.9 * sent


def send(http: httpx2.Client, path: str, body: Any) -> int:
    raw = json.dumps(body).encode()
    answer = http.post(path, content=raw, headers={"content-type": "application/json"})
    assert_clean(answer.status_code, answer.headers, answer.content, (path, raw[:3000]))
    assert b'"server_error"' not in answer.content, (path, raw[:3000])
    return answer.status_code
