"""Runs an ASGI application on a port of its own, for tests that come through the front door."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def served(app: Any, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[str]:
    """The base URL of `app`, served until the block ends."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, **{"lifespan": "off", "log_level": "warning", "server_header": False, **options})
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.should_exit = True
        await task
        listener.close()
