"""One real server for all contract tests, with ScriptedModel, and real SDK clients."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backtalk.testing import Server, client

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "wire(*ids): the requirements that a test proves")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("contract")
    env = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted", "BACKTALK_DISCOVER": "0"}
    with Server(home, env) as running:
        yield running


@pytest.fixture(scope="session")
def sdk(server: Server) -> openai.OpenAI:
    return client(server.url, max_retries=0)


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    """Plain HTTP, for what an SDK would hide."""
    with httpx2.Client(base_url=server.url + "/v1", timeout=30) as plain:
        yield plain


class Wire:
    """Streams as they come: raw bytes, and events that validate against the SDK's types."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http

    def stream(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Creates a streamed response and returns its checked events."""
        with self.http.stream("POST", "/responses", json={**body, "stream": True}) as reply:
            assert reply.status_code == 200, reply.read()
            return self.checked(reply.read())

    def replay(self, response_id: str, after: int | None = None, **query: Any) -> bytes:
        params = {"stream": "true", **query} | ({} if after is None else {"starting_after": after})
        reply = self.http.get(f"/responses/{response_id}", params=params)
        assert reply.status_code == 200, reply.text
        return reply.content

    @staticmethod
    def checked(data: bytes, first: int = 0) -> list[dict[str, Any]]:
        """The events of a stream: well-formed frames, valid types, no gap in the numbers."""
        *frames, done, rest = data.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        events = []
        for frame in frames:
            if frame.startswith(":"):
                continue
            name, payload = frame.split("\n")
            event = json.loads(payload.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            EVENT.validate_python(event)
            events.append(event)
        assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
        return events


@pytest.fixture(scope="session")
def wire(http: httpx2.Client) -> Wire:
    return Wire(http)
