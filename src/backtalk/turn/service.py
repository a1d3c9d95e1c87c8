"""Stored responses: read, resumed, cancelled, deleted."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec

from backtalk.conversations import store as conversations
from backtalk.core.clock import now
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.ids import new_id
from backtalk.domain.caller import Caller
from backtalk.domain.items import Item
from backtalk.domain.model import Usage
from backtalk.domain.turn import TurnRequest
from backtalk.events import Log
from backtalk.http.paging import Cursor
from backtalk.storage import Storage
from backtalk.turn import store
from backtalk.turn.render import Following
from backtalk.turn.response import State, asked_for, assemble, usage_object
from backtalk.turn.run import Run
from backtalk.turn.runner import Runner
from backtalk.turn.store import Stored


class Turns:
    """Everything that can be asked of a turn, without a word of HTTP."""

    def __init__(self, storage: Storage, log: Log, runner: Runner) -> None:
        self._storage = storage
        self._log = log
        self.runner = runner

    async def open(self, request: TurnRequest) -> Run:
        """Starts a turn."""
        return await self.runner.open(request)

    async def open_choices(self, request: TurnRequest, n: int) -> list[Run]:
        """Starts the same turn `n` times. The runs after the first have its id with a number behind it."""
        runs = [await self.open(_copy(request, None))]
        try:
            for i in range(1, n):
                runs.append(await self.open(_copy(request, choice_id(runs[0].id, i))))
        except BaseException:
            for run in runs:
                self.runner.client_left(run)
            raise
        return runs

    async def compact(self, request: TurnRequest) -> dict[str, Any]:
        """A talk made short. Nothing of it is stored."""
        usage = Usage()
        stay, item = await self.runner.compact(request, usage)
        return {
            "id": new_id("resp"),
            "object": "response.compaction",
            "created_at": now(),
            "output": [*stay, item],
            "usage": usage_object(usage),
        }

    async def find(self, caller: Caller, response_id: str) -> Stored:
        """Raises NotFound, also for another project's response."""
        found = await self._storage.read(store.find, caller.project, response_id)
        if found is None:
            raise unknown(response_id)
        return found

    async def get(self, caller: Caller, response_id: str, include: Collection[str]) -> dict[str, Any]:
        found = await self.find(caller, response_id)
        return assemble(found.head, found.state, asked_for(found.head, include))

    async def resume(
        self, caller: Caller, response_id: str, after: int
    ) -> tuple[dict[str, Any], Following, Callable[[], Awaitable[State]]]:
        """(head, events above `after`, the final state once they have ended) of any stored response."""
        found = await self.find(caller, response_id)

        async def final() -> State:
            return (await self.find(caller, response_id)).state

        return found.head, self._log.follow(caller.project, response_id, after), final

    async def cancel(self, caller: Caller, response_id: str) -> dict[str, Any]:
        """Stops a response; one that has ended is answered as it is."""
        found = await self.find(caller, response_id)
        run = self.runner.live(caller, response_id)
        if run:
            run.stop("cancelled")
            await run.final()
        elif not found.ended:
            await self.runner.cancel_elsewhere(caller, response_id)
        return await self.get(caller, response_id, ())

    async def delete(self, caller: Caller, response_id: str) -> dict[str, Any]:
        run = self.runner.live(caller, response_id)
        if run:
            run.stop("cancelled")
            await run.final()
        if not await self._storage.write(store.remove, caller.project, response_id):
            raise unknown(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    async def input_items(self, caller: Caller, response_id: str, cursor: Cursor) -> Sequence[Item]:
        await self.find(caller, response_id)
        found = await self._storage.read(conversations.list_items, caller.project, cursor, response_id=response_id)
        if found is None:
            raise not_listed(cursor, "Item")
        return found

    async def receipt(self, caller: Caller, response_id: str) -> dict[str, Any]:
        """The context receipt: what the prompt was made of."""
        found = await self._storage.read(store.receipt, caller.project, response_id)
        if found is None:
            raise unknown(response_id)
        return found


def unknown(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:128]}' not found.")


def not_listed(cursor: Cursor, what: str) -> InvalidRequest:
    """The error for a cursor that a list does not know."""
    words = f"{what} with id '{(cursor.after or '')[:128]}' is not in this list."
    return InvalidRequest(words, param="after", code="invalid_value")


def choice_id(first_id: str, i: int) -> str:
    """The id of a choice's response, by that of the first one's."""
    return f"{first_id}_{i}" if i else first_id


def _copy(request: TurnRequest, response_id: str | None) -> TurnRequest:
    """The same turn, to be run again: opening one fills its head and its input in."""
    wire = request.wire if response_id is None else f"{request.wire}_choice"
    head = {**request.head, "id": response_id}
    return msgspec.structs.replace(request, head=head, input=list(request.input), wire=wire)
