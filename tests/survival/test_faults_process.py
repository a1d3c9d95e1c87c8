"""Rows 4, 15, 30 and 31: readers that do not read, an end under load, code that blocks, and no file to be had."""

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fault_house import memory, open_files

from backtalk.testing import Server, check_transcript, read_transcript
from support import lacking, until

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
DEAF = 40
TOKENS = 9000
OWN = """
import time
from backtalk import Backtalk

app = Backtalk()

@app.get("/slow")
def slow():
    time.sleep(2)
    return "done"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With an application of a user's, one of whose routes blocks."""
    home = tmp_path_factory.mktemp("own")
    (home / "own.py").write_text(OWN)
    with Server(home, SCRIPTED, ["--app", "own:app"]) as running:
        yield running


def plain(server: Server) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=60)


# ── row 4 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def deaf(server: Server) -> socket.socket:
    """A client that asks for a long stream and does not read it."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", server.port))
    body = json.dumps({"input": f"[[tokens:{TOKENS}]]", "stream": True, "metadata": {"who": "deaf"}}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    line.sendall(head.encode() + body)
    return line


def test_row_04_readers_that_do_not_read_hold_up_nobody_and_cost_little(server: Server) -> None:
    with plain(server) as http, contextlib.ExitStack() as stack:
        heard(http, [background(http) for _ in range(DEAF)])  # what as many runs cost that nobody follows
        before = memory(server.pid)
        lines = [stack.enter_context(deaf(server)) for _ in range(DEAF)]
        heads = [line.recv(2000).decode() for line in lines]
        assert all(head.startswith("HTTP/1.1 200") for head in heads)
        heard(http, [found_id(line, head) for line, head in zip(lines, heads, strict=True)])
        grown = memory(server.pid) - before
        assert grown < 48 * 2**20, f"{grown:,} bytes"
        assert "Hello" in http.post("/v1/responses", json={"input": "Hello"}).text


def found_id(line: socket.socket, head: str) -> str:
    while '"id":"resp_' not in head:
        head += line.recv(500).decode()
    return "resp_" + head.split('"id":"resp_', 1)[1].split('"', 1)[0]


def background(http: httpx2.Client) -> str:
    reply = http.post("/v1/responses", json={"input": f"[[tokens:{TOKENS}]]", "background": True})
    return str(reply.json()["id"])


def heard(http: httpx2.Client, ids: list[str]) -> None:
    """The model is not held up: every response comes to its end."""
    left = set(ids)

    def done() -> bool:
        left.difference_update(
            one for one in list(left) if http.get(f"/v1/responses/{one}").json()["status"] == "completed"
        )
        return not left

    until(done, 60)


# ── row 30 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_30_a_route_that_blocks_its_thread_holds_up_nobody(server: Server) -> None:
    """An `async def` that blocks does hold up its process: nothing can be done in there."""
    with plain(server) as http:
        slow = threading.Thread(target=http.get, args=("/slow",))
        slow.start()
        for _ in range(20):
            assert http.get("/healthz").status_code == 200
        assert http.post("/v1/responses", json={"input": "Hello"}).status_code == 200
        assert slow.is_alive()
        slow.join()


# ── row 31 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_31_without_a_file_to_be_had_it_refuses_and_recovers(tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        lacking("limits of another process need Linux")
    with Server(tmp_path, SCRIPTED) as server:
        with plain(server) as http:
            kept = http.post("/v1/responses", json={"input": "Hello"}).json()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            until(lambda: open_files(server.pid) >= 62)
            for path in ("/v1/responses", "/v1/conversations"):
                check_refused(server, path)
            assert server.process is not None and server.process.poll() is None
        until(lambda: answers(server, "/healthz"))
        with plain(server) as http:
            assert http.get(f"/v1/responses/{kept['id']}").json() == kept
            assert http.post("/v1/responses", json={"input": "Hello"}).status_code == 200
        assert len(server.log) < 2**20, "it filled its log"


def check_refused(server: Server, path: str) -> None:
    """503, or no connection: never a 500."""
    try:
        reply = httpx2.post(f"{server.url}{path}", json={"input": "Hello"}, timeout=2)
    except httpx2.TransportError:
        return
    assert reply.status_code == 503, reply.text


def answers(server: Server, path: str) -> bool:
    try:
        return httpx2.get(f"{server.url}{path}", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False


# ── row 15 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Load(threading.Thread):
    """Asks again and again, over one connection, until told to stop; notes what went wrong."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.statuses: list[Any] = []
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        with plain(self.server) as http:
            while not self.ending.is_set():
                try:
                    self.statuses.append(http.post("/v1/responses", json={"input": "Hello"}).status_code)
                except httpx2.TransportError as error:
                    self.statuses.append(type(error).__name__)
                    time.sleep(0.05)


def read_stream(server: Server, out: list[bytes]) -> None:
    body = {"input": "[[pace:0.02]] [[tokens:100]]", "stream": True}
    with plain(server) as http, http.stream("POST", "/v1/responses", json=body) as reply:
        out.append(b"".join(reply.iter_bytes()))


def test_row_15_told_to_stop_under_load_it_finishes_what_is_open(tmp_path: Path) -> None:
    with Server(tmp_path, SCRIPTED, ["--grace", "20"]) as server:
        whole: list[bytes] = []
        streams = [threading.Thread(target=read_stream, args=(server, whole), daemon=True) for _ in range(8)]
        loads = [Load(server) for _ in range(3)]
        for stream in streams:
            stream.start()
        with plain(server) as http:
            until(lambda: all(load.statuses for load in loads))
            time.sleep(0.5)
            assert http.get("/healthz").status_code == 200
        assert server.stop(40) == 0
        for load in loads:
            load.ending.set()
            load.join(20)
            told = {status for status in load.statuses if isinstance(status, int)}
            assert told <= {200, 503}, f"{told}"
        for stream in streams:
            stream.join(20)
        assert len(whole) == len(streams)
        for data in whole:
            events = read_transcript(data)
            check_transcript(events)
            assert events[-1]["type"] == "response.completed"
        assert "Traceback" not in server.log
