"""`/v1/chat/completions` and the older `/v1/completions`: the wire in, the log out."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from fastapi.openapi.models import Example
from starlette.responses import Response

from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_metadata
from backtalk.http.caller import caller
from backtalk.http.openapi import Deleted, answers
from backtalk.http.paging import After, Cursor, Limit20, Order, page
from backtalk.http.route import JSON, router
from backtalk.http.sse import EventStream
from backtalk.turn import chat_wire, completions_wire
from backtalk.turn.answers import (
    CHAT_STREAM,
    ChatCompletion,
    ChatCompletionList,
    ChatMessageList,
    TextCompletion,
)
from backtalk.turn.chat_render import ChunkRenderer, chunk_stream, completion
from backtalk.turn.chat_wire import CreateChatCompletion, UpdateChatCompletion
from backtalk.turn.completions_render import TextRenderer, text_completion
from backtalk.turn.completions_wire import CreateCompletion
from backtalk.turn.merged import merged
from backtalk.turn.service import Turns
from backtalk.turn.stored_chats import StoredChats
from backtalk.turn.waiting import ended, leave, record, request_id

CallerIs = Annotated[Caller, Depends(caller)]
CompletionId = Annotated[str, Path(description="A stored chat completion's id, `chatcmpl-…`.")]
_FAILURES = (404, 429, 502, 503)
_STREAMED = "A chat completion; with `stream`, chunks as server-sent events, ended by `data: [DONE]`."
_EXAMPLES: dict[str, Example] = {
    "message": {"summary": "A message", "value": {"messages": [{"role": "user", "content": "Hello!"}]}},
    "stream": {
        "summary": "A stream",
        "value": {
            "messages": [{"role": "user", "content": "Hello!"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "stored": {
        "summary": "Stored",
        "value": {"messages": [{"role": "user", "content": "Hello!"}], "store": True, "metadata": {"topic": "demo"}},
    },
}


def routes(turns: Turns, stored: StoredChats) -> APIRouter:
    """Chat Completions over the service of turns."""
    api = router(tags=["Chat"])
    _add_create(api, turns)
    _add_stored(api, stored)
    _add_completions(api, turns)
    return api


def _add_create(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/chat/completions",
        operation_id="createChatCompletion",
        summary="Create a chat completion",
        response_model=None,
        responses=answers(ChatCompletion, *_FAILURES, description=_STREAMED, stream=CHAT_STREAM),
    )
    async def create(
        request: Request, caller: CallerIs, body: Annotated[CreateChatCompletion, Body(openapi_examples=_EXAMPLES)]
    ) -> Response:
        """It is forgotten afterwards, unless `store` is true. The client sends the whole talk each time."""
        runs = await turns.open_choices(chat_wire.to_turn(body, caller, request_id(request)), body.n or 1)
        record(request, *runs)
        if not body.stream:
            await ended(request, turns, *runs)
            return JSON(completion(runs[0].head, [run.state for run in runs]))
        usage = bool((body.stream_options or {}).get("include_usage"))
        head = runs[0].head
        if len(runs) == 1:
            chunks = chunk_stream(turns.runner.follow(runs[0]), head, runs[0].final, include_usage=usage)
        else:
            renderers = [ChunkRenderer(head, include_usage=usage, index=i) for i in range(len(runs))]
            chunks = merged(turns.runner, runs, [one.frames for one in renderers], renderers[0].usage)
        return EventStream(chunks, on_leave=lambda: leave(turns, *runs))


def _add_stored(api: APIRouter, stored: StoredChats) -> None:
    @api.get(
        "/v1/chat/completions",
        operation_id="listChatCompletions",
        summary="List stored chat completions",
        response_model=None,
        responses=answers(ChatCompletionList),
    )
    async def listing(
        request: Request,
        caller: CallerIs,
        limit: Limit20 = 20,
        order: Order = "asc",
        after: After = None,
        model: Annotated[str | None, Query(description="Only those of this model.")] = None,
    ) -> Response:
        """Those that were created with `store: true`. `metadata[key]=value` asks for those with this metadata."""
        wanted = {
            name[9:-1]: value
            for name, value in request.query_params.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        found = await stored.page(caller, Cursor(limit, order, after), model, wanted)
        return JSON(page(found, limit))

    @api.get(
        "/v1/chat/completions/{completion_id}",
        operation_id="retrieveChatCompletion",
        summary="Retrieve a stored chat completion",
        response_model=None,
        responses=answers(ChatCompletion, 404),
    )
    async def get(caller: CallerIs, completion_id: CompletionId) -> Response:
        return JSON(await stored.get(caller, completion_id))

    @api.post(
        "/v1/chat/completions/{completion_id}",
        operation_id="updateChatCompletion",
        summary="Update a stored chat completion's metadata",
        response_model=None,
        responses=answers(ChatCompletion, 404),
    )
    async def update(caller: CallerIs, completion_id: CompletionId, body: UpdateChatCompletion) -> Response:
        return JSON(await stored.update(caller, completion_id, take_metadata(body.metadata)))

    @api.delete(
        "/v1/chat/completions/{completion_id}",
        operation_id="deleteChatCompletion",
        summary="Delete a stored chat completion",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def delete(caller: CallerIs, completion_id: CompletionId) -> Response:
        return JSON(await stored.delete(caller, completion_id))

    @api.get(
        "/v1/chat/completions/{completion_id}/messages",
        operation_id="listChatCompletionMessages",
        summary="List the messages of a stored chat completion",
        response_model=None,
        responses=answers(ChatMessageList, 404),
    )
    async def messages(
        caller: CallerIs,
        completion_id: CompletionId,
        limit: Limit20 = 20,
        order: Order = "asc",
        after: After = None,
    ) -> Response:
        """What was sent to the model."""
        found = await stored.messages(caller, completion_id, Cursor(limit, order, after))
        return JSON(page(found, limit))


def _add_completions(api: APIRouter, turns: Turns) -> None:
    @api.post(
        "/v1/completions",
        operation_id="createCompletion",
        summary="Create a text completion (legacy)",
        response_model=None,
        responses=answers(TextCompletion, *_FAILURES),
    )
    async def create(request: Request, caller: CallerIs, body: CreateCompletion) -> Response:
        """The older form: each prompt is one message to the model, and the text of its answer comes back."""
        n = body.n or 1
        asked = completions_wire.to_turns(body, caller, request_id(request))
        runs = [run for turn in asked for run in await turns.open_choices(turn, n)]
        record(request, *runs)
        echoes = [text for text in completions_wire.echoes(body) for _ in range(n)]
        if not body.stream:
            await ended(request, turns, *runs)
            return JSON(text_completion(runs[0].head, [run.state for run in runs], echoes))
        usage = bool((body.stream_options or {}).get("include_usage"))
        renderers = [
            TextRenderer(runs[0].head, include_usage=usage, index=i, echo=echo) for i, echo in enumerate(echoes)
        ]
        chunks = merged(turns.runner, runs, [one.frames for one in renderers], renderers[0].usage)
        return EventStream(chunks, on_leave=lambda: leave(turns, *runs))
