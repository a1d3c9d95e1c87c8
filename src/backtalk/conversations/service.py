"""Conversations: made, listed, changed, forgotten."""

from collections.abc import Collection, Sequence
from typing import Any

from backtalk.conversations import store
from backtalk.conversations.tree import Tree, newest, newest_below, path
from backtalk.conversations.words import terms, title_of
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.ids import new_id
from backtalk.domain.caller import Caller
from backtalk.domain.items import PARENTS, Item, id_prefix, present
from backtalk.http.paging import Cursor
from backtalk.storage import Connection, Storage
from backtalk.storage.once import once

ALL = "all"
"""In place of a branch: every item of every branch."""


class Conversations:
    """The conversations of one database. What a method returns are wire objects of the Conversations API."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def create(
        self, caller: Caller, new: Sequence[Item], metadata: dict[str, str], title: str | None = None
    ) -> dict[str, Any]:
        conversation_id = new_id("conv")
        numbered = [with_id(item) for item in new]

        def insert(connection: Connection) -> Any:
            store.create(connection, caller.project, conversation_id, metadata, title or None)
            _append(connection, caller.project, conversation_id, numbered)
            return store.find(connection, caller.project, conversation_id)

        return _wire(await self._storage.write(once(insert)))

    async def get(self, caller: Caller, conversation_id: str) -> dict[str, Any]:
        return _wire(await self._storage.read(_known, caller.project, conversation_id))

    async def list(self, caller: Caller, cursor: Cursor, query: str = "") -> list[dict[str, Any]]:
        """Those that contain all words of `query`, if it has any."""
        rows = await self._storage.read(store.listing, caller.project, cursor, terms(query))
        if rows is None:
            raise _unknown_cursor(cursor)
        return [_wire(row) for row in rows]

    async def update(self, caller: Caller, conversation_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """`changes` may have `metadata` and `title`."""

        def change(connection: Connection) -> Any:
            _known(connection, caller.project, conversation_id, lock=True)
            if "metadata" in changes:
                store.set_metadata(connection, caller.project, conversation_id, changes["metadata"])
            if "title" in changes:
                store.set_title(connection, caller.project, conversation_id, changes["title"] or None)
            return store.find(connection, caller.project, conversation_id)

        return _wire(await self._storage.write(change))

    async def delete(self, caller: Caller, conversation_id: str) -> dict[str, Any]:
        if not await self._storage.write(store.remove, caller.project, conversation_id):
            raise _unknown(conversation_id)
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    async def add_items(
        self,
        caller: Caller,
        conversation_id: str,
        new: Sequence[Item],
        *,
        branched: bool = False,
        parent_id: str | None = None,
        include: Collection[str] = (),
    ) -> Sequence[Item]:
        """Appends items and returns them with their ids.

        With `branched` they are a branch that begins beneath `parent_id`, or anew when that is None.
        """
        numbered = [with_id(item) for item in new]

        def insert(connection: Connection) -> str | None:
            _known(connection, caller.project, conversation_id, lock=True)
            if branched:
                return _append_branch(connection, caller.project, conversation_id, numbered, parent_id)
            return _append(connection, caller.project, conversation_id, numbered)

        parents = [await self._storage.write(once(insert)), *(item["id"] for item in numbered)]
        return [_shown(item, parent, include) for item, parent in zip(numbered, parents, strict=False)]

    async def items(
        self,
        caller: Caller,
        conversation_id: str,
        cursor: Cursor,
        *,
        branch: str | None = None,
        include: Collection[str] = (),
    ) -> Sequence[Item]:
        """Up to `limit + 1` items of the branch through an item, of the default branch, or of `ALL`."""

        def read(connection: Connection) -> list[Item]:
            _known(connection, caller.project, conversation_id)
            tree = store.tree(connection, caller.project, conversation_id)
            ids = _page(_branch(tree, branch, conversation_id), cursor)
            found = store.find_items(connection, caller.project, ids)
            return [_shown(found[item_id], tree[item_id], include) for item_id in ids if item_id in found]

        return await self._storage.read(read)

    async def item(self, caller: Caller, conversation_id: str, item_id: str, include: Collection[str] = ()) -> Item:
        def read(connection: Connection) -> Item:
            item = _item(connection, caller.project, conversation_id, item_id)
            wanted = PARENTS in include
            parent = store.tree(connection, caller.project, conversation_id).get(item_id) if wanted else None
            return _shown(item, parent, include)

        return await self._storage.read(read)

    async def delete_item(self, caller: Caller, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Removes an item, and the title if it was made of it; answers the conversation, as OpenAI does."""
        project = caller.project

        def remove(connection: Connection) -> Any:
            row = _known(connection, project, conversation_id, lock=True)
            item = _item(connection, project, conversation_id, item_id)
            store.remove_from_conversation(connection, project, conversation_id, item_id)
            if row.title and row.title == title_of([item]):
                store.title_from_items(connection, project, conversation_id)
            return store.find(connection, project, conversation_id)

        return _wire(await self._storage.write(remove))


