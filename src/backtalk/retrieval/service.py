"""What may be done with vector stores, and the search over them."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backtalk.core.clock import now
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.ids import new_id
from backtalk.domain.caller import Caller
from backtalk.domain.turn import Passage
from backtalk.files.service import Files
from backtalk.http.paging import Cursor
from backtalk.jobs.service import Jobs
from backtalk.retrieval import chunk, store
from backtalk.retrieval.attachments import StoredAttachments
from backtalk.retrieval.attributes import predicate
from backtalk.retrieval.ingest import Ingestion
from backtalk.retrieval.parse import Parser
from backtalk.retrieval.store import Batch, Counts, StoreFile, StoreRecord
from backtalk.search.base import Embedder, Hit
from backtalk.search.fusion import TEXT_WEIGHT
from backtalk.search.index import Index
from backtalk.search.registry import embedder as default_embedder
from backtalk.storage import Storage
from backtalk.storage.once import once

INGESTIONS = 4
"""Files that one process ingests at once."""
_TOUCH_SECONDS = 60
_LOOKUPS = 8


class NewFile(msgspec.Struct, frozen=True):
    """A file that is to go into a store. `size` and `overlap` are tokens of its chunks; `param` is where it was named."""

    file_id: str
    attributes: dict[str, Any] = {}
    size: int = chunk.SIZE
    overlap: int = chunk.OVERLAP
    param: str = "file_id"


class Retrieval:
    """Vector stores of all projects. The search caches lie under `home` and may be deleted at any time."""

    def __init__(
        self, storage: Storage, files: Files, jobs: Jobs, home: Path, *, embedder: Embedder | None = None
    ) -> None:
        self.embedder: Embedder = embedder or default_embedder()
        self._storage = storage
        self._files = files
        self._jobs = jobs
        self._parser = Parser()
        self.attachments = StoredAttachments(files, self._parser)
        self._index = Index(home / "search", self.embedder)
        ingestion = Ingestion(storage, files, self.embedder, self._parser)
        jobs.register(store.INGEST, ingestion.run, on_dead=ingestion.give_up, concurrency=INGESTIONS)
        files.on_delete(self.forget_file)

    async def start(self) -> None:
        """Nothing is needed before the first file or search comes."""

    async def stop(self) -> None:
        """Ends the parsing children and closes the caches. The jobs must have been stopped before."""
        await self._parser.close()
        await self._index.close()

    # --- stores

    async def create(
        self,
        caller: Caller,
        *,
        name: str = "",
        metadata: dict[str, str] | None = None,
        expires_days: int | None = None,
        files: Sequence[NewFile] = (),
    ) -> tuple[StoreRecord, Counts]:
        """A new store, with files to be ingested. Raises NotFound for a file that is not there."""
        at = now()
        record = StoreRecord(
            id=new_id("vs"),
            project=caller.project,
            name=_storable(name, "name"),
            metadata=metadata or {},
            embedder=self.embedder.name,
            dimension=self.embedder.dimension,
            created_at=at,
            last_active_at=at,
            expires_days=expires_days,
        )
        attached = await self._resolve(caller, record.id, files, None)
        await self._storage.write(once(store.insert_store), record, attached)
        self._jobs.wake()
        return record, await self._counts(record)

    async def get(self, caller: Caller, store_id: str) -> tuple[StoreRecord, Counts]:
        """Raises NotFound."""
        record = await self._find(caller, store_id)
        return record, await self._counts(record)

    async def stores(self, caller: Caller, cursor: Cursor) -> list[tuple[StoreRecord, Counts]]:
        """Up to `cursor.limit + 1` stores."""
        records = _listed(await self._storage.read(store.page_stores, caller.project, cursor), cursor)
        counts = await self._storage.read(store.counts, caller.project, [record.id for record in records])
        return [(record, counts[record.id]) for record in records]

    async def update(self, caller: Caller, store_id: str, values: dict[str, Any]) -> tuple[StoreRecord, Counts]:
        """Changes `name`, `metadata`, `expires_days`: those that are given. Raises NotFound."""
        await self._find(caller, store_id)
        if "name" in values:
            _storable(values["name"], "name")
        if values:
            await self._storage.write(store.update_store, caller.project, store_id, values)
        return await self.get(caller, store_id)

    async def delete(self, caller: Caller, store_id: str) -> None:
        """The files in it stay. Raises NotFound."""
        if not await self._storage.write(store.delete_store, caller.project, store_id):
            raise _no_store(store_id)
        await self._index.drop(_scope(caller.project, store_id))

    # --- files of a store

    async def attach(self, caller: Caller, store_id: str, file: NewFile) -> StoreFile:
        """Puts a file into a store; it is ingested by a job. Raises NotFound."""
        await self._find(caller, store_id)
        attached = await self._resolve(caller, store_id, [file], None)
        if not await self._storage.write(once(store.attach), caller.project, store_id, attached, now()):
            raise _no_store(store_id)
        self._jobs.wake()
        return await self.file(caller, store_id, file.file_id)

    async def file(self, caller: Caller, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound."""
        await self._find(caller, store_id)
        found = await self._storage.read(store.find_file, caller.project, store_id, file_id)
        if found is None:
            raise _no_file(store_id, file_id)
        return found

    async def files(
        self, caller: Caller, store_id: str, cursor: Cursor, *, status: str | None = None, batch_id: str | None = None
    ) -> list[StoreFile]:
        """Up to `cursor.limit + 1` files. Raises NotFound."""
        if batch_id is None:
            await self._find(caller, store_id)
        else:
            await self.batch(caller, store_id, batch_id)
        found = await self._storage.read(
            store.page_files, caller.project, store_id, cursor, status=status, batch_id=batch_id
        )
        return _listed(found, cursor)

    async def set_attributes(
        self, caller: Caller, store_id: str, file_id: str, attributes: dict[str, Any]
    ) -> StoreFile:
        """Replaces a file's attributes. Raises NotFound."""
        await self.file(caller, store_id, file_id)
        await self._storage.write(store.set_attributes, caller.project, store_id, file_id, attributes)
        return await self.file(caller, store_id, file_id)

    async def detach(self, caller: Caller, store_id: str, file_id: str) -> None:
        """Takes a file out of a store; the file stays. Raises NotFound."""
        await self._find(caller, store_id)
        if not await self._storage.write(store.detach, caller.project, store_id, file_id):
            raise _no_file(store_id, file_id)

    async def content(self, caller: Caller, store_id: str, file_id: str) -> str:
        """The text that was read from a file; empty while there is none. Raises NotFound."""
        await self.file(caller, store_id, file_id)
        chunks = await self._storage.read(store.content, caller.project, store_id, file_id)
        text, reached = [], 0
        for start, end, part in chunks:
            text.append(part[reached - start :])
            reached = end
        return "".join(text)

    async def forget_file(self, project: str, file_id: str) -> None:
        """Takes a file that is being deleted out of all stores."""
        await self._storage.write(store.forget_file, project, file_id)

    # --- batches

    async def create_batch(self, caller: Caller, store_id: str, files: Sequence[NewFile]) -> tuple[Batch, Counts]:
        """Attaches many files at once. Raises NotFound."""
        await self._find(caller, store_id)
        batch = Batch(new_id("vsfb"), caller.project, store_id, now())
        attached = await self._resolve(caller, store_id, files, batch.id)
        if not await self._storage.write(once(store.insert_batch), batch, attached, now()):
            raise _no_store(store_id)
        self._jobs.wake()
        return await self.batch(caller, store_id, batch.id)

    async def batch(self, caller: Caller, store_id: str, batch_id: str) -> tuple[Batch, Counts]:
        """Raises NotFound."""
        found = await self._storage.read(store.find_batch, caller.project, store_id, batch_id)
        if found is None:
            raise NotFound(f"No such vector store file batch: {batch_id}", param="batch_id")
        return found

    async def cancel_batch(self, caller: Caller, store_id: str, batch_id: str) -> tuple[Batch, Counts]:
        """Stops what is not ingested yet. Raises NotFound."""
        await self.batch(caller, store_id, batch_id)
        await self._storage.write(store.cancel_batch, caller.project, store_id, batch_id)
        return await self.batch(caller, store_id, batch_id)

    # --- search

    async def search(
        self,
        caller: Caller,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        limit: int,
        filters: dict[str, Any] | None = None,
        ranking: dict[str, Any] | None = None,
    ) -> list[Passage]:
        """The passages of these stores that fit any of the queries, best first.

        `filters` and `ranking` are OpenAI's `filters` and `ranking_options`. Raises NotFound for a store that is not
        there, InvalidRequest for one that has expired and for options that make no sense.
        """
        least, text_weight = _ranking(ranking or {})
        sifted = None if filters is None else predicate(filters)
        records = [await self._living(caller, store_id) for store_id in dict.fromkeys(store_ids)]
        sources = [_Rows(self._storage, record) for record in records]
        within = None
        if sifted is not None:
            within = {
                source.scope: [doc for doc, attributes in await source.attributes() if sifted(attributes)]
                for source in sources
            }
        hits = await self._index.search(sources, queries, limit, within=within, text_weight=text_weight)
        return await self._passages(caller.project, store_ids, [hit for hit in hits if hit.score >= least])

    async def _passages(self, project: str, store_ids: Collection[str], hits: Sequence[Hit]) -> list[Passage]:
        """What the rows say now. A chunk that has gone since the search is left out."""
        rows = await self._storage.read(store.found, project, [hit.id for hit in hits]) if hits else {}
        known = [(rows[hit.id], hit.score) for hit in hits if hit.id in rows and rows[hit.id].store_id in store_ids]
        return [_passage(row, score) for row, score in known]

    async def check_search(
        self,
        caller: Caller,
        store_ids: Sequence[str],
        *,
        filters: dict[str, Any] | None = None,
        ranking: dict[str, Any] | None = None,
    ) -> None:
        """Raises what `search` would raise of these."""
        _ranking(ranking or {})
        if filters is not None:
            predicate(filters)
        for store_id in dict.fromkeys(store_ids):
            await self._living(caller, store_id)

    async def _living(self, caller: Caller, store_id: str) -> StoreRecord:
        """The store, if it has not expired; from now on its time runs anew."""
        record = await self._find(caller, store_id)
        at = now()
        if is_expired(record, at):
            raise InvalidRequest(f"The vector store {store_id} has expired: create a new one.", param="vector_store_id")
        if at - record.last_active_at >= _TOUCH_SECONDS:
            await self._storage.write(store.touch, caller.project, store_id, at)
        return record

    # --- helpers

    async def _find(self, caller: Caller, store_id: str) -> StoreRecord:
        record = await self._storage.read(store.find_store, caller.project, store_id)
        if record is None:
            raise _no_store(store_id)
        return record

    async def _counts(self, record: StoreRecord) -> Counts:
        return (await self._storage.read(store.counts, record.project, [record.id]))[record.id]

    async def _resolve(
        self, caller: Caller, store_id: str, files: Sequence[NewFile], batch_id: str | None
    ) -> list[StoreFile]:
        """Rows for files that are all there, a few lookups at a time; of one that is named twice, the last."""
        unique = list({file.file_id: file for file in files}.values())
        rows: list[StoreFile] = []
        for at in range(0, len(unique), _LOOKUPS):
            some = unique[at : at + _LOOKUPS]
            rows += await asyncio.gather(*(self._row(caller, store_id, file, batch_id) for file in some))
        return rows

    async def _row(self, caller: Caller, store_id: str, file: NewFile, batch_id: str | None) -> StoreFile:
        try:
            record = await self._files.get(caller.project, file.file_id)
        except NotFound as error:
            raise NotFound(error.message, param=file.param) from None
        return StoreFile(
            project=caller.project,
            store_id=store_id,
            file_id=record.id,
            filename=record.filename,
            attributes=file.attributes,
            chunk_size=file.size,
            chunk_overlap=file.overlap,
            revision=new_id("rev"),
            created_at=now(),
            batch_id=batch_id,
        )


