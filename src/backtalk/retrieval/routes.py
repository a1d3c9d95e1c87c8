"""`/v1/vector_stores`, as OpenAI's SDKs call them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query
from starlette.responses import Response

from backtalk.core.clock import now
from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.domain.intake import take_metadata
from backtalk.domain.turn import Passage
from backtalk.http.caller import caller
from backtalk.http.openapi import Deleted, answers
from backtalk.http.paging import After, Before, Cursor, Limit20, Order, page
from backtalk.http.route import JSON, router
from backtalk.retrieval.answers import (
    FileBatchObject,
    FileContent,
    SearchResults,
    VectorStoreFileList,
    VectorStoreFileObject,
    VectorStoreList,
    VectorStoreObject,
)
from backtalk.retrieval.attributes import take_attributes
from backtalk.retrieval.service import NewFile, Retrieval, is_expired
from backtalk.retrieval.store import Batch, Counts, StoreFile, StoreRecord
from backtalk.retrieval.wire import AttachFile, Chunking, CreateBatch, CreateStore, Search, SetAttributes, UpdateStore

Who = Annotated[Caller, Depends(caller)]
StoreId = Annotated[str, Path(description="A vector store's id, `vs_…`.")]
FileId = Annotated[str, Path(description="A file's id, `file-…`.")]
BatchId = Annotated[str, Path(description="A file batch's id, `vsfb_…`.")]
Status = Annotated[
    Literal["in_progress", "completed", "failed", "cancelled"] | None,
    Query(alias="filter", description="Only files in this state."),
]
_MOST_QUERIES = 32


def routes(retrieval: Retrieval) -> APIRouter:
    """The routes of this room over its service."""
    api = router()
    for part in (_stores(retrieval), _files(retrieval), _batches(retrieval)):
        api.include_router(part)
    return api


def _stores(retrieval: Retrieval) -> APIRouter:
    api = router(prefix="/v1/vector_stores", tags=["Vector stores"])

    @api.post(
        "",
        operation_id="createVectorStore",
        summary="Create a vector store",
        response_model=None,
        responses=answers(VectorStoreObject),
    )
    async def create(who: Who, body: Annotated[CreateStore | None, Body()] = None) -> Response:
        body = body or CreateStore()
        made = await retrieval.create(
            who,
            name=body.name or "",
            metadata=take_metadata(body.metadata),
            expires_days=body.expires_after.days if body.expires_after else None,
            files=_named(body.file_ids or [], {}, body.chunking_strategy),
        )
        return JSON(_store(*made))

    @api.get(
        "",
        operation_id="listVectorStores",
        summary="List vector stores",
        response_model=None,
        responses=answers(VectorStoreList),
    )
    async def listing(
        who: Who, limit: Limit20 = 20, order: Order = "desc", after: After = None, before: Before = None
    ) -> Response:
        found = await retrieval.stores(who, Cursor(limit, order, after, before))
        return JSON(page([_store(*one) for one in found], limit))

    @api.get(
        "/{store_id}",
        operation_id="retrieveVectorStore",
        summary="Retrieve a vector store",
        response_model=None,
        responses=answers(VectorStoreObject, 404),
    )
    async def get(who: Who, store_id: StoreId) -> Response:
        return JSON(_store(*await retrieval.get(who, store_id)))

    @api.post(
        "/{store_id}",
        operation_id="updateVectorStore",
        summary="Modify a vector store",
        response_model=None,
        responses=answers(VectorStoreObject, 404),
    )
    async def update(who: Who, store_id: StoreId, body: UpdateStore) -> Response:
        values: dict[str, Any] = {}
        if body.name is not None:
            values["name"] = body.name
        if "metadata" in body.model_fields_set:
            values["metadata"] = take_metadata(body.metadata)
        if "expires_after" in body.model_fields_set:
            values["expires_days"] = body.expires_after.days if body.expires_after else None
        return JSON(_store(*await retrieval.update(who, store_id, values)))

    @api.delete(
        "/{store_id}",
        operation_id="deleteVectorStore",
        summary="Delete a vector store",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def delete(who: Who, store_id: StoreId) -> Response:
        """The uploaded files themselves stay."""
        await retrieval.delete(who, store_id)
        return JSON({"id": store_id, "object": "vector_store.deleted", "deleted": True})

    @api.post(
        "/{store_id}/search",
        operation_id="searchVectorStore",
        summary="Search a vector store",
        response_model=None,
        responses=answers(SearchResults, 404),
    )
    async def search(who: Who, store_id: StoreId, body: Search) -> Response:
        """By words and by meaning at once, with filters over the files' attributes."""
        queries = _checked(body.query)
        found = await retrieval.search(
            who,
            [store_id],
            queries,
            limit=body.max_num_results,
            filters=body.filters,
            ranking=body.ranking_options.model_dump() if body.ranking_options else None,
        )
        data = [_hit(passage) for passage in found]
        kind = "vector_store.search_results.page"
        return JSON({"object": kind, "search_query": queries, "data": data, "has_more": False, "next_page": None})

    return api


