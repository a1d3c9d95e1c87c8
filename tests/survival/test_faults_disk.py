"""Rows 16 and 17: a disk that is full, and a database that another process has locked."""

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from backtalk.testing import Server, check_transcript, read_transcript
from support import lacking, until

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
LONG = "x" * 200_000


class SmallDisk:
    """A file system of its own, of a few megabytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (2**16, 512, 1):
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", path], capture_output=True)
    if mounted.returncode:
        lacking("a file system of a few megabytes needs `mount -t tmpfs`: be root")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("locked"), SCRIPTED) as running:
        yield running


def plain(server: Server) -> httpx2.Client:
    return httpx2.Client(base_url=f"{server.url}/v1", timeout=60)


def check_error(reply: httpx2.Response, status: int, code: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == code


def test_row_16_a_full_disk_refuses_writes_and_serves_reads(disk: SmallDisk, tmp_path: Path) -> None:
    with (
        Server(tmp_path / "log", {**SCRIPTED, "BACKTALK_HOME": str(disk.path / "home")}) as server,
        plain(server) as http,
    ):
        kept = http.post("/responses", json={"input": "My name is Ada."}).json()
        disk.fill()
        until(lambda: http.post("/conversations", json={"metadata": {"a": "b"}}).status_code != 200)
        check_error(http.post("/conversations", json={}), 507, "storage_full")
        check_error(http.post("/responses", json={"input": LONG}), 507, "storage_full")
        check_error(http.post("/responses", json={"input": LONG, "stream": True}), 507, "storage_full")
        files = {"file": ("a.txt", b"a" * 100_000)}
        check_error(http.post("/files", data={"purpose": "assistants"}, files=files), 507, "storage_full")
        assert http.get(f"/responses/{kept['id']}").json() == kept
        assert http.get("/models").status_code == http.get("/files").status_code == 200
        disk.free()
        again = http.post("/responses", json={"input": "What is my name?", "previous_response_id": kept["id"]})
        assert again.status_code == 200 and "Ada" in again.text
        assert http.post("/files", data={"purpose": "assistants"}, files=files).status_code == 200
        assert http.get("/files").json()["data"][0]["filename"] == "a.txt"
        assert "Traceback" not in server.log
    check_whole(disk.path / "home" / "backtalk.sqlite")


def check_whole(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_row_16_a_stream_that_meets_a_full_disk_ends_once_there_is_room(disk: SmallDisk, tmp_path: Path) -> None:
    with (
        Server(tmp_path / "log", {**SCRIPTED, "BACKTALK_HOME": str(disk.path / "home")}) as server,
        plain(server) as http,
    ):
        body = {"input": "[[pace:0.01]] [[tokens:3000]]", "stream": True}
        seen = b""
        with http.stream("POST", "/responses", json=body) as reply:
            for piece in reply.iter_bytes():
                if not seen:
                    disk.fill()
                    threading.Timer(1, disk.free).start()
                seen += piece
        shown = read_transcript(seen)
        response_id = shown[0]["response"]["id"]
        assert shown[-1]["type"] in ("response.failed", "response.completed")
        check_transcript(shown)
        assert http.get(f"/responses/{response_id}").json() == shown[-1]["response"]
        assert read_transcript(http.get(f"/responses/{response_id}?stream=true").content) == shown
    check_whole(disk.path / "home" / "backtalk.sqlite")


# ── row 17 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lock(server: Server) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(server.home / "backtalk.sqlite", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield connection
    if connection.in_transaction:
        connection.execute("COMMIT")
    connection.close()


def test_row_17_a_lock_of_three_seconds_is_waited_for(server: Server, lock: sqlite3.Connection) -> None:
    threading.Timer(3, lock.execute, ["COMMIT"]).start()
    with plain(server) as http:
        assert http.get("/files").status_code == 200, "reading has to wait for nobody"
        assert lock.in_transaction
        reply = http.post("/responses", json={"input": "My name is Ada."})
        assert (reply.status_code, lock.in_transaction) == (200, False), reply.text


def test_row_17_a_lock_of_ten_seconds_is_a_503_that_says_when_to_come_again(
    server: Server, lock: sqlite3.Connection
) -> None:
    start = time.monotonic()
    with plain(server) as http:
        refused = http.post("/responses", json={"input": "Hello"})
        check_error(refused, 503, "service_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        if time.monotonic() - start < 9:
            assert lock.in_transaction
        lock.execute("COMMIT")
        assert http.post("/responses", json={"input": "Hello"}).status_code == 200
    assert "Traceback" not in server.log