class _Rows:
    """A store's rows, as the index reads them."""

    def __init__(self, storage: Storage, record: StoreRecord) -> None:
        self.scope = _scope(record.project, record.id)
        self.version = record.version
        self._storage = storage
        self._place = record.project, record.id

    async def docs(self) -> tuple[int, Mapping[str, str]]:
        return await self._storage.read(store.docs, *self._place)

    async def texts(self, docs: Sequence[str]) -> Sequence[tuple[int, str, str]]:
        return await self._storage.read(store.texts, *self._place, docs)

    async def vectors(self, docs: Sequence[str]) -> Sequence[tuple[int, str, bytes]]:
        return await self._storage.read(store.vectors, *self._place, docs)

    async def attributes(self) -> list[tuple[str, dict[str, Any]]]:
        return await self._storage.read(store.attributes, *self._place)


def is_expired(record: StoreRecord, at: int) -> bool:
    return record.expires_at is not None and record.expires_at <= at


def _scope(project: str, store_id: str) -> str:
    return f"{project}/{store_id}"


def _passage(row: store.Found, score: float) -> Passage:
    text = row.text.rstrip()
    return Passage(
        file_id=row.file_id,
        filename=row.filename,
        score=score,
        text=text,
        attributes=row.attributes,
        store_id=row.store_id,
        start=row.start,
        end=row.start + len(text),
    )


