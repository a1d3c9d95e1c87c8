"""The tables of vector stores, and all that is asked of them.

Whoever changes what a store holds locks the store's row first and raises its `version`, so that two of them never wait
for each other and the search caches see every change.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from backtalk.http.paging import Cursor
from backtalk.jobs.store import enqueue
from backtalk.storage.schema import Blob, Id, Json, LongText, RowId, SmallText, table

R = TypeVar("R", bound=msgspec.Struct)
INGEST = "retrieval.ingest"

vector_stores = table(
    "vector_stores",
    Column("seq", RowId, primary_key=True, autoincrement=True),
    Id("id", nullable=False),
    Id("project", nullable=False),
    Column("name", SmallText, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("version", BigInteger, nullable=False),
    Id("embedder", nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("expires_days", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("last_active_at", BigInteger, nullable=False),
    UniqueConstraint("id"),
    Index(None, "project", "seq"),
)

store_files = table(
    "vector_store_files",
    Column("seq", RowId, primary_key=True, autoincrement=True),
    Id("project", nullable=False),
    Id("store_id", nullable=False),
    Id("file_id", nullable=False),
    Column("filename", SmallText, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attributes", Json, nullable=False),
    Column("chunk_size", Integer, nullable=False),
    Column("chunk_overlap", Integer, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("last_error", Json),
    Id("batch_id"),
    Id("revision", nullable=False),
    Id("indexed"),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("store_id", "file_id"),
    Index(None, "file_id"),
    Index(None, "batch_id"),
)

batches = table(
    "file_batches",
    Id("id", primary_key=True),
    Id("project", nullable=False),
    Id("store_id", nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "store_id"),
)

chunks = table(
    "chunks",
    Column("id", RowId, primary_key=True, autoincrement=True),
    Id("project", nullable=False),
    Id("store_id", nullable=False),
    Id("file_id", nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("text", LongText, nullable=False),
    Column("vector", Blob, nullable=False),
    Index(None, "store_id", "file_id", "ordinal"),
    sqlite_autoincrement=True,  # an id is never used again: the search caches know chunks by it
)


class StoreRecord(msgspec.Struct, frozen=True):
    """A vector store. Times are Unix seconds."""

    id: str
    project: str
    name: str
    metadata: dict[str, str]
    embedder: str
    dimension: int
    created_at: int
    last_active_at: int
    version: int = 0
    expires_days: int | None = None

    @property
    def expires_at(self) -> int | None:
        return None if self.expires_days is None else self.last_active_at + self.expires_days * 86_400


class StoreFile(msgspec.Struct, frozen=True):
    """A file in a store. `revision` is new at each attachment; `indexed` is the revision that can be searched."""

    project: str
    store_id: str
    file_id: str
    filename: str
    attributes: dict[str, Any]
    chunk_size: int
    chunk_overlap: int
    revision: str
    created_at: int
    batch_id: str | None = None
    status: str = "in_progress"
    usage_bytes: int = 0
    last_error: dict[str, str] | None = None
    indexed: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """Files that were attached together."""

    id: str
    project: str
    store_id: str
    created_at: int
    cancelled: int = 0


class Counts(msgspec.Struct):
    """How many files are in which state."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    usage_bytes: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """A stretch of a file's text, in code points of it, and its vector (half floats)."""

    start: int
    end: int
    text: str
    vector: bytes


class Found(msgspec.Struct, frozen=True):
    """A chunk with what its file says about it."""

    id: int
    store_id: str
    file_id: str
    start: int
    text: str
    filename: str
    attributes: dict[str, Any]


def _columns(source: Table, record: type[R]) -> list[Column[Any]]:
    return [source.c[name] for name in record.__struct_fields__]


_STORE = _columns(vector_stores, StoreRecord)
_FILE = _columns(store_files, StoreFile)
_BATCH = _columns(batches, Batch)


# --- stores


def insert_store(connection: Connection, record: StoreRecord, files: Sequence[StoreFile]) -> None:
    """A new store and its first files."""
    connection.execute(insert(vector_stores).values(msgspec.structs.asdict(record)))
    attach(connection, record.project, record.id, files, record.created_at)


def find_store(connection: Connection, project: str, store_id: str) -> StoreRecord | None:
    row = connection.execute(select(*_STORE).where(*_is_store(project, store_id))).one_or_none()
    return None if row is None else StoreRecord(*row)


