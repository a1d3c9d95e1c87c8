"""Finding a Backtalk to work with: a running server, or this process on the same database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backtalk.cli.backend import Backend, Unreachable
from backtalk.cli.over_http import OverHTTP

USUAL = "http://127.0.0.1:8000"
"""Where a server is looked for when none is named."""
_SILENCE = 60.0  # seconds; streams are pinged every 15


@asynccontextmanager
async def connect(url: str | None, key: str | None) -> AsyncIterator[Backend]:
    """The server at `url`; when none is named, the one at the usual place; when none is there, this process."""
    import aiohttp  # noqa: PLC0415  # lazy: heavy, and `backtalk serve` does not need it

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        server = OverHTTP(session, (url or USUAL).rstrip("/").removesuffix("/v1"))
        if await server.is_there():
            yield server
            return
    if url:
        raise Unreachable(
            f"no Backtalk server answers at {url}. Start one with `backtalk serve`, or leave --url out to work without."
        )
    from backtalk.cli.in_process import in_process  # noqa: PLC0415  # lazy: the whole application

    async with in_process() as backend:
        yield backend
