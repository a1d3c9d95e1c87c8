"""`Idempotency-Key`: what comes again is not carried out again."""

import secrets
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from wire import Wire

from backtalk.testing import Server
from support import until

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted", "BACKTALK_DISCOVER": "0"}


def key() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(8)}


@pytest.mark.wire("I1")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": "Hello"}),
        ("/responses", {"input": "Hello", "background": True}),
        ("/responses", {"input": "Hello", "store": False}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}),
        ("/conversations", {"metadata": {"a": "b"}}),
        ("/vector_stores", {"name": "n"}),
        ("/embeddings", {"model": "backtalk/static", "input": "x"}),
    ],
)
def test_the_first_answer_comes_again(http: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    headers = key()
    first = http.post(path, json=body, headers=headers)
    again = http.post(path, json=body, headers=headers)
    assert first.status_code == again.status_code == 200
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    other = http.post(path, json={**body, "user": "another"}, headers=headers)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    assert http.post(path, json=body, headers=key()).content != first.content or path == "/embeddings"


@pytest.mark.wire("I1")
def test_a_stream_comes_again(wire: Wire) -> None:
    """One that is stored out of its log, any other as it was kept."""
    for path, body in (
        ("/responses", {"input": "Hello", "stream": True}),
        ("/responses", {"input": "Hello", "stream": True, "store": False}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "stream": True}),
    ):
        headers = key()
        first = wire.http.post(path, json=body, headers=headers)
        again = wire.http.post(path, json=body, headers=headers)
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["idempotent-replayed"] == "true"
        assert again.content == first.content


@pytest.mark.wire("I1")
def test_a_stream_that_was_cut_comes_again_and_is_not_carried_out_again(wire: Wire) -> None:
    headers, body = key(), {"input": "[[pace:0.02]] [[tokens:300]]", "stream": True}
    with wire.http.stream("POST", "/responses", json=body, headers=headers) as reply:
        lines = reply.iter_lines()
        seen = [next(lines) for _ in range(40)]
    again = until(lambda: ended(wire.http, body, headers))
    assert again.headers["idempotent-replayed"] == "true"
    assert again.text.split("\n")[: len(seen)] == seen
    assert '"client_disconnected"' in again.text


@pytest.mark.wire("I2")
def test_mistakes_are_kept_and_what_may_pass_is_not(http: httpx2.Client) -> None:
    headers = key()
    for replayed in (None, "true"):
        refused = http.post("/responses", json={"input": 5}, headers=headers)
        assert (refused.status_code, refused.headers.get("idempotent-replayed")) == (400, replayed)
    headers = key()
    for _ in range(2):
        failed = http.post("/responses", json={"input": "[[fail:before]]"}, headers=headers)
        assert (failed.status_code, failed.headers.get("idempotent-replayed")) == (502, None)
    for bad in ("", "x" * 256):
        assert http.post("/responses", json={"input": "x"}, headers={"idempotency-key": bad}).status_code == 400


@pytest.mark.wire("I2")
def test_of_many_at_once_one_is_carried_out(http: httpx2.Client) -> None:
    headers, body = key(), {"input": "[[pace:0.02]] [[tokens:30]]"}
    gate = threading.Barrier(8)

    def send() -> httpx2.Response:
        gate.wait()
        return http.post("/responses", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(send) for _ in range(8)]]
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(409) == 7 and statuses.count(200) == 1
    (busy, *_) = [answer for answer in answers if answer.status_code == 409]
    assert busy.json()["error"]["code"] == "idempotency_key_in_use"
    assert "retry-after" in busy.headers and "x-should-retry" not in busy.headers
    (first,) = [answer for answer in answers if answer.status_code == 200]
    assert http.post("/responses", json=body, headers=headers).json()["id"] == first.json()["id"]