def page_stores(connection: Connection, project: str, cursor: Cursor) -> list[StoreRecord] | None:
    """Up to `limit + 1` stores; None when the cursor points at nothing."""
    mine = [vector_stores.c.project == project]
    rows = _page(connection, vector_stores, vector_stores.c.id, _STORE, mine, cursor)
    return None if rows is None else [StoreRecord(*row) for row in rows]


def update_store(connection: Connection, project: str, store_id: str, values: dict[str, Any]) -> None:
    connection.execute(update(vector_stores).where(*_is_store(project, store_id)).values(values))


def delete_store(connection: Connection, project: str, store_id: str) -> bool:
    """Whether it was there. Its files stay files; its chunks go with it."""
    if not _lock(connection, project, store_id):
        return False
    for part in (chunks, store_files, batches):
        connection.execute(delete(part).where(part.c.project == project, part.c.store_id == store_id))
    connection.execute(delete(vector_stores).where(*_is_store(project, store_id)))
    return True


def counts(connection: Connection, project: str, store_ids: Collection[str]) -> dict[str, Counts]:
    """For each store the states of its files."""
    return _count(connection, project, store_files.c.store_id, store_ids)


# --- files of a store


def attach(connection: Connection, project: str, store_id: str, files: Sequence[StoreFile], at: int) -> bool:
    """Puts files into a store, each with its job; those already in it are read anew. False when the store is gone."""
    if not _lock(connection, project, store_id):
        return False
    wanted = [file.file_id for file in files]
    here = (store_files.c.project == project, store_files.c.store_id == store_id)
    known = set(connection.scalars(select(store_files.c.file_id).where(*here, store_files.c.file_id.in_(wanted))))
    for file in files:
        values = msgspec.structs.asdict(file)
        if file.file_id in known:
            del values["indexed"], values["created_at"]  # the old chunks are found until the new ones are there
            connection.execute(update(store_files).where(*here, store_files.c.file_id == file.file_id).values(values))
        else:
            connection.execute(insert(store_files).values(values))
        known.add(file.file_id)
        payload = {"store_id": store_id, "file_id": file.file_id, "revision": file.revision}
        enqueue(connection, project, INGEST, payload)
    touch(connection, project, store_id, at)
    return True


def find_file(connection: Connection, project: str, store_id: str, file_id: str) -> StoreFile | None:
    row = connection.execute(select(*_FILE).where(*_is_file(project, store_id, file_id))).one_or_none()
    return None if row is None else StoreFile(*row)


def page_files(
    connection: Connection,
    project: str,
    store_id: str,
    cursor: Cursor,
    *,
    status: str | None = None,
    batch_id: str | None = None,
) -> list[StoreFile] | None:
    """Up to `limit + 1` files; None when the cursor points at nothing."""
    wanted = [store_files.c.project == project, store_files.c.store_id == store_id]
    if batch_id is not None:
        wanted.append(store_files.c.batch_id == batch_id)
    sifted = [store_files.c.status == status] if status is not None else []
    rows = _page(connection, store_files, store_files.c.file_id, _FILE, wanted, cursor, sifted)
    return None if rows is None else [StoreFile(*row) for row in rows]


def set_attributes(
    connection: Connection, project: str, store_id: str, file_id: str, attributes: dict[str, Any]
) -> None:
    connection.execute(update(store_files).where(*_is_file(project, store_id, file_id)).values(attributes=attributes))


def detach(connection: Connection, project: str, store_id: str, file_id: str) -> bool:
    """Whether the file was in the store."""
    if not _lock(connection, project, store_id):
        return False
    gone = connection.execute(delete(store_files).where(*_is_file(project, store_id, file_id))).rowcount == 1
    _drop_chunks(connection, project, store_id, [file_id])
    return gone


def forget_file(connection: Connection, project: str, file_id: str) -> None:
    """Takes a file out of all stores."""
    mine = (store_files.c.project == project, store_files.c.file_id == file_id)
    for store_id in sorted(connection.scalars(select(store_files.c.store_id).where(*mine))):
        detach(connection, project, store_id, file_id)


# --- ingestion


def complete(connection: Connection, file: StoreFile, made: Sequence[Chunk], usage_bytes: int) -> bool:
    """Puts in all chunks of a file and says so, at once. False when nobody waits for this revision any more."""
    if not _lock(connection, file.project, file.store_id):
        return False
    done = {"status": "completed", "indexed": file.revision, "usage_bytes": usage_bytes, "last_error": None}
    if connection.execute(update(store_files).where(*_waits(file)).values(done)).rowcount != 1:
        return False
    _drop_chunks(connection, file.project, file.store_id, [file.file_id])
    place = {"project": file.project, "store_id": file.store_id, "file_id": file.file_id}
    rows = [{**place, "ordinal": at, **msgspec.structs.asdict(chunk)} for at, chunk in enumerate(made)]
    connection.execute(insert(chunks), rows)
    return True


