"""What is known of an idempotency key, and what follows from it."""

import asyncio
import contextlib
import logging
from hashlib import sha256
from typing import Any

from backtalk.core.clock import now
from backtalk.core.errors import BacktalkError, Conflict
from backtalk.core.owner import is_dead
from backtalk.idempotency import store
from backtalk.idempotency.store import DONE, RUNNING
from backtalk.storage import Connection, Storage
from backtalk.storage.once import Mark

log = logging.getLogger("backtalk")

KEPT_SECONDS = 24 * 3600
SWEEP_SECONDS = 3600.0
_ABANDONED_SECONDS = 3600
"""When a request of another machine's process, of which we cannot know whether it lives, is taken for dead."""


class InFlight(BacktalkError):
    """The first request with this key is still being answered: the same one again later gets its answer."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_in_use"

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still in progress; try again in a moment.",
            headers={"retry-after": "1", "retry-after-ms": "1000"},
        )


class Claim:
    """A key that this request holds, under the name of its project."""

    def __init__(self, storage: Storage, project: str, key: str) -> None:
        self._storage = storage
        self._project = project
        self._key = key
        self.made = False

    @property
    def mark(self) -> Mark:
        """Says in the transaction that makes something that it was made."""

        def write(connection: Connection, response_id: str | None) -> None:
            store.made(connection, self._project, self._key, response_id)
            self.made = True  # a transaction that is undone after this raises, and is no answer to keep

        return write

    async def done(self, status: int, headers: list[list[str]], body: bytes | None) -> None:
        await self._storage.write(store.done, self._project, self._key, status, headers, body)

    async def release(self) -> None:
        await self._storage.write(store.release, self._project, self._key)


class Keys:
    """The idempotency keys of one database. `owner` names this process."""

    def __init__(self, storage: Storage, owner: str) -> None:
        self._storage = storage
        self._owner = owner
        self._sweeper: asyncio.Task[None] | None = None

    async def claim(self, project: str, key: str, fingerprint: str) -> Claim | Any:
        """The claim of a request that is to be carried out, or the row of one that was. Raises Conflict and InFlight."""
        hashed = sha256(key.encode()).hexdigest()
        row = await self._storage.write(store.claim, project, hashed, fingerprint, self._owner, now())
        claim = Claim(self._storage, project, hashed)
        if row is None:
            return claim
        if row.fingerprint != fingerprint:
            raise Conflict(
                "This Idempotency-Key was used for another request: take a new key for a new request.",
                code="idempotency_key_reused",
            )
        if row.state == DONE:
            return row
        if not self._is_dead(row):
            raise InFlight
        if row.state == RUNNING:
            if not await self._storage.write(store.take_over, project, hashed, row.owner, self._owner):
                raise InFlight
            return claim
        if row.response_id is None:
            raise Conflict(
                "The first request with this Idempotency-Key was carried out, but the server went down before it had "
                "answered. Look for what it made; nothing was made again.",
                code="idempotency_answer_lost",
            )
        return row

    def _is_dead(self, row: Any) -> bool:
        return is_dead(row.owner, self._owner) or now() - row.created_at > _ABANDONED_SECONDS

    async def start(self) -> None:
        """Begins to forget keys that are older than a day."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self._storage.write(store.sweep, now() - KEPT_SECONDS)
            except Exception as error:
                log.warning("old idempotency keys could not be deleted: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)
