"""Streams as clients see them."""

import json
from typing import Any

import httpx2
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from backtalk.testing import check_transcript, read_transcript

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


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
    def checked(data: bytes, first: int = 0, *, complete: bool = True) -> list[dict[str, Any]]:
        """The events of a stream: frames as ours are, valid types, the grammar of OpenAI's streams."""
        *frames, done, rest = data.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        events = []
        for frame in frames:
            if frame.startswith(":"):
                continue
            name, payload = frame.split("\n")
            event = json.loads(payload.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            EVENT.validate_json(payload.removeprefix("data: "), strict=True)
            events.append(event)
        assert events == read_transcript(data)
        check_transcript(events, after=first - 1, complete=complete)
        return events
