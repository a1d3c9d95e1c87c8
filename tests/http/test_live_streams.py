"""Live events go from the log to the line without waking a task: that must hold for lines that are slow, cut or wrapped."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251  # a user may have one
from starlette.requests import Request

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve
from support import until

TOKENS = 30_000


def numbers(text: str) -> list[int]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line)["sequence_number"] for line in lines]


@pytest.mark.parametrize("store", [True, False])
def test_a_line_that_is_full_gets_the_rest_later(tmp_path: Path, store: bool) -> None:
    """The model says some megabytes while nobody reads: the run does not wait, and not a byte is lost or doubled."""
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()])
    with serve(app) as url:
        at = urlsplit(url)
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((at.hostname, at.port))
            body = {"model": "scripted", "input": f"[[tokens:{TOKENS}]]", "stream": True, "store": store}
            data = json.dumps(body).encode()
            head = f"POST /v1/responses HTTP/1.1\r\nhost: {at.netloc}\r\ncontent-type: application/json\r\n"
            line.sendall(head.encode() + f"connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
            if store:
                until(lambda: httpx2.get(f"{url}/readyz").status_code == 200 and app.runner.running == 0, 60)
            line.settimeout(60)
            text = b"".join(iter(lambda: line.recv(65_536), b"")).decode()
    found = numbers(unchunked(text))
    assert found == list(range(len(found)))
    assert len(found) > TOKENS
    assert "data: [DONE]" in text


def unchunked(text: str) -> str:
    """The body of a chunked answer."""
    rest, parts = text.partition("\r\n\r\n")[2], []
    while rest:
        size, _, rest = rest.partition("\r\n")
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return "".join(parts)


async def test_a_middleware_of_the_users_that_waits_in_its_send(tmp_path: Path) -> None:
    """BaseHTTPMiddleware and one whose `send` sleeps: the stream is whole, and each send runs in the stream's own task."""
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()])
    tasks: set[Any] = set()

    class Sleepy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def slow(message: Any) -> None:
                tasks.add(asyncio.current_task())
                async with asyncio.timeout(5):
                    await asyncio.sleep(0.001)
                await send(message)

            await self.app(scope, receive, slow if scope["type"] == "http" else send)

    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.add_middleware(Sleepy)
    with serve(app) as url:
        body = {"model": "scripted", "input": "[[tokens:200]] [[pace:0.002]]", "stream": True}
        async with httpx2.AsyncClient(timeout=60) as http:
            answers = await asyncio.gather(*[http.post(f"{url}/v1/responses", json=body) for _ in range(3)])
    for answer in answers:
        found = numbers(answer.text)
        assert found == list(range(len(found)))
        assert "response.completed" in answer.text
    assert None not in tasks
