"""A replay hours later: when the log has become one row, and after restarts, each index gives the bytes of the first day."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from resume_bodies import STORED
from resume_model import EveryKind, every_kind
from resume_wire import Line, all_of, checked, filled_store, frames, response_id, seen, states

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, Server, serve
from support import until


@contextmanager
def served(home: Path) -> Iterator[str]:
    app = Backtalk(Settings(home=home, discover=False), models=[ScriptedModel(), EveryKind()])
    with serve(app) as url:
        yield url


async def told(line: Line, store: str) -> dict[str, bytes]:
    """Streams of every kind as they were first heard, by id."""
    bodies = [every_kind(store), every_kind(store, background=True), *(body for body, _ in STORED.values())]
    return {response_id(whole): whole for whole in await all_of([line.post(body) for body in bodies])}


async def check(line: Line, first: dict[str, bytes]) -> None:
    for name, whole in first.items():
        parts = frames(whole)
        rests = await all_of([line.replay(name, after) for after in range(-1, len(parts))])
        for after, rest in enumerate(rests, -1):
            assert b"".join(parts[: after + 1]) + rest == whole


async def test_what_was_told_is_told_again_when_its_log_is_one_row(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        line = Line(url)
        with httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
            store = filled_store(http)
        first = await told(line, store)
        until(lambda: states(tmp_path, "logs", "state") == {"compacted"})
        await check(line, first)
    with served(tmp_path) as url:
        assert states(tmp_path, "segments", "response_id") == set()  # nothing is left but the one row
        await check(Line(url), first)


async def test_a_restart_in_the_middle_and_one_before_the_log_was_tidied_change_nothing(tmp_path: Path) -> None:
    """The first process is killed while one answer is being said and others have just ended."""
    env = {
        "BACKTALK_MODELS": "backtalk.testing:ScriptedModel,resume_model:EveryKind",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with Server(tmp_path, env) as server:
        with httpx2.Client(base_url=f"{server.url}/v1", timeout=30) as http:
            store = filled_store(http)
        line = Line(server.url)
        begun = [every_kind(store, "[[pace:0.05]]", background=background) for background in (True, False)]
        cut = [await line.post(begun[0], 9000), await line.post(begun[1], 5000)]
        first = await told(line, store)
        last = await line.post(every_kind(store))
        server.kill()  # sooner than a log is made one row
        first[response_id(last)] = last
        server.start().wait_ready()
        until(lambda: states(tmp_path, "logs", "state") == {"compacted"})
        await check(line, first)
        for body in cut:
            before, number = seen(body)
            whole = await line.replay(response_id(before))
            assert before + await line.replay(response_id(before), number) == whole
            assert checked(whole)[-1]["type"] in ("response.failed", "response.incomplete")
            await check(line, {response_id(before): whole})