def fail(connection: Connection, file: StoreFile, code: str, message: str) -> None:
    """Marks a file as failed, unless nobody waits for this revision any more; older chunks of it go."""
    if not _lock(connection, file.project, file.store_id):
        return
    failed = {"status": "failed", "indexed": None, "usage_bytes": 0, "last_error": {"code": code, "message": message}}
    if connection.execute(update(store_files).where(*_waits(file)).values(failed)).rowcount == 1:
        _drop_chunks(connection, file.project, file.store_id, [file.file_id])


# --- batches


def insert_batch(connection: Connection, batch: Batch, files: Sequence[StoreFile], at: int) -> bool:
    """The batch and its files. False when the store is gone."""
    if not attach(connection, batch.project, batch.store_id, files, at):
        return False
    connection.execute(insert(batches).values(msgspec.structs.asdict(batch)))
    return True


def find_batch(connection: Connection, project: str, store_id: str, batch_id: str) -> tuple[Batch, Counts] | None:
    row = connection.execute(select(*_BATCH).where(*_is_batch(project, store_id, batch_id))).one_or_none()
    if row is None:
        return None
    return Batch(*row), _count(connection, project, store_files.c.batch_id, [batch_id])[batch_id]


def cancel_batch(connection: Connection, project: str, store_id: str, batch_id: str) -> None:
    """Stops what has not been read yet. A batch that is through stays as it is."""
    _lock(connection, project, store_id)
    open_ = (
        store_files.c.project == project,
        store_files.c.store_id == store_id,
        store_files.c.batch_id == batch_id,
        store_files.c.status == "in_progress",
    )
    stopped = connection.scalars(select(store_files.c.file_id).where(*open_)).all()
    if stopped:
        values = {"status": "cancelled", "indexed": None, "usage_bytes": 0}
        connection.execute(update(store_files).where(*open_).values(values))
        _drop_chunks(connection, project, store_id, stopped)
        connection.execute(update(batches).where(*_is_batch(project, store_id, batch_id)).values(cancelled=1))


# --- what the search reads


def docs(connection: Connection, project: str, store_id: str) -> tuple[int, dict[str, str]]:
    """The store's version, then the files that can be searched with their revisions."""
    version = connection.scalar(select(vector_stores.c.version).where(*_is_store(project, store_id)))
    indexed = select(store_files.c.file_id, store_files.c.indexed).where(
        store_files.c.project == project, store_files.c.store_id == store_id, store_files.c.indexed.is_not(None)
    )
    return version or 0, {row.file_id: row.indexed for row in connection.execute(indexed)}


def texts(connection: Connection, project: str, store_id: str, file_ids: Sequence[str]) -> list[tuple[int, str, str]]:
    wanted = select(chunks.c.id, chunks.c.file_id, chunks.c.text).where(*_of_files(project, store_id, file_ids))
    return [(row.id, row.file_id, row.text) for row in connection.execute(wanted)]


def vectors(
    connection: Connection, project: str, store_id: str, file_ids: Sequence[str]
) -> list[tuple[int, str, bytes]]:
    wanted = select(chunks.c.id, chunks.c.file_id, chunks.c.vector).where(*_of_files(project, store_id, file_ids))
    return [(row.id, row.file_id, row.vector) for row in connection.execute(wanted)]


def attributes(connection: Connection, project: str, store_id: str) -> list[tuple[str, dict[str, Any]]]:
    """(file id, attributes) of the files that can be searched."""
    wanted = select(store_files.c.file_id, store_files.c.attributes).where(
        store_files.c.project == project, store_files.c.store_id == store_id, store_files.c.indexed.is_not(None)
    )
    return [(row.file_id, row.attributes) for row in connection.execute(wanted)]


def found(connection: Connection, project: str, chunk_ids: Collection[int]) -> dict[int, Found]:
    """These chunks, as far as they are still there."""
    joined = (chunks.c.store_id == store_files.c.store_id) & (chunks.c.file_id == store_files.c.file_id)
    wanted = (
        select(
            chunks.c.id,
            chunks.c.store_id,
            chunks.c.file_id,
            chunks.c.start,
            chunks.c.text,
            store_files.c.filename,
            store_files.c.attributes,
        )
        .join(store_files, joined)
        .where(chunks.c.project == project, store_files.c.project == project, chunks.c.id.in_(chunk_ids))
    )
    return {row.id: Found(*row) for row in connection.execute(wanted)}


