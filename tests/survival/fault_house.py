"""A Backtalk whose model servers stand behind fault proxies, all in this process; and what a process can be asked about."""

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.testing import check_transcript, read_transcript
from backtalk.testing.proxy import FaultProxy
from running import served

sys.path.append(str(Path(__file__).parents[1] / "models"))  # where the fake of a model server lives
from fake_upstream import Behaviour, FakeUpstream, Line, delta, events, fake_upstream, tokens

__all__ = [
    "Behaviour", "FakeUpstream", "House", "Line", "delta", "events", "fake_upstream", "house", "memory", "open_files",
    "open_sockets", "said", "tokens",
]  # fmt: skip


@dataclass
class House:
    app: Backtalk
    http: httpx2.AsyncClient
    fake: FakeUpstream
    proxy: FaultProxy

    async def ask(self, **fields: Any) -> httpx2.Response:
        """A response, not streamed."""
        headers = fields.pop("headers", None)
        body = {"model": "a/m", "input": "hi", **fields}
        return await self.http.post("/v1/responses", json=body, headers=headers)

    async def stream(self, **fields: Any) -> tuple[bytes, list[dict[str, Any]]]:
        """What came over the wire, and its events, their grammar checked."""
        reply = await self.ask(stream=True, **fields)
        assert reply.status_code == 200, reply.text
        found = read_transcript(reply.content)
        check_transcript(found)
        return reply.content, found

    async def stored(self, response_id: str) -> dict[str, Any]:
        reply = await self.http.get(f"/v1/responses/{response_id}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@contextlib.asynccontextmanager
async def house(home: Path, behaviour: Behaviour, *, upstream: Any = None, **settings: Any) -> AsyncIterator[House]:
    """`upstream` are further fields of the model server's settings."""
    async with contextlib.AsyncExitStack() as stack:
        fake = await stack.enter_async_context(fake_upstream(behaviour))
        port = urlsplit(fake.url).port
        assert port
        proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", port))
        entry = {"name": "a", "url": proxy.url_for("/v1"), "models": ["m"], **(upstream or {})}
        app = Backtalk(Settings(home=home, upstreams=[entry], discover=False, **settings))
        url = await stack.enter_async_context(served(app, lifespan="on"))
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=60))
        yield House(app, http, fake, proxy)


def said(response: dict[str, Any]) -> str:
    """The text of a response."""
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def open_files(pid: int | None = None) -> int:
    """How many a process has."""
    return len(list(Path(f"/proc/{pid or 'self'}/fd").iterdir()))


def open_sockets(pid: int) -> int:
    """How many of a process's files are sockets."""
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            links.append(str(file.readlink()))
    return sum(link.startswith("socket:") for link in links)


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes of memory of a process; `VmHWM` is the most that it had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