def _files(retrieval: Retrieval) -> APIRouter:
    api = router(prefix="/v1/vector_stores/{store_id}/files", tags=["Vector store files"])

    @api.post(
        "",
        operation_id="createVectorStoreFile",
        summary="Attach a file",
        response_model=None,
        responses=answers(VectorStoreFileObject, 404),
    )
    async def attach(who: Who, store_id: StoreId, body: AttachFile) -> Response:
        """The file is read in the background: ask for it until its `status` is `completed`."""
        new = _new_file(body.file_id, take_attributes(body.attributes), body.chunking_strategy)
        return JSON(_file(await retrieval.attach(who, store_id, new)))

    @api.get(
        "",
        operation_id="listVectorStoreFiles",
        summary="List a store's files",
        response_model=None,
        responses=answers(VectorStoreFileList, 404),
    )
    async def listing(
        who: Who,
        store_id: StoreId,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        before: Before = None,
        status: Status = None,
    ) -> Response:
        found = await retrieval.files(who, store_id, Cursor(limit, order, after, before), status=status)
        return JSON(page([_file(one) for one in found], limit))

    @api.get(
        "/{file_id}",
        operation_id="retrieveVectorStoreFile",
        summary="Retrieve a store's file",
        response_model=None,
        responses=answers(VectorStoreFileObject, 404),
    )
    async def get(who: Who, store_id: StoreId, file_id: FileId) -> Response:
        return JSON(_file(await retrieval.file(who, store_id, file_id)))

    @api.post(
        "/{file_id}",
        operation_id="updateVectorStoreFile",
        summary="Replace a file's attributes",
        response_model=None,
        responses=answers(VectorStoreFileObject, 404),
    )
    async def update(who: Who, store_id: StoreId, file_id: FileId, body: SetAttributes) -> Response:
        attributes = take_attributes(body.attributes)
        return JSON(_file(await retrieval.set_attributes(who, store_id, file_id, attributes)))

    @api.delete(
        "/{file_id}",
        operation_id="deleteVectorStoreFile",
        summary="Take a file out of a store",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def detach(who: Who, store_id: StoreId, file_id: FileId) -> Response:
        """The uploaded file itself stays."""
        await retrieval.detach(who, store_id, file_id)
        return JSON({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})

    @api.get(
        "/{file_id}/content",
        operation_id="retrieveVectorStoreFileContent",
        summary="Read the text of a store's file",
        response_model=None,
        responses=answers(FileContent, 404),
    )
    async def content(who: Who, store_id: StoreId, file_id: FileId) -> Response:
        text = await retrieval.content(who, store_id, file_id)
        data = [{"type": "text", "text": text}] if text else []
        kind = "vector_store.file_content.page"
        return JSON({"object": kind, "data": data, "has_more": False, "next_page": None})

    return api


def _batches(retrieval: Retrieval) -> APIRouter:
    api = router(prefix="/v1/vector_stores/{store_id}/file_batches", tags=["Vector store files"])

    @api.post(
        "",
        operation_id="createVectorStoreFileBatch",
        summary="Attach many files",
        response_model=None,
        responses=answers(FileBatchObject, 404),
    )
    async def create(who: Who, store_id: StoreId, body: CreateBatch) -> Response:
        """Either `file_ids`, which share attributes and chunking, or `files` with their own."""
        return JSON(_batch(*await retrieval.create_batch(who, store_id, _new_files(body))))

    @api.get(
        "/{batch_id}",
        operation_id="retrieveVectorStoreFileBatch",
        summary="Retrieve a file batch",
        response_model=None,
        responses=answers(FileBatchObject, 404),
    )
    async def get(who: Who, store_id: StoreId, batch_id: BatchId) -> Response:
        return JSON(_batch(*await retrieval.batch(who, store_id, batch_id)))

    @api.post(
        "/{batch_id}/cancel",
        operation_id="cancelVectorStoreFileBatch",
        summary="Cancel a file batch",
        response_model=None,
        responses=answers(FileBatchObject, 404),
    )
    async def cancel(who: Who, store_id: StoreId, batch_id: BatchId) -> Response:
        """What is read stays; what is not read yet is not read any more."""
        return JSON(_batch(*await retrieval.cancel_batch(who, store_id, batch_id)))

    @api.get(
        "/{batch_id}/files",
        operation_id="listFilesInVectorStoreFileBatch",
        summary="List a batch's files",
        response_model=None,
        responses=answers(VectorStoreFileList, 404),
    )
    async def files(
        who: Who,
        store_id: StoreId,
        batch_id: BatchId,
        limit: Limit20 = 20,
        order: Order = "desc",
        after: After = None,
        before: Before = None,
        status: Status = None,
    ) -> Response:
        cursor = Cursor(limit, order, after, before)
        found = await retrieval.files(who, store_id, cursor, status=status, batch_id=batch_id)
        return JSON(page([_file(one) for one in found], limit))

    return api


def _checked(queries: list[str]) -> list[str]:
    if not 0 < len(queries) <= _MOST_QUERIES or not all(query.strip() for query in queries):
        raise InvalidRequest(
            f"Invalid value for 'query': expected 1 to {_MOST_QUERIES} texts that are not empty.",
            param="query",
            code="invalid_value",
        )
    return queries


def _new_files(body: CreateBatch) -> list[NewFile]:
    if body.file_ids is not None:
        return _named(body.file_ids, take_attributes(body.attributes), body.chunking_strategy)
    return [
        _new_file(
            one.file_id,
            take_attributes(one.attributes, f"files[{i}].attributes"),
            one.chunking_strategy,
            f"files[{i}].file_id",
        )
        for i, one in enumerate(body.files or ())
    ]


def _named(file_ids: list[str], attributes: dict[str, Any], chunking: Chunking | None) -> list[NewFile]:
    return [_new_file(file_id, attributes, chunking, f"file_ids[{i}]") for i, file_id in enumerate(file_ids)]


def _new_file(file_id: str, attributes: dict[str, Any], chunking: Chunking | None, param: str = "file_id") -> NewFile:
    if chunking is None or chunking.type == "auto" or chunking.static is None:
        return NewFile(file_id, attributes, param=param)
    static = chunking.static
    return NewFile(file_id, attributes, static.max_chunk_size_tokens, static.chunk_overlap_tokens, param)


def _store(record: StoreRecord, counts: Counts) -> dict[str, Any]:
    """OpenAI's VectorStore object."""
    status = "expired" if is_expired(record, now()) else "in_progress" if counts.in_progress else "completed"
    expires = None
    if record.expires_days is not None:
        expires = {"anchor": "last_active_at", "days": record.expires_days}
    return {
        "id": record.id,
        "object": "vector_store",
        "created_at": record.created_at,
        "name": record.name,
        "usage_bytes": counts.usage_bytes,
        "file_counts": _file_counts(counts),
        "status": status,
        "expires_after": expires,
        "expires_at": record.expires_at,
        "last_active_at": record.last_active_at,
        "metadata": record.metadata,
    }


def _file(file: StoreFile) -> dict[str, Any]:
    """OpenAI's VectorStoreFile object."""
    static = {"max_chunk_size_tokens": file.chunk_size, "chunk_overlap_tokens": file.chunk_overlap}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": file.created_at,
        "vector_store_id": file.store_id,
        "usage_bytes": file.usage_bytes,
        "status": file.status,
        "last_error": file.last_error,
        "attributes": file.attributes,
        "chunking_strategy": {"type": "static", "static": static},
    }


def _batch(batch: Batch, counts: Counts) -> dict[str, Any]:
    """OpenAI's VectorStoreFileBatch object."""
    status = "cancelled" if batch.cancelled else "in_progress" if counts.in_progress else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.store_id,
        "status": status,
        "file_counts": _file_counts(counts),
    }


def _file_counts(counts: Counts) -> dict[str, int]:
    states = {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
    }
    return {**states, "total": sum(states.values())}


def _hit(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.score,
        "attributes": passage.attributes,
        "content": [{"type": "text", "text": passage.text}],
    }
