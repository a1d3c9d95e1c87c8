"""Streams past everything between application and connection: only where nobody stands there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backtalk import Backtalk, Settings, mount
from backtalk.http import direct
from backtalk.http.protocol import Protocol
from backtalk.testing import ScriptedModel, check_transcript, read_transcript
from running import served

BODY = {"model": "scripted", "input": "[[tokens:40]] [[pace:0.002]]", "stream": True}


class Counted:
    """Counts what goes through `send`: somebody's own middleware, or an application around ours."""

    def __init__(self, app: ASGIApp, seen: list[bytes]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            self.seen.append(message.get("body", b""))
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What went past."""
    chunks: list[bytes] = []
    write = direct.Direct.write

    def noted(self: direct.Direct, chunk: bytes) -> bool:
        done = write(self, chunk)
        if done:
            chunks.append(chunk)
        return done

    monkeypatch.setattr(direct.Direct, "write", noted)
    return chunks


def backtalk(home: Path, **options: Any) -> Backtalk:
    return Backtalk(Settings(home=home, discover=False), models=[ScriptedModel()], **options)


async def stream(app: Any, **headers: str) -> bytes:
    async with served(app, lifespan="on", http=Protocol) as url, httpx2.AsyncClient(base_url=url, timeout=30) as http:
        reply = await http.post("/v1/responses", json=BODY, headers=headers)
    events = read_transcript(reply.content)
    check_transcript(events)
    assert events[-1]["type"] == "response.completed"
    return reply.content


async def test_a_stream_goes_straight_to_its_connection(tmp_path: Path, written: list[bytes]) -> None:
    content = await stream(backtalk(tmp_path))
    assert len(written) > 5
    assert b"".join(written) in content


async def with_middleware(home: Path, seen: list[bytes]) -> bytes:
    app = backtalk(home)
    app.add_middleware(Counted, seen=seen)
    return await stream(app)


async def given_at_the_start(home: Path, seen: list[bytes]) -> bytes:
    from starlette.middleware import Middleware

    return await stream(backtalk(home, middleware=[Middleware(Counted, seen=seen)]))


async def wrapped(home: Path, seen: list[bytes]) -> bytes:
    return await stream(Counted(backtalk(home), seen))


async def mounted(home: Path, seen: list[bytes]) -> bytes:
    host = FastAPI()
    host.add_middleware(Counted, seen=seen)
    mount(host, Settings(home=home, discover=False), models=[ScriptedModel()])
    return await stream(host)


@pytest.mark.parametrize("how", [with_middleware, given_at_the_start, wrapped, mounted])
async def test_who_stands_between_sees_every_byte(
    tmp_path: Path, written: list[bytes], how: Callable[..., Any]
) -> None:
    seen: list[bytes] = []
    content = await how(tmp_path, seen)
    assert (written, b"".join(seen)) == ([], content)


async def test_what_is_kept_for_an_idempotency_key_is_all_of_it(tmp_path: Path, written: list[bytes]) -> None:
    app = backtalk(tmp_path)
    body = BODY | {"store": False}
    async with served(app, lifespan="on", http=Protocol) as url, httpx2.AsyncClient(base_url=url, timeout=30) as http:
        first, again = [
            await http.post("/v1/responses", json=body, headers={"idempotency-key": "one"}) for _ in range(2)
        ]
    assert again.headers["idempotent-replayed"] == "true" and again.content == first.content
    assert written == []