def _ranking(options: Mapping[str, Any]) -> tuple[float, float]:
    """The least score that counts, and the text's share of it, from OpenAI's `ranking_options`."""
    least = _number(options.get("score_threshold") or 0.0, "ranking_options.score_threshold")
    if least > 1:
        raise InvalidRequest(
            "'ranking_options.score_threshold' is between 0 and 1.",
            param="ranking_options.score_threshold",
            code="invalid_value",
        )
    hybrid = options.get("hybrid_search")
    if hybrid is None:
        return least, TEXT_WEIGHT
    if not isinstance(hybrid, Mapping):
        raise InvalidRequest("Expected an object.", param="ranking_options.hybrid_search", code="invalid_type")
    text = _number(hybrid.get("text_weight", 0.0), "ranking_options.hybrid_search.text_weight")
    vector = _number(hybrid.get("embedding_weight", 0.0), "ranking_options.hybrid_search.embedding_weight")
    if text + vector <= 0:
        raise InvalidRequest(
            "One of 'text_weight' and 'embedding_weight' must be greater than 0.",
            param="ranking_options.hybrid_search",
            code="invalid_value",
        )
    return least, text / (text + vector)


def _number(value: Any, param: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"Invalid type for '{param}': expected a number.", param=param, code="invalid_type")
    if not 0 <= value < 1e9:
        raise InvalidRequest(f"Invalid value for '{param}': it is 0 or more.", param=param, code="invalid_value")
    return float(value)


def _storable(text: str, param: str) -> str:
    """`text`, if every database can hold it."""
    if "\0" in text:
        raise InvalidRequest(f"'{param}' contains a NUL character.", param=param, code="invalid_value")
    return text


def _listed(rows: list[Any] | None, cursor: Cursor) -> list[Any]:
    if rows is None:
        param = "after" if cursor.after is not None else "before"
        raise InvalidRequest(f"'{param}' points at nothing in this list.", param=param, code="invalid_value")
    return rows


def _no_store(store_id: str) -> NotFound:
    return NotFound(f"No such vector store: {store_id}", param="vector_store_id")


def _no_file(store_id: str, file_id: str) -> NotFound:
    return NotFound(f"No file {file_id} in vector store {store_id}", param="file_id")
