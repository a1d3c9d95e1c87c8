"""Two processes on one database: either serves what the other writes, byte for byte."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from backtalk.testing import Server, client
from support import until


@pytest.fixture
def pair(database: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    env = {
        "BACKTALK_DATABASE": database,
        "BACKTALK_DISCOVER": "0",
        "BACKTALK_MODELS": "backtalk.testing:ScriptedModel",
        "BACKTALK_MODEL": "scripted",
    }
    with Server(tmp_path / "a", env) as a, Server(tmp_path / "b", env) as b:
        yield a, b


def replay(server: Server, response_id: str, after: int = -1) -> bytes:
    query = {"stream": "true", "starting_after": after}
    return httpx2.get(f"{server.url}/v1/responses/{response_id}", params=query, timeout=60).content


def test_a_run_is_followed_from_the_other_process(pair: tuple[Server, Server]) -> None:
    a, b = pair
    run = client(a.url).responses.create(input="[[pace:0.02]] [[tokens:100]]", background=True)
    followed: dict[tuple[str, int], bytes] = {}
    cursors = [(server, after) for server in pair for after in (-1, 7, 40)]
    threads = [
        threading.Thread(target=lambda s=s, n=n: followed.update({(s.url, n): replay(s, run.id, n)}))
        for s, n in cursors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    whole = replay(b, run.id)
    assert whole.count(b"response.output_text.delta\ndata") == 100
    assert followed[a.url, -1] == followed[b.url, -1] == whole
    assert all(whole.endswith(data) for data in followed.values())
    assert followed[a.url, 40] == followed[b.url, 40]
    assert len(followed) == 6


def test_a_run_is_cancelled_from_the_other_process(pair: tuple[Server, Server]) -> None:
    a, b = pair
    run = client(a.url).responses.create(input="[[pace:0.05]] [[tokens:2000]]", background=True)
    until(lambda: client(b.url).responses.retrieve(run.id).status == "in_progress")
    assert client(b.url).responses.cancel(run.id).status == "cancelled"
    for server in pair:
        assert client(server.url).responses.retrieve(run.id).status == "cancelled"
        assert replay(server, run.id).endswith(b"data: [DONE]\n\n")


def test_a_dead_process_is_noticed_by_the_living(pair: tuple[Server, Server]) -> None:
    a, b = pair
    run = client(a.url).responses.create(input="[[pace:0.05]] [[tokens:2000]]", background=True)
    until(lambda: client(b.url).responses.retrieve(run.id).status == "in_progress")
    a.kill()
    until(lambda: client(b.url).responses.retrieve(run.id).status == "failed")
    assert b"event: response.failed" in replay(b, run.id)


def test_a_stream_is_cut_when_its_process_stops_and_goes_on_at_the_other(pair: tuple[Server, Server]) -> None:
    a, b = pair
    b.args = ["--grace", "0"]
    b.restart()
    run = client(a.url).responses.create(input="[[pace:0.02]] [[tokens:400]]", background=True)
    seen = b""
    with httpx2.stream("GET", f"{b.url}/v1/responses/{run.id}?stream=true", timeout=60) as answer:
        stopping = threading.Timer(1, b.stop)
        stopping.start()
        with contextlib.suppress(httpx2.RemoteProtocolError):
            for data in answer.iter_bytes():
                seen += data
    stopping.join(20)
    events = seen.split(b"\n\n")[:-1]
    whole = b"".join(event + b"\n\n" for event in events) + replay(a, run.id, len(events) - 1)
    assert b"[DONE]" not in seen
    assert whole == replay(a, run.id)
    assert b"event: response.completed" in whole
    assert "Traceback" not in b.log
