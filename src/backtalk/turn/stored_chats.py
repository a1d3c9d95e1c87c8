"""Stored chat completions: listed, read, changed, deleted."""

from collections.abc import Mapping, Sequence
from typing import Any

from backtalk.conversations import store as conversations
from backtalk.core.errors import NotFound
from backtalk.domain.caller import Caller
from backtalk.domain.intake import MAX_ITEMS
from backtalk.http.paging import Cursor
from backtalk.storage import Storage
from backtalk.turn import store
from backtalk.turn.chat_render import messages_of, response_id, stored_completion
from backtalk.turn.response import State
from backtalk.turn.service import choice_id, not_listed
from backtalk.turn.store import Stored

CHAT = "chat"
"""The wire that they came by."""
_AT_ONCE = 100


class StoredChats:
    """The chat completions of one database that were created with `store: true`, as wire objects."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def page(
        self, caller: Caller, cursor: Cursor, model: str | None, metadata: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """Up to `limit + 1` of them, those that were asked for."""
        found: list[dict[str, Any]] = []
        after = cursor.after and response_id(cursor.after)
        while len(found) <= cursor.limit:
            reading = Cursor(_AT_ONCE, cursor.order, after)
            rows = await self._storage.read(store.listing, caller.project, reading, CHAT)
            if rows is None:
                raise not_listed(cursor, "Chat completion")
            wanted = [row for row in rows[:_AT_ONCE] if _is_wanted(row.head, model, metadata)]
            whole = [(row.head, await self._choices(caller, row)) for row in wanted]
            found += [stored_completion(head, states) for head, states in whole if _have_ended(states)]
            if len(rows) <= _AT_ONCE:
                break
            after = rows[_AT_ONCE - 1].head["id"]
        return found[: cursor.limit + 1]

    async def get(self, caller: Caller, completion_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        found = await self._find(caller, completion_id)
        states = await self._choices(caller, found)
        if not _have_ended(states):
            raise _unknown(completion_id)
        return stored_completion(found.head, states)

    async def update(self, caller: Caller, completion_id: str, metadata: dict[str, str]) -> dict[str, Any]:
        found = await self._find(caller, completion_id)
        await self._storage.write(store.set_metadata, caller.project, found.head["id"], metadata)
        return await self.get(caller, completion_id)

    async def delete(self, caller: Caller, completion_id: str) -> dict[str, Any]:
        found = await self._find(caller, completion_id)
        for i in reversed(range(found.head.get("choices", 1))):
            await self._storage.write(store.remove, caller.project, choice_id(found.head["id"], i))
        return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}

    async def messages(self, caller: Caller, completion_id: str, cursor: Cursor) -> list[dict[str, Any]]:
        """Up to `limit + 1` messages of its input."""
        found = await self._find(caller, completion_id)
        reading = Cursor(MAX_ITEMS, "asc")
        items = await self._storage.read(
            conversations.list_items, caller.project, reading, response_id=found.head["id"]
        )
        messages = messages_of(items or [])
        if cursor.order == "desc":
            messages.reverse()
        if cursor.after is None:
            return messages[: cursor.limit + 1]
        at = next((i for i, message in enumerate(messages) if message["id"] == cursor.after), None)
        if at is None:
            raise not_listed(cursor, "Message")
        return messages[at + 1 : at + 2 + cursor.limit]

    async def _find(self, caller: Caller, completion_id: str) -> Stored:
        found = await self._storage.read(store.find, caller.project, response_id(completion_id))
        if found is None or found.wire != CHAT or found.state.status not in store.WHOLE:
            raise _unknown(completion_id)
        return found

    async def _choices(self, caller: Caller, first: Stored) -> list[State]:
        """The states of all choices of a completion. One that was deleted by itself is left out."""
        states = [first.state]
        for i in range(1, first.head.get("choices", 1)):
            other = await self._storage.read(store.find, caller.project, choice_id(first.head["id"], i))
            states += [other.state] if other else []
        return states


def _have_ended(states: Sequence[State]) -> bool:
    """Whether nothing of a completion is still being said: the choices end one by one."""
    return all(state.status not in store.RUNNING for state in states)


def _unknown(completion_id: str) -> NotFound:
    return NotFound(f"Chat completion with id '{completion_id[:128]}' not found.", param="completion_id")


def _is_wanted(head: dict[str, Any], model: str | None, metadata: Mapping[str, str]) -> bool:
    return model in (None, head["model"]) and all(head["metadata"].get(key) == text for key, text in metadata.items())
