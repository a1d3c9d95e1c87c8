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
from fault_house import memory, open_files, open_sockets

from backtalk.testing import Server, check_transcript, read_transcript
from support import lacking, until

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
DEAF = 40
TOKENS = 9000
MANY_TOKENS = 40_000
"""More than the kernel takes for a client that does not read."""
OWN = """
import time
from backtalk import Backtalk

app = Backtalk()

@app.get("/slow")
def slow():
    time.sleep(2)
    return "done"

@app.get("/stuck")
async def stuck():
    time.sleep(1)
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


def line_to(server: Server) -> socket.socket:
    """With little room for what is not read."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", server.port))
    return line


def deaf(server: Server, tokens: int = TOKENS) -> socket.socket:
    """A client that asks for a long stream and does not read it."""
    line = line_to(server)
    body = json.dumps({"input": f"[[tokens:{tokens}]]", "stream": True, "metadata": {"who": "deaf"}}).encode()
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


def test_row_04_who_does_not_read_is_cut_off_and_can_read_on(tmp_path: Path) -> None:
    with Server(tmp_path, {**SCRIPTED, "BACKTALK_WRITE_TIMEOUT": "1"}) as server, plain(server) as http:
        assert http.get("/healthz").status_code == 200
        before = open_sockets(server.pid)
        with contextlib.closing(deaf(server, MANY_TOKENS)) as line:
            response_id = found_id(line, line.recv(2000).decode())
            assert open_sockets(server.pid) == before + 1
            until(lambda: open_sockets(server.pid) == before)  # the client's end is still open
        path = f"/v1/responses/{response_id}"
        until(lambda: http.get(path).json()["status"] in ("incomplete", "completed"))
        again = http.get(path, params={"stream": "true", "starting_after": 0})
        assert read_transcript(again.content)[0]["sequence_number"] == 1


def test_row_04_who_does_not_read_a_socket_is_cut_off_too(tmp_path: Path) -> None:
    with Server(tmp_path, {**SCRIPTED, "BACKTALK_WRITE_TIMEOUT": "1"}) as server, plain(server) as http:
        assert http.get("/healthz").status_code == 200
        before = open_sockets(server.pid)
        with contextlib.closing(line_to(server)) as line:
            line.sendall(UPGRADE)
            assert line.recv(1000).startswith(b"HTTP/1.1 101")
            line.sendall(text_frame({"type": "response.create", "input": f"[[tokens:{MANY_TOKENS}]]"}))
            assert open_sockets(server.pid) == before + 1
            until(lambda: open_sockets(server.pid) == before)
        assert http.get("/healthz").status_code == 200


UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def text_frame(event: dict[str, Any]) -> bytes:
    """Masked with zeros."""
    data = json.dumps(event).encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


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
    with plain(server) as http:
        slow = threading.Thread(target=http.get, args=("/slow",))
        slow.start()
        for _ in range(20):
            assert http.get("/healthz").status_code == 200
        assert http.post("/v1/responses", json={"input": "Hello"}).status_code == 200
        assert slow.is_alive()
        slow.join()


def test_row_30_code_that_blocks_the_loop_is_named(server: Server) -> None:
    with plain(server) as http:
        for _ in range(2):
            assert http.get("/stuck").status_code == 200
        until(lambda: "goes on after" in server.log)
    told = [line for line in server.log.splitlines() if "held up" in line]
    assert len(told) == 1, told  # the second time is nothing new
    assert "by stuck (" in told[0] and "own.py:14: time.sleep(1)" in told[0]


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


def test_row_31_too_many_connections_are_refused_and_a_probe_is_not(tmp_path: Path) -> None:
    with Server(tmp_path, {**SCRIPTED, "BACKTALK_MAX_CONNECTIONS": "4"}) as server, contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        until(lambda: httpx2.post(f"{server.url}/v1/responses", json={"input": "Hello"}).status_code == 503)
        reply = httpx2.post(f"{server.url}/v1/responses", json={"input": "Hello"})
        assert reply.json()["error"]["code"] == "service_unavailable"
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["connection"] == "close"
        with contextlib.closing(line_to(server)) as line:
            line.sendall(UPGRADE)
            assert line.recv(1000).startswith(b"HTTP/1.1 503")
        assert answers(server, "/healthz")
        stack.close()
        until(lambda: httpx2.post(f"{server.url}/v1/responses", json={"input": "Hello"}).status_code == 200)


def test_row_31_bodies_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    with Server(tmp_path, {**SCRIPTED, "BACKTALK_MAX_BODIES": "4000"}) as server, plain(server) as http:
        with contextlib.closing(line_to(server)) as line:  # 3,900 bytes are announced, and do not come
            line.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3900\r\n\r\n{")
            until(lambda: post(http, "x" * 200).status_code == 503)
            reply = post(http, "x" * 200)
            assert reply.json()["error"]["code"] == "service_unavailable" and "retry-after" in reply.headers
            assert post(http, "x").status_code == 200
            assert http.post("/v1/files", files={"file": b"y" * 9000}, data={"purpose": "user_data"}).is_success
        until(lambda: post(http, "x" * 200).status_code == 200)
        assert post(http, "x" * 9000).status_code == 200  # one alone is bounded by `max_body`


def post(http: httpx2.Client, text: str) -> httpx2.Response:
    return http.post("/v1/responses", json={"input": text})


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