def content(connection: Connection, project: str, store_id: str, file_id: str) -> list[tuple[int, int, str]]:
    """(start, end, text) of a file's chunks in order."""
    wanted = select(chunks.c.start, chunks.c.end, chunks.c.text).where(*_of_files(project, store_id, [file_id]))
    return [(row.start, row.end, row.text) for row in connection.execute(wanted.order_by(chunks.c.ordinal))]


def touch(connection: Connection, project: str, store_id: str, at: int) -> None:
    """Says that the store was used: its time to expire begins anew."""
    update_store(connection, project, store_id, {"last_active_at": at})


# --- helpers


def _is_store(project: str, store_id: str) -> tuple[ColumnElement[bool], ...]:
    return (vector_stores.c.project == project, vector_stores.c.id == store_id)


def _is_file(project: str, store_id: str, file_id: str) -> tuple[ColumnElement[bool], ...]:
    mine = (store_files.c.project == project, store_files.c.store_id == store_id)
    return (*mine, store_files.c.file_id == file_id)


def _is_batch(project: str, store_id: str, batch_id: str) -> tuple[ColumnElement[bool], ...]:
    return (batches.c.project == project, batches.c.store_id == store_id, batches.c.id == batch_id)


def _of_files(project: str, store_id: str, file_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    return (chunks.c.project == project, chunks.c.store_id == store_id, chunks.c.file_id.in_(file_ids))


def _waits(file: StoreFile) -> tuple[ColumnElement[bool], ...]:
    """The row, as long as this revision of it is to be read."""
    open_ = (store_files.c.revision == file.revision, store_files.c.status == "in_progress")
    return (*_is_file(file.project, file.store_id, file.file_id), *open_)


def _lock(connection: Connection, project: str, store_id: str) -> bool:
    """Whether the store is there; if so, nobody else changes it until this transaction ends."""
    row = select(vector_stores.c.id).where(*_is_store(project, store_id)).with_for_update()
    return connection.scalar(row) is not None


def _drop_chunks(connection: Connection, project: str, store_id: str, file_ids: Sequence[str]) -> None:
    connection.execute(delete(chunks).where(*_of_files(project, store_id, file_ids)))
    raised = {"version": vector_stores.c.version + 1}
    connection.execute(update(vector_stores).where(*_is_store(project, store_id)).values(raised))


def _count(connection: Connection, project: str, by: Column[Any], ids: Collection[str]) -> dict[str, Counts]:
    result = {id_: Counts() for id_ in ids}
    rows = connection.execute(
        select(by, store_files.c.status, func.count(), func.sum(store_files.c.usage_bytes))
        .where(store_files.c.project == project, by.in_(ids))
        .group_by(by, store_files.c.status)
    )
    for id_, status, number, usage in rows:
        setattr(result[id_], status, number)
        result[id_].usage_bytes += int(usage)
    return result


def _page(
    connection: Connection,
    source: Table,
    key: Column[Any],
    columns: Sequence[Column[Any]],
    wanted: Sequence[ColumnElement[bool]],
    cursor: Cursor,
    sifted: Sequence[ColumnElement[bool]] = (),
) -> list[Any] | None:
    """Up to `limit + 1` rows by insertion, the one too many last; None when a cursor points at nothing.

    Cursors point into `wanted`; `sifted` narrows what is listed, not what can be pointed at.
    """
    forward = cursor.order == "asc"
    bounds = []
    for id_, later in ((cursor.after, forward), (cursor.before, not forward)):
        if id_ is not None:
            at = connection.scalar(select(source.c.seq).where(*wanted, key == id_))
            if at is None:
                return None
            bounds.append(source.c.seq > at if later else source.c.seq < at)
    backward = cursor.before is not None and cursor.after is None  # the page that ends at the cursor
    ascending = forward != backward
    order = source.c.seq.asc() if ascending else source.c.seq.desc()
    listed = select(*columns).where(*wanted, *sifted, *bounds).order_by(order).limit(cursor.limit + 1)
    rows = list(connection.execute(listed))
    return [*rows[: cursor.limit][::-1], *rows[cursor.limit :]] if backward else rows
