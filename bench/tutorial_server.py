"""What a tutorial builds: FastAPI, httpx, a StreamingResponse that passes chunks through. The peer of `bench_tokens.py`."""

import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=None, limits=httpx.Limits(max_connections=None))


@app.post("/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    body = await request.json()

    async def lines() -> AsyncIterator[str]:
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line:
                    yield line + "\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
