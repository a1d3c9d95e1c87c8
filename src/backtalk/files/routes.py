"""`/v1/files`, as OpenAI's SDKs call it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Annotated, Any, Literal

import msgspec
from anyio import AsyncFile, wrap_file
from fastapi import APIRouter, Depends, File, Form, Path, Query, UploadFile
from starlette.responses import FileResponse, MalformedRangeHeader, RangeNotSatisfiable, Response
from starlette.types import Receive, Scope, Send

from backtalk.core.errors import BadRange, InvalidRequest, NotFound
from backtalk.domain.caller import Caller
from backtalk.files.answers import FileList, FileObject
from backtalk.files.service import Files
from backtalk.files.store import FileRecord
from backtalk.http.caller import caller
from backtalk.http.openapi import Deleted, answers, errors
from backtalk.http.paging import After, Cursor, Limit10000, Order, page
from backtalk.http.route import JSON, router

Who = Annotated[Caller, Depends(caller)]
FileId = Annotated[str, Path(description="A file's id, `file-…`.")]
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data"]
_NOT_SENT = [""]  # as the example: else Swagger UI fills the field in
Anchor = Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]", examples=_NOT_SENT)]
Seconds = Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000, examples=_NOT_SENT)]

# What a user uploaded is never rendered as a page of ours.
_BYTES = {
    "description": "The bytes as they were uploaded.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_SAFE = {"content-security-policy": "sandbox", "x-content-type-options": "nosniff"}


class _Download(FileResponse):
    """Starlette's file, with two differences.

    It is open before the head is sent, so that whoever deletes it meanwhile cuts nothing off; and its answers to a bad
    `Range` are of our shape.
    """

    def __init__(self, file: IO[bytes], filename: str) -> None:
        self._file = file
        stat = os.fstat(file.fileno())
        super().__init__(
            file.name, filename=filename, media_type="application/octet-stream", headers=_SAFE, stat_result=stat
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[AsyncFile[bytes]]:
        yield wrap_file(self._file)

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []  # RFC 9110: it is ignored
        except RangeNotSatisfiable:
            raise BadRange(
                f"The file has {file_size} bytes: the range is not within them.",
                headers={"content-range": f"bytes */{file_size}"},
            ) from None


def routes(files: Files) -> APIRouter:
    """The routes of this room over its service."""
    api = router(tags=["Files"])

    @api.post(
        "/v1/files",
        operation_id="uploadFile",
        summary="Upload a file",
        response_model=None,
        responses=answers(FileObject, 413),
    )
    async def create(
        who: Who,
        file: Annotated[UploadFile, File(description="The file, at most `max_upload` bytes.")],
        purpose: Annotated[Purpose, Form(description="What the file is for.")],
        anchor: Anchor = None,
        seconds: Seconds = None,
    ) -> Response:
        """Keeps the bytes. To search them, attach the file to a vector store."""
        _check_expiry(anchor, seconds)
        record = await files.create(who.project, file.filename or "", file.file, purpose=purpose, expires_in=seconds)
        return JSON(wire(record))

    @api.get(
        "/v1/files",
        operation_id="listFiles",
        summary="List files",
        response_model=None,
        responses=answers(FileList),
    )
    async def listing(
        who: Who,
        limit: Limit10000 = 10_000,
        order: Order = "desc",
        after: After = None,
        purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    ) -> Response:
        records = await files.list(who.project, Cursor(limit, order, after), purpose)
        return JSON(page([wire(record) for record in records], limit))

    @api.get(
        "/v1/files/{file_id}",
        operation_id="retrieveFile",
        summary="Retrieve a file's record",
        response_model=None,
        responses=answers(FileObject, 404),
    )
    async def get(who: Who, file_id: FileId) -> Response:
        return JSON(wire(await files.get(who.project, file_id)))

    @api.delete(
        "/v1/files/{file_id}",
        operation_id="deleteFile",
        summary="Delete a file",
        response_model=None,
        responses=answers(Deleted, 404),
    )
    async def delete(who: Who, file_id: FileId) -> Response:
        """It leaves every vector store, too."""
        await files.delete(who.project, file_id)
        return JSON({"id": file_id, "object": "file", "deleted": True})

    @api.get(
        "/v1/files/{file_id}/content",
        operation_id="downloadFile",
        summary="Download a file's bytes",
        response_class=Response,
        responses={200: _BYTES, **errors(404)},
    )
    async def content(who: Who, file_id: FileId) -> Response:
        record = await files.get(who.project, file_id)
        try:
            file = await asyncio.to_thread(files.path(who.project, file_id).open, "rb")
        except FileNotFoundError:  # deleted a moment ago
            raise NotFound(f"No such File object: {file_id}", param="id") from None
        return _Download(file, record.filename)

    return api


def wire(record: FileRecord) -> dict[str, Any]:
    """OpenAI's File object."""
    fields = msgspec.structs.asdict(record)
    del fields["project"]
    return {**fields, "object": "file", "status": "processed", "status_details": None}


def _check_expiry(anchor: str | None, seconds: int | None) -> None:
    for given, other in ((anchor, "seconds"), (seconds, "anchor")):
        if given is not None and (anchor is None or seconds is None):
            raise InvalidRequest(
                f"Missing required parameter: 'expires_after[{other}]'.",
                param=f"expires_after[{other}]",
                code="missing_required_parameter",
            )
