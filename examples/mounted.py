"""Backtalk inside a FastAPI application that was there before, with its own routes, middleware, sockets and lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket

import backtalk

seen: list[str] = []


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    seen.append("up")
    yield
    seen.append("down")


app = FastAPI(lifespan=lifespan)
talk = backtalk.mount(app)


@app.get("/me")
async def me(who: Annotated[backtalk.Caller, Depends(backtalk.caller)], later: BackgroundTasks) -> dict[str, str]:
    later.add_task(seen.append, "background")
    return {"project": who.project}


@app.websocket("/chat")
async def chat(socket: WebSocket) -> None:
    await socket.accept()
    question = await socket.receive_text()
    async for event in talk.stream(question):
        if event["type"] == "response.output_text.delta":
            await socket.send_text(event["delta"])
    await socket.close()
