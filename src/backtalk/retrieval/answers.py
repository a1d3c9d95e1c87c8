"""What `/v1/vector_stores` answers, for `/openapi.json`."""

from typing import Any, Literal

from msgspec import Struct

from backtalk.http.openapi import Listing


class FileCounts(Struct):
    """How far the reading of files is."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreObject(Struct):
    """A collection of files to search."""

    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: dict[str, Any] | None
    expires_at: int | None
    last_active_at: int | None
    metadata: dict[str, str] | None


class VectorStoreList(Listing):
    """A page of vector stores."""

    data: list[VectorStoreObject]


class VectorStoreFileObject(Struct):
    """A file in a vector store. It is found by searches once `status` is `completed`."""

    id: str
    object: Literal["vector_store.file"]
    created_at: int
    vector_store_id: str
    usage_bytes: int
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    last_error: dict[str, Any] | None
    attributes: dict[str, str | float | bool] | None
    chunking_strategy: dict[str, Any]


class VectorStoreFileList(Listing):
    """A page of a vector store's files."""

    data: list[VectorStoreFileObject]


class FileBatchObject(Struct):
    """Files that were attached together."""

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class TextContent(Struct):
    """A text."""

    type: Literal["text"]
    text: str


class FileContent(Struct):
    """A file's text, as searches see it."""

    object: Literal["vector_store.file_content.page"]
    data: list[TextContent]
    has_more: bool
    next_page: str | None


class SearchHit(Struct):
    """A passage that was found."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | float | bool] | None
    content: list[TextContent]


class SearchResults(Struct):
    """Passages, the best first."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchHit]
    has_more: bool
    next_page: str | None


ANSWERS = (
    VectorStoreObject,
    VectorStoreList,
    VectorStoreFileObject,
    VectorStoreFileList,
    FileBatchObject,
    FileContent,
    SearchResults,
)
