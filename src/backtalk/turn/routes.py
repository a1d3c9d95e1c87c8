"""`/v1/responses`: the wire in, the log out."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, WebSocket
from fastapi.openapi.models import Example
from starlette.responses import Response

from backtalk.conversations.answers import ItemList
from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_include
from backtalk.domain.items import present
from backtalk.http.caller import caller
from backtalk.http.openapi import Deleted, answers
from backtalk.http.paging import After, Cursor, Limit20, Order, page
from backtalk.http.route import JSON, router
from backtalk.http.sse import EventStream
from backtalk.turn import responses_wire
from backtalk.turn.answers import (
    RESPONSE_STREAM,
    CompactedResponse,
    ContextReceipt,
    InputTokens,
    ResponseObject,
)
from backtalk.turn.render import event_stream
from backtalk.turn.response import State, asked_for, assemble
from backtalk.turn.responses_wire import CreateResponse
from backtalk.turn.service import Turns
from backtalk.turn.socket import ResponsesSocket, SocketLimits
from backtalk.turn.waiting import ended, record, request_id, while_connected

CallerIs = Annotated[Caller, Depends(caller)]
ResponseId = Annotated[str, Path(description="A response's id, `resp_…`.")]
Include = Annotated[list[str] | None, Query(description="More to send, such as `file_search_call.results`.")]
IncludeBrackets = Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)]

_STREAMED = "A response; with `stream`, its events as server-sent events, ended by `data: [DONE]`."
_FAILURES = (404, 429, 502, 503)

_RESPONSE_EXAMPLES: dict[str, Example] = {
    "question": {"summary": "A question", "value": {"input": "Who won Super Bowl 50?"}},
    "stream": {"summary": "A stream", "value": {"input": "Who won Super Bowl 50?", "stream": True}},
    "function": {
        "summary": "A function of yours",
        "value": {
            "input": "What is the weather in Paris?",
            "tools": [
                {
                    "type": "function",
                    "name": "get_weather",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                }
            ],
        },
    },
}
_COMPACT_EXAMPLES: dict[str, Example] = {
    "talk": {
        "summary": "A talk",
        "value": {"model": "backtalk/extractive", "input": [{"role": "user", "content": "My name is Ada."}]},
    }
}


def routes(turns: Turns, sockets: SocketLimits) -> APIRouter:
    """The Responses wire over a service."""
    api = router()
    _add_socket(api, turns, sockets)
    _add_responses(api, turns)
    _add_stored(api, turns)
    return api


def _add_responses(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/responses",
        operation_id="createResponse",
        tags=["Responses"],
        summary="Create a response",
        response_model=None,
        responses=answers(ResponseObject, *_FAILURES, description=_STREAMED, stream=RESPONSE_STREAM),
    )
    async def create(
        request: Request, caller: CallerIs, body: Annotated[CreateResponse, Body(openapi_examples=_RESPONSE_EXAMPLES)]
    ) -> Response:
        """Puts the context together, calls the model, and answers with the whole response or with its events.

        It is stored unless `store` is false: go on from it with `previous_response_id`. With `background: true` the
        answer comes at once, as `queued`, and the work goes on whoever is connected.

        The same URL is a WebSocket: send this body as `{"type": "response.create", …}`, and the events come as frames.
        """
        include = body.include or ()
        run = await turns.open(responses_wire.to_turn(body, caller, request_id(request)))
        record(request, run)
        if body.stream:
            chunks = event_stream(turns.runner.follow(run), run.head, run.final, include=include)
            return EventStream(chunks, on_leave=lambda: turns.runner.client_left(run))
        if body.background:
            return JSON(assemble(run.head, State(status="queued"), include))
        await ended(request, turns, run)
        return JSON(assemble(run.head, run.state, include))

    @api.post(
        "/v1/responses/input_tokens",
        operation_id="countResponseInputTokens",
        tags=["Responses"],
        summary="Count the tokens of a response's input",
        response_model=None,
        responses=answers(InputTokens, 404),
    )
    async def input_tokens(
        caller: CallerIs, body: Annotated[CreateResponse, Body(openapi_examples=_RESPONSE_EXAMPLES)]
    ) -> Response:
        """What the prompt of this body would cost, with what comes before it: this server's estimate, without asking the model."""
        count = await turns.runner.count_input(responses_wire.to_turn(body, caller, None))
        return JSON({"object": "response.input_tokens", "input_tokens": count})

    @api.post(
        "/v1/responses/compact",
        operation_id="compactResponse",
        tags=["Responses"],
        summary="Make a talk short",
        response_model=None,
        responses=answers(CompactedResponse, *_FAILURES),
    )
    async def compact(
        request: Request, caller: CallerIs, body: Annotated[CreateResponse, Body(openapi_examples=_COMPACT_EXAMPLES)]
    ) -> Response:
        """The user's messages, and an item that stands for all the rest: send `output` as the input of what follows.

        The model writes the summary; where none is connected that writes, excerpts stand in. Nothing is stored.
        """
        if body.model is None:
            raise InvalidRequest(
                "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
            )
        turn = responses_wire.to_turn(body, caller, request_id(request))
        return JSON(await while_connected(request, turns.compact(turn)))

    @api.get(
        "/v1/responses/{response_id}",
        operation_id="retrieveResponse",
        tags=["Responses"],
        summary="Retrieve a response, or resume its stream",
        response_model=None,
        responses=answers(ResponseObject, 404, description=_STREAMED, stream=RESPONSE_STREAM),
    )
    async def get(
        caller: CallerIs,
        response_id: ResponseId,
        stream: Annotated[bool, Query(description="Replay the events, then go on live.")] = False,
        starting_after: Annotated[
            int | None, Query(ge=-1, le=2**53, description="Only events with a larger sequence number.")
        ] = None,
        include: Include = None,
        include_brackets: IncludeBrackets = None,
    ) -> Response:
        """With `stream=true`, its events from the first on, or behind `starting_after`, byte for byte as they were."""
        wanted = take_include([*(include or ()), *(include_brackets or ())])
        if not stream:
            if starting_after is not None:
                raise InvalidRequest(
                    "'starting_after' is only allowed with 'stream=true'.", param="starting_after", code="invalid_value"
                )
            return JSON(await turns.get(caller, response_id, wanted))
        after = -1 if starting_after is None else starting_after
        head, events, final = await turns.resume(caller, response_id, after)
        return EventStream(event_stream(events, head, final, after=after, include=asked_for(head, wanted)))


