"""`/v1/conversations` and their items."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path
from starlette.responses import Response

from backtalk.conversations.answers import ConversationList, ConversationObject, ItemList, ItemObject
from backtalk.conversations.service import Conversations, check_id
from backtalk.conversations.wire import AddItems, CreateConversation, UpdateConversation
from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_items, take_metadata
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
        return JSON(await conversations.create(caller, new, take_metadata(body.metadata)))

    @api.get(
        "",
        operation_id="listConversations",
        summary="List conversations",
        response_model=None,
        responses=answers(ConversationList),
    )
    async def listing(caller: CallerIs, limit: Limit20 = 20, order: Order = "desc", after: After = None) -> Response:
        return JSON(page(await conversations.list(caller, Cursor(limit, order, after)), limit))

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
        summary="Update a conversation's metadata",
        response_model=None,
        responses=answers(ConversationObject, 404),
    )
    async def update(caller: CallerIs, conversation_id: ConversationId, body: UpdateConversation) -> Response:
        return JSON(await conversations.update(caller, conversation_id, take_metadata(body.metadata)))

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
    async def add(caller: CallerIs, conversation_id: ConversationId, body: AddItems) -> Response:
        new = _no_references(take_items(body.items, "items", MOST))
        added = await conversations.add_items(caller, conversation_id, new)
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
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
    ) -> Response:
        found = await conversations.items(caller, conversation_id, Cursor(limit, order, after))
        return JSON(page(found, limit))

    @api.get(
        "/{conversation_id}/items/{item_id}",
        operation_id="retrieveConversationItem",
        summary="Retrieve an item",
        response_model=None,
        responses=answers(ItemObject, 404),
    )
    async def item(caller: CallerIs, conversation_id: ConversationId, item_id: ItemId) -> Response:
        return JSON(await conversations.item(caller, conversation_id, item_id))

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


def _no_references(items: list[Item]) -> list[Item]:
    for i, item in enumerate(items):
        if item["type"] == "item_reference":
            raise InvalidRequest(
                "A conversation takes items, not references to items.", param=f"items[{i}].type", code="invalid_value"
            )
    return items
