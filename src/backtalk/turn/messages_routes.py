"""`/v1/messages`: Anthropic's wire in, the log out. Nothing is kept: its clients send the whole talk each time."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.openapi.models import Example
from starlette.responses import Response

from backtalk.domain.caller import Caller
from backtalk.http.caller import caller
from backtalk.http.openapi import Responses, answers
from backtalk.http.route import JSON, router
from backtalk.http.sse import EventStream
from backtalk.turn.answers import MESSAGE_STREAM, MessageObject, MessagesError, MessageTokens
from backtalk.turn.messages_render import message, message_stream
from backtalk.turn.messages_wire import CountMessageTokens, CreateMessage, to_count, to_turn
from backtalk.turn.run import Run
from backtalk.turn.service import Turns
from backtalk.turn.waiting import ended, record, request_id

CallerIs = Annotated[Caller, Depends(caller)]
_HELLO = [{"role": "user", "content": "Hello!"}]
_EXAMPLES: dict[str, Example] = {
    "message": {"summary": "A message", "value": {"max_tokens": 1024, "messages": _HELLO}},
    "stream": {"summary": "A stream", "value": {"max_tokens": 1024, "messages": _HELLO, "stream": True}},
}
_COUNT_EXAMPLES: dict[str, Example] = {"message": {"summary": "A message", "value": {"messages": _HELLO}}}
_PROBLEMS: dict[int | str, str] = {
    400: "Something in the request is wrong; the message begins with what.",
    401: "The key is missing or wrong: send it as `x-api-key` or `Authorization: Bearer …`.",
    404: "There is no such model.",
    429: "A model server limits its rate; `retry-after` says when to come again.",
    502: "A model server failed or could not be reached.",
    529: "Too much at once; `retry-after` says when to come again.",
    "default": "Any other error, in the same shape.",
}


def routes(turns: Turns) -> APIRouter:
    """The Messages wire over a service."""
    api = router()
    _add_messages(api, turns)
    _add_count(api, turns)
    return api


def _errors(*codes: int | str) -> Responses:
    """An operation's errors, in Anthropic's shape."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{MessagesError.__name__}"}}}
    return {code: {"description": _PROBLEMS[code], "content": content} for code in codes}


def _add_messages(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/messages",
        operation_id="createMessage",
        tags=["Messages"],
        summary="Create a message",
        response_model=None,
        responses=answers(
            MessageObject,
            description="A message; with `stream`, its blocks as server-sent events, ended by `message_stop`.",
            stream=MESSAGE_STREAM,
        )
        | _errors(*_PROBLEMS),
    )
    async def create(
        request: Request, caller: CallerIs, body: Annotated[CreateMessage, Body(openapi_examples=_EXAMPLES)]
    ) -> Response:
        """It is forgotten afterwards. The client sends the whole talk each time."""
        turn, places = to_turn(body, caller, request_id(request))
        with places.named():
            run = await turns.open(turn)
        record(request, run)
        if body.stream:
            chunks = message_stream(
                turns.runner.follow(run),
                run.head,
                run.final,
                estimated=run.receipt["estimated_tokens"],
                stopped_by=lambda: _stopped_by(run),
            )
            return EventStream(chunks, on_leave=lambda: turns.runner.client_left(run))
        with places.named():
            await ended(request, turns, run)
        return JSON(message(run.head, run.state, _stopped_by(run)))


def _add_count(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/messages/count_tokens",
        operation_id="countMessageTokens",
        tags=["Messages"],
        summary="Count the tokens of a message's input",
        response_model=None,
        responses=answers(MessageTokens) | _errors(400, 401, 404, "default"),
    )
    async def count(
        caller: CallerIs, body: Annotated[CountMessageTokens, Body(openapi_examples=_COUNT_EXAMPLES)]
    ) -> Response:
        """What the prompt of this body would cost: this server's estimate, without asking the model."""
        turn, places = to_count(body, caller)
        with places.named():
            found: dict[str, Any] = {"input_tokens": await turns.runner.count_input(turn)}
        return JSON(found)


def _stopped_by(run: Run) -> str | None:
    return run.output.finish.stop_sequence if run.output.finish else None