@pytest.mark.wire("I3")
def test_across_a_crash_nothing_is_made_twice(tmp_path: Path) -> None:
    headers, body = key(), {"input": "[[pace:0.05]] [[tokens:2000]]", "stream": True}
    conversation = {"metadata": {"a": "b"}}
    made = key()
    with Server(tmp_path, SCRIPTED) as server, httpx2.Client(base_url=f"{server.url}/v1", timeout=30) as http:
        first = http.post("/conversations", json=conversation, headers=made).json()
        with http.stream("POST", "/responses", json=body, headers=headers) as reply:
            lines = reply.iter_lines()
            seen = [next(lines) for _ in range(30)]
            server.kill()
        server.restart()
        again = until(lambda: ended(http, body, headers))
        assert http.post("/conversations", json=conversation, headers=made).json() == first
        assert len(http.get("/conversations").json()["data"]) == 1
    lines_again = again.text.split("\n")
    assert lines_again[: len(seen)] == seen, "what was seen is not contradicted"
    assert '"server_restarted"' in again.text


@pytest.mark.wire("I1")
def test_a_client_that_leaves_before_it_has_asked_leaves_its_key_free(http: httpx2.Client) -> None:
    headers, body = key(), b'{"input": "Hello"}'
    head = f"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    for sent in (b"", body[:-1]):
        with socket.create_connection((http.base_url.host, http.base_url.port)) as line:
            line.sendall(f"{head}idempotency-key: {headers['idempotency-key']}\r\n\r\n".encode() + sent)
            time.sleep(0.3)
    time.sleep(0.3)
    first = http.post("/responses", content=body, headers={**headers, "content-type": "application/json"})
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (200, None), first.text


@pytest.mark.wire("I2")
def test_a_key_is_free_everywhere_as_soon_as_a_failure_shows(tmp_path: Path) -> None:
    """Whoever asks the next process need not read the error to its end, as no load balancer does."""
    body = {"input": "[[fail:before]]"}
    settings = {**SCRIPTED, "BACKTALK_DATABASE": f"sqlite:///{tmp_path / 'shared.sqlite'}"}
    with Server(tmp_path / "a", settings) as a, Server(tmp_path / "b", settings) as b, httpx2.Client() as http:
        for _ in range(30):
            headers = key()
            with http.stream("POST", f"{a.url}/v1/responses", json=body, headers=headers) as failed:
                assert failed.status_code == 502, failed.read()
                assert http.post(f"{b.url}/v1/responses", json=body, headers=headers).status_code == 502


@pytest.mark.wire("I3")
def test_a_neighbour_repeats_the_answer_of_the_dead_when_it_has_ended(tmp_path: Path) -> None:
    headers, body = key(), {"input": "[[pace:0.05]] [[tokens:600]]"}
    settings = {**SCRIPTED, "BACKTALK_DATABASE": f"sqlite:///{tmp_path / 'shared.sqlite'}"}
    with Server(tmp_path / "a", settings) as a, Server(tmp_path / "b", settings) as b, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(httpx2.post, f"{a.url}/v1/responses", json=body, headers=headers, timeout=60)
        with closing(sqlite3.connect(tmp_path / "shared.sqlite")) as database:
            until(lambda: database.execute("SELECT 1 FROM idempotency_keys WHERE state = 'made'").fetchall())
        a.kill()
        assert isinstance(lost.exception(), httpx2.TransportError)
        repeats = [httpx2.post(f"{b.url}/v1/responses", json=body, headers=headers, timeout=60) for _ in range(2)]
    assert [repeat.json()["status"] for repeat in repeats] == ["failed", "failed"]
    assert repeats[0].content == repeats[1].content


def ended(http: httpx2.Client, body: dict[str, Any], headers: dict[str, str]) -> httpx2.Response | None:
    try:
        answer = http.post("/responses", json=body, headers=headers)
    except httpx2.TransportError:
        return None
    return answer if answer.status_code == 200 and answer.text.endswith("[DONE]\n\n") else None
