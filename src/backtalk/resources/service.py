"""What may be done with a typed object, and how the searchable ones stay in step with their documents."""

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from backtalk.core.errors import Conflict, InvalidRequest, NotFound, TooLarge
from backtalk.core.ids import new_id
from backtalk.core.text import has_lone_surrogate
from backtalk.domain.caller import Caller
from backtalk.domain.documents import Documents
from backtalk.http.paging import Cursor
from backtalk.jobs.service import Job, Jobs
from backtalk.resources import store
from backtalk.resources.store import Field, Filters, Kind, Record
from backtalk.storage import Storage

Object: TypeAlias = dict[str, Any]

MOST_BYTES = 2**20
"""Of an object as JSON, and of a request's body."""
MOST_DEPTH = 30
"""MariaDB reads JSON that is nested up to 32 deep."""
_PATCH_TRIES = 100


class Resources:
    """The objects of all kinds and projects. What a method returns are wire objects."""

    def __init__(self, storage: Storage, jobs: Jobs, documents: Documents) -> None:
        self._storage = storage
        self._jobs = jobs
        self._documents = documents
        self._kinds: set[str] = set()
        jobs.register(store.DOCUMENT, self._update_document)
        jobs.register(store.SWEEP, self._sweep)

    def declare(self, name: str, *, searchable: bool) -> Kind:
        """Raises ValueError for a name that is taken, or is none."""
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
            raise ValueError(f"'{name}' cannot name a resource: use lower-case letters, digits, '_' and '-'.")
        if name in self._kinds:
            raise ValueError(f"There is a resource named '{name}' already.")
        self._kinds.add(name)
        return Kind(name, searchable)

    async def create(self, caller: Caller, kind: Kind, data: Object) -> Object:
        """Raises InvalidRequest or TooLarge for what cannot be stored; so do `replace` and `patch`."""
        _check(data)
        record = await self._storage.write(store.add, caller.project, kind, new_id(kind.name), data)
        return self._changed(kind, record)

    async def get(self, caller: Caller, kind: Kind, object_id: str) -> Object:
        """Raises NotFound, as all methods that take an id do."""
        return _wire(await self._find(caller, kind, object_id))

    async def listing(
        self, caller: Caller, kind: Kind, cursor: Cursor, order_by: Field | None, filters: Filters
    ) -> list[Object]:
        """Up to `cursor.limit + 1` objects."""
        records = None
        if cursor.after is None or _can_be_id(kind, cursor.after):
            records = await self._storage.read(store.page, caller.project, kind.name, cursor, order_by, filters)
        if records is None:
            raise _no_cursor()
        return [_wire(record) for record in records]

    async def replace(self, caller: Caller, kind: Kind, object_id: str, data: Object) -> Object:
        _check(data)
        record = None
        if _can_be_id(kind, object_id):
            record = await self._storage.write(store.replace, caller.project, kind, object_id, data)
        if record is None:
            raise _unknown(kind, object_id)
        return self._changed(kind, record)

    async def patch(self, caller: Caller, kind: Kind, object_id: str, change: Callable[[Object], Object]) -> Object:
        """Stores what `change` makes of the object; it is asked again when somebody else was quicker."""
        for _ in range(_PATCH_TRIES):
            before = (await self._find(caller, kind, object_id)).data
            after = change(before)
            _check(after)
            record = await self._storage.write(store.replace, caller.project, kind, object_id, after, before)
            if record is not None:
                return self._changed(kind, record)
        raise Conflict("Too many requests change this object at once.")

    async def delete(self, caller: Caller, kind: Kind, object_id: str) -> None:
        known = _can_be_id(kind, object_id)
        if not known or not await self._storage.write(store.remove, caller.project, kind, object_id):
            raise _unknown(kind, object_id)
        self._jobs.wake()

    async def search(self, caller: Caller, kind: Kind, query: str, cursor: Cursor, filters: Filters) -> list[Object]:
        """Up to `cursor.limit + 1` of the objects that fit a query, best first."""
        store_id = await self._store(caller.project, kind.name)
        hits = await self._documents.search(caller.project, store_id, query)
        if hits is None:
            await self._storage.write(store.forget_store, caller.project, kind.name, store_id)
            hits = []
        found = await self._storage.read(store.of_documents, caller.project, kind.name, hits, filters) if hits else {}
        ranked = [_wire(found[hit]) for hit in hits if hit in found]
        if cursor.after is not None:
            ids = [one["id"] for one in ranked]
            if cursor.after not in ids:
                raise _no_cursor()
            ranked = ranked[ids.index(cursor.after) + 1 :]
        return ranked[: cursor.limit + 1]

    async def _find(self, caller: Caller, kind: Kind, object_id: str) -> Record:
        record = None
        if _can_be_id(kind, object_id):
            record = await self._storage.read(store.find, caller.project, kind.name, object_id)
        if record is None:
            raise _unknown(kind, object_id)
        return record

    def _changed(self, kind: Kind, record: Record) -> Object:
        if kind.searchable:
            self._jobs.wake()
        return _wire(record)

    # --- documents

    async def _update_document(self, job: Job) -> None:
        """Gives an object a document that says what the object says now, or none. Run again, it starts over.

        The row names its document, so the old one goes first: a run that is cut off leaves nothing that is found but
        outdated. Of two runs at once, the one that comes second reads the row again.
        """
        project, kind, object_id = job.project, job.payload["kind"], job.payload["id"]
        while (record := await self._storage.read(store.find, project, kind, object_id)) is not None:
            text = as_text(record.data)
            new = await self._documents.put(project, f"{object_id}.md", text) if text else None
            await self._drop(project, record.document)
            if await self._storage.write(store.set_document, project, kind, object_id, record.document, new):
                await self._drop(project, record.document)  # again: its own run may have attached it just now
                await self._attach(project, kind, object_id, new)
                return
            await self._drop(project, new)
        await self._drop(project, job.payload.get("document"))

    async def _attach(self, project: str, kind: str, object_id: str, document: str | None) -> None:
        if document is None:
            return
        store_id, attributes = await self._store(project, kind), {"resource": kind, "id": object_id}
        if not await self._documents.attach(project, store_id, document, attributes):
            await self._storage.write(store.forget_store, project, kind, store_id)
            await self._store(project, kind)  # its sweep comes by here too
        record = await self._storage.read(store.find, project, kind, object_id)
        if record is None or record.document != document:
            await self._drop(project, document)

    async def _drop(self, project: str, document: str | None) -> None:
        if document:
            await self._documents.drop(project, document)

    async def _store(self, project: str, kind: str) -> str:
        """The vector store of a kind. A new one is filled with what is there already."""
        known = await self._storage.read(store.store_of, project, kind)
        if known:
            return known
        made = await self._documents.open_store(project, kind)
        kept = await self._storage.write(store.keep_store, project, kind, made)
        if kept != made:
            await self._documents.drop_store(project, made)
        self._jobs.wake()
        return kept

    async def _sweep(self, job: Job) -> None:
        await self._storage.write(store.sweep, job.project, job.payload["kind"], job.payload["after"])
        self._jobs.wake()


