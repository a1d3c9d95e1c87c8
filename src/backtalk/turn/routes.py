"""`/v1/responses` and `/v1/chat/completions`: the wire in, the log out."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from backtalk.core.errors import BacktalkError, InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.http.caller import caller
from backtalk.http.paging import After, Cursor, Limit20, Order, page
from backtalk.http.route import JSON, router
from backtalk.http.sse import EventStream
from backtalk.turn import chat_wire, responses_wire
from backtalk.turn.chat_render import chunk_stream, completion
from backtalk.turn.chat_wire import CreateChatCompletion
from backtalk.turn.render import event_stream
from backtalk.turn.response import State, assemble, present
from backtalk.turn.responses_wire import CreateResponse
from backtalk.turn.runner import Run
from backtalk.turn.service import Turns

CallerIs = Annotated[Caller, Depends(caller)]
Include = Annotated[list[str] | None, Query(description="More to send, such as `file_search_call.results`.")]
IncludeBrackets = Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A Response; with `stream: true`, server-sent events that end with `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def routes(turns: Turns) -> APIRouter:
    """Both wires over one service."""
    api = router()
    _add_responses(api, turns)
    _add_stored(api, turns)
    _add_chat(api, turns)
    return api


def _add_responses(api: APIRouter, turns: Turns) -> None:
    @api.post("/v1/responses", tags=["Responses"], summary="Create a response", response_model=None, responses=_STREAM)
    async def create(request: Request, caller: CallerIs, body: CreateResponse) -> Response:
        include = body.include or ()
        run = await turns.open(responses_wire.to_turn(body, caller, _request_id(request)))
        if body.stream:
            chunks = event_stream(turns.runner.read(run), run.head, run.final, include=include)
            return EventStream(chunks, on_leave=lambda: turns.runner.client_left(run))
        if body.background:
            return JSON(assemble(run.head, State(status="queued"), include))
        await _ended(request, turns, run)
        return JSON(assemble(run.head, run.state, include))

    @api.get(
        "/v1/responses/{response_id}",
        tags=["Responses"],
        summary="Retrieve a response, or resume its stream",
        response_model=None,
        responses=_STREAM,
    )
    async def get(
        caller: CallerIs,
        response_id: str,
        stream: Annotated[bool, Query(description="Replay the events, then go on live.")] = False,
        starting_after: Annotated[
            int | None, Query(ge=-1, le=2**53, description="Only events with a larger sequence number.")
        ] = None,
        include: Include = None,
        include_brackets: IncludeBrackets = None,
    ) -> Response:
        wanted = [*(include or ()), *(include_brackets or ())]
        if not stream:
            if starting_after is not None:
                raise InvalidRequest(
                    "'starting_after' is only allowed with 'stream=true'.", param="starting_after", code="invalid_value"
                )
            return JSON(await turns.get(caller, response_id, wanted))
        after = -1 if starting_after is None else starting_after
        head, events, final = await turns.resume(caller, response_id, after)
        return EventStream(event_stream(events, head, final, after=after, include=wanted))


def _add_stored(api: APIRouter, turns: Turns) -> None:
    @api.delete("/v1/responses/{response_id}", tags=["Responses"], summary="Delete a response", response_model=None)
    async def delete(caller: CallerIs, response_id: str) -> Response:
        return JSON(await turns.delete(caller, response_id))

    @api.post(
        "/v1/responses/{response_id}/cancel", tags=["Responses"], summary="Cancel a response", response_model=None
    )
    async def cancel(caller: CallerIs, response_id: str) -> Response:
        return JSON(await turns.cancel(caller, response_id))

    @api.get(
        "/v1/responses/{response_id}/input_items",
        tags=["Responses"],
        summary="List a response's input items",
        response_model=None,
    )
    async def input_items(
        caller: CallerIs,
        response_id: str,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        include: Include = None,
    ) -> Response:
        found = await turns.input_items(caller, response_id, Cursor(limit, order, after))
        return JSON(page([present(item, include or ()) for item in found], limit))

    @api.get(
        "/v1/responses/{response_id}/context",
        tags=["Responses"],
        summary="What the prompt was made of: the context receipt",
        response_model=None,
    )
    async def context(caller: CallerIs, response_id: str) -> Response:
        return JSON(await turns.receipt(caller, response_id))


def _add_chat(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/chat/completions",
        tags=["Chat"],
        summary="Create a chat completion",
        response_model=None,
        responses=_STREAM,
    )
    async def chat(request: Request, caller: CallerIs, body: CreateChatCompletion) -> Response:
        run = await turns.open(chat_wire.to_turn(body, caller, _request_id(request)))
        if body.stream:
            usage = bool((body.stream_options or {}).get("include_usage"))
            chunks = chunk_stream(turns.runner.read(run), run.head, run.final, include_usage=usage)
            return EventStream(chunks, on_leave=lambda: turns.runner.client_left(run))
        await _ended(request, turns, run)
        return JSON(completion(run.head, run.state))


def _request_id(request: Request) -> str | None:
    state: dict[str, Any] = request.scope.get("state", {})
    return state.get("request_id")


async def _ended(request: Request, turns: Turns, run: Run) -> None:
    """Waits for a run's end while a client waits for one JSON answer. A client that leaves stops the run.

    Raises what made the run fail, so that a client sees a status and may retry.
    """
    watching = asyncio.create_task(_disconnected(request))
    ended = asyncio.create_task(run.ended.wait())
    try:
        await asyncio.wait((watching, ended), return_when=asyncio.FIRST_COMPLETED)
        if not run.ended.is_set():
            turns.runner.client_left(run)
            await ended
    finally:
        watching.cancel()
        ended.cancel()
    if run.error:
        raise run.error
    if run.state.status == "failed":
        raise BacktalkError((run.state.error or {}).get("message", "The response failed."))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
