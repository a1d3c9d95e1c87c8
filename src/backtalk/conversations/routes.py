"""`/v1/conversations` and their items."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query
from starlette.responses import Response

from backtalk.conversations.answers import ConversationList, ConversationObject, ItemList, ItemObject
from backtalk.conversations.service import Conversations, check_id
from backtalk.conversations.wire import AddItems, CreateConversation, UpdateConversation
from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_include, take_items, take_metadata
from backtalk.domain.items import Item
from backtalk.http.caller import caller
from backtalk.http.openapi import Deleted, answers
from backtalk.http.paging import After, Cursor, Limit20, Order, page
from backtalk.http.route import JSON, router

MOST = 20
CallerIs = Annotated[Caller, Depends(caller)]


def known_form(conversation_id: Annotated[str, Path(description="A conversation's id, `conv_…`.")]) -> str:
    """A path's conversation id, if it can be one."""
    check_id(conversation_id)
    return conversation_id


ConversationId = Annotated[str, Depends(known_form)]
ItemId = Annotated[str, Path(description="An item's id, such as `msg_…`.")]


def known_includes(
    include: Annotated[
        list[str] | None, Query(description="More to send, such as `file_search_call.results` or `backtalk.parent_id`.")
    ] = None,
    include_brackets: Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)] = None,
) -> list[str]:
    """What is to be sent besides."""
    return take_include([*(include or ()), *(include_brackets or ())])


Include = Annotated[list[str], Depends(known_includes)]


def routes(conversations: Conversations) -> APIRouter:
    """The Conversations API over a service."""
    api = router(prefix="/v1/conversations", tags=["Conversations"])

    @api.post(
        "",
        operation_id="createConversation",
        summary="Create a conversation",
        response_model=None,
        responses=answers(ConversationObject),
    )
    async def create(caller: CallerIs, body: Annotated[CreateConversation | None, Body()] = None) -> Response:
        """Name it as `conversation` when you create responses: each goes on from it and is added to it."""
        body = body or CreateConversation()
        new = _no_references(take_items(body.items or [], "items", MOST))
        return JSON(await conversations.create(caller, new, take_metadata(body.metadata), body.title))

    @api.get(
        "",
        operation_id="listConversations",
        summary="List conversations",
        response_model=None,
        responses=answers(ConversationList),
    )
    async def listing(
        caller: CallerIs,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        query: Annotated[
            str, Query(max_length=512, description="Only those that contain all these words in title or messages.")
        ] = "",
    ) -> Response:
        return JSON(page(await conversations.list(caller, Cursor(limit, order, after), query), limit))

    @api.get(
        "/{conversation_id}",
        operation_id="retrieveConversation",
        summary="Retrieve a conversation",
        response_model=None,
        responses=answers(ConversationObject, 404),
    )
    async def get(caller: CallerIs, conversation_id: ConversationId) -> Response:
        return JSON(await conversations.get(caller, conversation_id))

    @api.post(
        "/{conversation_id}",
        operation_id="updateConversation",
        summary="Update a conversation's metadata or title",
        response_model=None,
        responses=answers(ConversationObject, 404),
    )
    async def update(caller: CallerIs, conversation_id: ConversationId, body: UpdateConversation) -> Response:
        return JSON(await conversations.update(caller, conversation_id, _changes(body)))

    @api.delete(
        "/{conversation_id}",
        operation_id="deleteConversation",
        summary="Delete a conversation",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def delete(caller: CallerIs, conversation_id: ConversationId) -> Response:
        """Responses keep their items."""
        return JSON(await conversations.delete(caller, conversation_id))

    @api.post(
        "/{conversation_id}/items",
        operation_id="createConversationItems",
        summary="Append items",
        response_model=None,
        responses=answers(ItemList, 404),
    )
    async def add(caller: CallerIs, conversation_id: ConversationId, body: AddItems, include: Include) -> Response:
        """With `parent_id` they begin a branch beneath that item, as an edited message does."""
        new = _no_references(take_items(body.items, "items", MOST))
        branched = "parent_id" in body.model_fields_set
        added = await conversations.add_items(
            caller, conversation_id, new, branched=branched, parent_id=body.parent_id, include=include
        )
        return JSON(page(added, len(added)))

    @api.get(
        "/{conversation_id}/items",
        operation_id="listConversationItems",
        summary="List items",
        response_model=None,
        responses=answers(ItemList, 404),
    )
    async def items(
        caller: CallerIs,
        conversation_id: ConversationId,
        include: Include,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        branch: Annotated[
            str | None, Query(description="An item's id: the branch through it. `all`: every item of every branch.")
        ] = None,
    ) -> Response:
        """The items from the first to the one appended last. Other branches have to be asked for."""
        cursor = Cursor(limit, order, after)
        return JSON(
            page(await conversations.items(caller, conversation_id, cursor, branch=branch, include=include), limit)
        )

    @api.get(
        "/{conversation_id}/items/{item_id}",
        operation_id="retrieveConversationItem",
        summary="Retrieve an item",
        response_model=None,
        responses=answers(ItemObject, 404),
    )
    async def item(caller: CallerIs, conversation_id: ConversationId, item_id: ItemId, include: Include) -> Response:
        return JSON(await conversations.item(caller, conversation_id, item_id, include))

    @api.delete(
        "/{conversation_id}/items/{item_id}",
        operation_id="deleteConversationItem",
        summary="Delete an item",
        response_model=None,
        responses=answers(ConversationObject, 404),
    )
    async def delete_item(caller: CallerIs, conversation_id: ConversationId, item_id: ItemId) -> Response:
        """Answers the conversation."""
        return JSON(await conversations.delete_item(caller, conversation_id, item_id))

    return api


def _changes(body: UpdateConversation) -> dict[str, Any]:
    """What was sent."""
    if not body.model_fields_set & {"metadata", "title"}:
        raise InvalidRequest(
            "Missing required parameter: 'metadata'. Send it, or a title.",
            param="metadata",
            code="missing_required_parameter",
        )
    changes: dict[str, Any] = body.model_dump(include={"title"}, exclude_unset=True)
    return changes | ({"metadata": take_metadata(body.metadata)} if "metadata" in body.model_fields_set else {})


def _no_references(items: list[Item]) -> list[Item]:
    for i, item in enumerate(items):
        if item["type"] == "item_reference":
            raise InvalidRequest(
                "A conversation takes items, not references to items.", param=f"items[{i}].type", code="invalid_value"
            )
    return items
