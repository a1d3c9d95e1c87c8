"""What `/v1/conversations` answers, for `/openapi.json`."""

from typing import Literal

from msgspec import Struct

from backtalk.http.openapi import Listing


class ConversationObject(Struct):
    """A talk that is kept."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]
    title: str | None


class ConversationList(Listing):
    """A page of conversations."""

    data: list[ConversationObject]


class ItemObject(Struct):
    """A message, a call, a call's output: `type` says which, and what else is in it.

    With `include=backtalk.parent_id` also `parent_id`, the item of the conversation that it follows on.
    """

    id: str
    type: str


class ItemList(Listing):
    """A page of items."""

    data: list[ItemObject]


ANSWERS = (ConversationObject, ConversationList, ItemList)