def _add_socket(api: APIRouter, turns: Turns, limits: SocketLimits) -> None:
    @api.websocket("/v1/responses")
    async def talk(socket: WebSocket) -> None:
        await ResponsesSocket(socket, turns, socket.scope["state"]["caller"], limits).serve()


def _add_stored(api: APIRouter, turns: Turns) -> None:
    @api.delete(
        "/v1/responses/{response_id}",
        operation_id="deleteResponse",
        tags=["Responses"],
        summary="Delete a response",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def delete(caller: CallerIs, response_id: ResponseId) -> Response:
        return JSON(await turns.delete(caller, response_id))

    @api.post(
        "/v1/responses/{response_id}/cancel",
        operation_id="cancelResponse",
        tags=["Responses"],
        summary="Cancel a response",
        response_model=None,
        responses=answers(ResponseObject, 404),
    )
    async def cancel(caller: CallerIs, response_id: ResponseId) -> Response:
        """What was said so far is kept. One that has ended is answered as it is."""
        return JSON(await turns.cancel(caller, response_id))

    @api.get(
        "/v1/responses/{response_id}/input_items",
        operation_id="listResponseInputItems",
        tags=["Responses"],
        summary="List a response's input items",
        response_model=None,
        responses=answers(ItemList, 404),
    )
    async def input_items(
        caller: CallerIs,
        response_id: ResponseId,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        include: Include = None,
        include_brackets: IncludeBrackets = None,
    ) -> Response:
        wanted = take_include([*(include or ()), *(include_brackets or ())])
        found = await turns.input_items(caller, response_id, Cursor(limit, order, after))
        return JSON(page([present(item, wanted) for item in found], limit))

    @api.get(
        "/v1/responses/{response_id}/context",
        operation_id="retrieveResponseContext",
        tags=["Responses"],
        summary="Retrieve the context receipt",
        response_model=None,
        responses=answers(ContextReceipt, 404),
    )
    async def context(caller: CallerIs, response_id: ResponseId) -> Response:
        """Why did it say that? Which items and passages went into the prompt, what they cost, and what was cut."""
        return JSON(await turns.receipt(caller, response_id))