def with_id(item: Item) -> Item:
    """The item under a fresh id of its own: rows of the tree need one, whatever a client sent.

    A `parent_id` is our word on where an item was, and no part of it.
    """
    numbered = {**item, "id": new_id(id_prefix(item["type"]))}
    numbered.pop("parent_id", None)
    return numbered


def check_id(conversation_id: str, param: str = "conversation_id") -> None:
    """Raises InvalidRequest for what cannot be a conversation's id."""
    if not conversation_id.startswith("conv_"):
        raise InvalidRequest(
            f"Invalid '{param}': '{conversation_id[:80]}'. Expected an id that begins with 'conv_'.",
            param=param,
            code="invalid_value",
        )


def _append(connection: Connection, project: str, conversation_id: str, new: Sequence[Item]) -> str | None:
    """Appends items, and returns the id of the one that they follow on."""
    parent_id = store.last_of_conversation(connection, project, conversation_id)
    store.add_items(connection, project, new, parent_id=parent_id)
    store.append_to_conversation(connection, project, conversation_id, [item["id"] for item in new])
    return parent_id


def _append_branch(
    connection: Connection, project: str, conversation_id: str, new: Sequence[Item], parent_id: str | None
) -> str | None:
    if parent_id is not None and store.conversation_item(connection, project, conversation_id, parent_id) is None:
        raise InvalidRequest(
            f"Item with id '{parent_id[:128]}' not found in conversation '{conversation_id}'.",
            param="parent_id",
            code="invalid_value",
        )
    store.add_items(connection, project, new, parent_id=parent_id)
    store.append_to_conversation(connection, project, conversation_id, [item["id"] for item in new], branched=True)
    return parent_id


def _branch(tree: Tree, branch: str | None, conversation_id: str) -> Sequence[str]:
    """The ids of a branch, from its root on."""
    if branch == ALL:
        return list(tree)
    if not branch:
        return path(tree, newest(tree))
    if branch not in tree:
        raise _unknown_item(branch, conversation_id, param="branch")
    return path(tree, newest_below(tree, branch))


def _page(ids: Sequence[str], cursor: Cursor) -> Sequence[str]:
    """Up to `limit + 1` ids beyond the cursor."""
    ordered = ids[::-1] if cursor.order == "desc" else ids
    start = 0
    if cursor.after:
        if cursor.after not in ordered:
            raise _unknown_cursor(cursor)
        start = ordered.index(cursor.after) + 1
    return ordered[start : start + cursor.limit + 1]


def _shown(item: Item, parent_id: str | None, include: Collection[str]) -> Item:
    shown = present(item, include)
    return {**shown, "parent_id": parent_id} if PARENTS in include else shown


def _known(connection: Connection, project: str, conversation_id: str, *, lock: bool = False) -> Any:
    row = store.find(connection, project, conversation_id, lock=lock)
    if row is None:
        raise _unknown(conversation_id)
    return row


def _item(connection: Connection, project: str, conversation_id: str, item_id: str) -> Item:
    _known(connection, project, conversation_id)
    item = store.conversation_item(connection, project, conversation_id, item_id)
    if item is None:
        raise _unknown_item(item_id, conversation_id)
    return item


def _unknown(conversation_id: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id}' not found.", param="conversation_id")


def _unknown_item(item_id: str, conversation_id: str, param: str | None = None) -> NotFound:
    return NotFound(f"Item with id '{item_id[:128]}' not found in conversation '{conversation_id}'.", param=param)


def _unknown_cursor(cursor: Cursor) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': '{(cursor.after or '')[:128]}' is not in this list.", param="after", code="invalid_value"
    )


def _wire(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "conversation",
        "created_at": row.created_at,
        "metadata": row.metadata,
        "title": row.title,
    }
