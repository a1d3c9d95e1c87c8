"""A server that is told to stop, a database that is locked, a response deleted under its readers."""

import contextlib
import http.client
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from backtalk.testing import Server, client
from support import until

STALLS = "[[tokens:50]] [[stall:5]]"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    env = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
    with Server(tmp_path / "home", env, ["--grace", "1"]) as running:
        yield running


class Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, stream: Any) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.events: list[Any] = []
        self.start()

    def run(self) -> None:
        self.events.extend(self.stream)

    @property
    def id(self) -> str:
        return str(until(lambda: self.events)[0].response.id)

    def ended(self) -> list[Any]:
        self.join(40)
        assert not self.is_alive()
        assert [event.sequence_number for event in self.events] == list(range(len(self.events)))
        return self.events


def test_a_stopping_server_ends_what_is_open(server: Server) -> None:
    sdk = client(server.url)
    reader = Reader(sdk.responses.create(input=STALLS, stream=True))
    background = sdk.responses.create(input=STALLS, background=True)
    refused: list[Exception] = []

    def ask() -> None:
        try:
            sdk.responses.create(input="[[stall]]")
        except openai.APIStatusError as error:
            refused.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    until(lambda: len(reader.events) > 5)
    time.sleep(0.3)
    assert server.stop() == 0
    last = reader.ended()[-1]
    assert (last.type, last.response.backtalk) == ("response.failed", {"reason": "server_restarted"})
    asking.join(20)
    assert [error.status_code for error in refused] == [503]  # type: ignore[attr-defined]
    assert "Traceback" not in server.log
    server.start().wait_ready()
    for response_id in (reader.id, background.id):
        assert sdk.responses.retrieve(response_id).status == "failed"
    assert sdk.responses.retrieve(reader.id) == last.response


def test_who_asks_all_the_time_is_told_that_the_connection_ends(server: Server) -> None:
    """A connection that is closed under a request that was just sent is an error; one that was announced is not."""
    stopping = threading.Timer(0.5, server.stop)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as line:
        stopping.start()
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                line.request("GET", "/healthz")
                answer = line.getresponse()
                answer.read()
                assert answer.status == 200
    stopping.join(20)
    assert answer.headers["connection"] == "close"


def test_a_locked_database_costs_no_event(server: Server) -> None:
    sdk = client(server.url)
    reader = Reader(sdk.responses.create(input="[[pace:0.05]] [[tokens:40]]", stream=True))
    until(lambda: len(reader.events) > 5)
    lock = sqlite3.connect(server.home / "backtalk.sqlite", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(openai.InternalServerError) as refused:
        sdk.conversations.create()
    assert refused.value.status_code == 503
    lock.execute("COMMIT")
    lock.close()
    assert reader.ended()[-1].type == "response.completed"
    assert list(sdk.responses.retrieve(reader.id, stream=True)) == reader.events


@pytest.mark.parametrize("text", ["[[pace:0.02]] [[tokens:500]]", STALLS])
def test_a_response_deleted_under_its_readers(server: Server, text: str) -> None:
    sdk = client(server.url)
    first = Reader(sdk.responses.create(input=text, stream=True))
    second = Reader(sdk.responses.retrieve(first.id, stream=True))
    until(lambda: len(second.events) > 5)
    sdk.responses.delete(first.id)
    assert first.ended()[: len(second.ended())] == second.events
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)
    assert "Traceback" not in server.log


def test_a_request_that_has_no_time_left_is_told_to_come_again(server: Server) -> None:
    """The database is locked for longer than the server waits once it is told to stop."""
    lock = sqlite3.connect(server.home / "backtalk.sqlite", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    answers: list[httpx2.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{server.url}/v1/conversations", json={}, timeout=30)), daemon=True
    )
    asking.start()
    time.sleep(0.5)
    assert server.stop() == 0
    lock.close()
    asking.join(20)
    (answer,) = answers
    assert (answer.status_code, answer.headers["connection"], "retry-after" in answer.headers) == (503, "close", True)
    assert answer.json()["error"]["type"] == "server_error"
    assert "Traceback" not in server.log
