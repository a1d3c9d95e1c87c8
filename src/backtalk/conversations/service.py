"""Conversations: made, listed, changed, forgotten."""

from collections.abc import Sequence
from typing import Any

from backtalk.conversations import store
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.ids import new_id
from backtalk.domain.caller import Caller
from backtalk.domain.items import Item, id_prefix
from backtalk.http.paging import Cursor
from backtalk.storage import Connection, Storage


class Conversations:
    """The conversations of one database. What a method returns are wire objects of the Conversations API."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def create(self, caller: Caller, new: Sequence[Item], metadata: dict[str, str]) -> dict[str, Any]:
        conversation_id = new_id("conv")
        numbered = [with_id(item) for item in new]

        def insert(connection: Connection) -> int:
            created = store.create(connection, caller.project, conversation_id, metadata)
            _append(connection, caller.project, conversation_id, numbered)
            return created

        created = await self._storage.write(insert)
        return _object(conversation_id, created, metadata)

    async def get(self, caller: Caller, conversation_id: str) -> dict[str, Any]:
        return _wire(
            self._known(await self._storage.read(store.find, caller.project, conversation_id), conversation_id)
        )

    async def list(self, caller: Caller, cursor: Cursor) -> list[dict[str, Any]]:
        return [_wire(row) for row in await self._storage.read(store.listing, caller.project, cursor)]

    async def update(self, caller: Caller, conversation_id: str, metadata: dict[str, str]) -> dict[str, Any]:
        await self.get(caller, conversation_id)
        await self._storage.write(store.set_metadata, caller.project, conversation_id, metadata)
        return await self.get(caller, conversation_id)

    async def delete(self, caller: Caller, conversation_id: str) -> dict[str, Any]:
        if not await self._storage.write(store.remove, caller.project, conversation_id):
            raise _unknown(conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    async def add_items(self, caller: Caller, conversation_id: str, new: Sequence[Item]) -> Sequence[Item]:
        """Appends items and returns them with their ids."""
        numbered = [with_id(item) for item in new]

        def insert(connection: Connection) -> None:
            self._known(store.find(connection, caller.project, conversation_id, lock=True), conversation_id)
            _append(connection, caller.project, conversation_id, numbered)

        await self._storage.write(insert)
        return numbered

    async def items(self, caller: Caller, conversation_id: str, cursor: Cursor) -> Sequence[Item]:
        await self.get(caller, conversation_id)
        return await self._storage.read(store.list_items, caller.project, cursor, conversation_id=conversation_id)

    async def item(self, caller: Caller, conversation_id: str, item_id: str) -> Item:
        await self.get(caller, conversation_id)
        item = await self._storage.read(store.conversation_item, caller.project, conversation_id, item_id)
        if item is None:
            raise NotFound(f"Item with id '{item_id}' not found in conversation '{conversation_id}'.")
        return item

    async def delete_item(self, caller: Caller, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Removes an item; answers the conversation, as OpenAI does."""
        await self.item(caller, conversation_id, item_id)
        await self._storage.write(store.remove_from_conversation, caller.project, conversation_id, item_id)
        return await self.get(caller, conversation_id)

    @staticmethod
    def _known(row: Any | None, conversation_id: str) -> Any:
        if row is None:
            raise _unknown(conversation_id)
        return row


def with_id(item: Item) -> Item:
    """The item under a fresh id of its own: rows of the tree need one, whatever a client sent."""
    return {**item, "id": new_id(id_prefix(item["type"]))}


def check_id(conversation_id: str, param: str = "conversation_id") -> None:
    """Raises InvalidRequest for what cannot be a conversation's id."""
    if not conversation_id.startswith("conv_"):
        raise InvalidRequest(
            f"Invalid '{param}': '{conversation_id[:80]}'. Expected an id that begins with 'conv_'.",
            param=param,
            code="invalid_value",
        )


def _append(connection: Connection, project: str, conversation_id: str, new: Sequence[Item]) -> None:
    parent = store.last_of_conversation(connection, project, conversation_id)
    store.add_items(connection, project, new, parent_id=parent)
    store.append_to_conversation(connection, project, conversation_id, [item["id"] for item in new])


def _unknown(conversation_id: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id}' not found.")


def _wire(row: Any) -> dict[str, Any]:
    return _object(row.id, row.created_at, row.metadata)


def _object(conversation_id: str, created: int, metadata: dict[str, str]) -> dict[str, Any]:
    return {"id": conversation_id, "object": "conversation", "created_at": created, "metadata": metadata}