def as_text(data: Object) -> str:
    """What an object says: a line `field: value` for each text, and for each list of texts."""
    texts = {name: _text(value) for name, value in data.items()}
    return "\n".join(f"{name}: {text}" for name, text in texts.items() if text)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(one for one in value if isinstance(one, str))
    return value.strip() if isinstance(value, str) else ""


def merge(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): objects are merged, null removes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def _wire(record: Record) -> Object:
    ours = {"id": record.id, "created_at": record.created_at, "updated_at": record.updated_at}
    return {"id": record.id} | record.data | ours


def _check(data: Object) -> None:
    check_value(data)
    if len(msgspec.json.encode(data)) > MOST_BYTES:
        raise TooLarge(f"The object is larger than {MOST_BYTES:,} bytes.")


def check_value(value: Any, depth: int = 0) -> None:
    """Raises InvalidRequest for JSON that not every database keeps and looks into."""
    if depth > MOST_DEPTH:
        raise InvalidRequest(f"The object is nested more than {MOST_DEPTH} deep.")
    if isinstance(value, str) and ("\0" in value or has_lone_surrogate(value)):
        raise InvalidRequest("A text of the object contains a NUL character or half of a surrogate pair.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest("An integer of the object does not fit into 64 bits.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest("A number of the object is infinite or not a number.")
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for inner in value:
            check_value(inner, depth + 1)


def _can_be_id(kind: Kind, object_id: str) -> bool:
    """No database is asked for what others would not take as equal: spaces at the end, NUL."""
    return re.fullmatch(rf"{re.escape(kind.name)}_[0-9a-f]{{8,64}}", object_id) is not None


def _unknown(kind: Kind, object_id: str) -> NotFound:
    return NotFound(f"No object with id '{object_id[:80]}' in '{kind.name}'.", param="id")


def _no_cursor() -> InvalidRequest:
    return InvalidRequest("'after' points at nothing in this list.", param="after", code="invalid_value")
