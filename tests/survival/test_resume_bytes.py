"""An answer that holds every kind of item, cut at each byte: what was seen and what comes then are the uncut stream.

`ROUNDS=55 pytest tests/survival/test_resume_bytes.py` breaks a real connection at every single byte.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from resume_model import KINDS, EveryKind, every_kind
from resume_wire import DONE, ROUNDS, Line, all_of, checked, filled_store, frames, response_id, seen, states, unchunked

from backtalk import Backtalk, Settings
from backtalk.testing import serve
from support import until

CUTS = 400 * ROUNDS
LIVE_CUTS = 60 * ROUNDS
NEAR = range(-2, 3)
"""Bytes around the end of an event, each of which is cut at."""


class Place:
    def __init__(self, home: Path, url: str, store: str) -> None:
        self.home = home
        self.line = Line(url)
        self.store = store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("bytes")
    app = Backtalk(Settings(home=home, discover=False), models=[EveryKind()])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        yield Place(home, url, filled_store(http))


async def test_a_finished_answer_is_cut_at_each_byte(place: Place) -> None:
    whole = await place.line.post(every_kind(place.store))
    events = checked(whole)
    assert [item["type"] for item in events[-1]["response"]["output"]] == KINDS
    name = response_id(whole)
    raw = await place.line.raw(name)
    assert unchunked(raw) == whole

    rests = await all_of([place.line.replay(name, after) for after in range(-1, len(events))])
    for cut in range(len(whole) + 1):
        before, last = seen(whole[:cut])
        assert before + rests[last + 1] == whole

    async def break_off(cut: int) -> None:
        before, last = seen(unchunked(await place.line.raw(name, cut=cut)))
        assert before + await place.line.replay(name, last) == whole

    ends = [at for at in range(len(raw)) if raw[at : at + 2] == b"\n\n"]
    chosen = {end + 2 + step for end in ends for step in NEAR} | set(_some(range(len(raw) + 1), CUTS))
    await all_of([break_off(cut) for cut in sorted(chosen) if 0 <= cut <= len(raw)])


@pytest.mark.parametrize("background", [True, False])
async def test_a_live_answer_is_cut_at_many_bytes(place: Place, background: bool) -> None:
    body = every_kind(place.store, "[[pace:0.004]]", background=background)
    whole = await place.line.post(body)
    first = whole.index(b"\n\n") + 100  # from there on the client knows what to come back for

    async def break_off(cut: int) -> str:
        before, last = seen(await place.line.post(body, cut))
        name = response_id(before)
        rests = await all_of([place.line.replay(name, after) for after in (last, last, -1)])
        assert rests[0] == rests[1]
        assert before + rests[0] == rests[2] == await place.line.replay(name)
        return str(checked(rests[2])[-1]["type"])

    ends = await all_of([break_off(cut) for cut in _some(range(first, len(whole)), LIVE_CUTS)])
    if background:
        assert set(ends) == {"response.completed"}
    else:  # one that was cut near its end may have been quicker than its client
        assert ends.count("response.incomplete") > len(ends) / 4
        assert set(ends) <= {"response.incomplete", "response.completed"}


async def test_who_left_before_the_first_event_leaves_no_run_behind(place: Place) -> None:
    body = every_kind(place.store, "[[pace:0.05]]")
    await all_of([place.line.post(body, cut) for cut in (0, 1, 9, 500)])
    until(lambda: states(place.home, "responses", "status") <= {"completed", "incomplete"})


async def test_an_answer_that_has_left_memory_resumes_while_it_runs_and_later(place: Place) -> None:
    """More events than the live end of a log keeps: readers fall off, and go on in the database."""
    body = every_kind(place.store, "[[cites:1500]]", background=True)
    before, last = seen(await place.line.post(body, 9000))
    name = response_id(before)
    afters = [last, *_some(range(last, 3000), 6)]
    live = await all_of([place.line.replay(name, after) for after in afters])
    whole = await place.line.replay(name)
    events = checked(whole)
    assert len(events) > 3000
    assert before + live[0] == whole
    for after, rest in zip(afters, live, strict=True):
        assert rest == b"".join(frames(whole)[after + 1 :]) + DONE
    again = await all_of([place.line.replay(name, after) for after in afters])
    assert again == live


def _some(all_: range, count: int) -> list[int]:
    return random.Random(5).sample(all_, min(count, len(all_)))
