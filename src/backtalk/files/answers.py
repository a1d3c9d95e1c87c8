"""What `/v1/files` answers, for `/openapi.json`."""

from typing import Literal

from msgspec import Struct

from backtalk.http.openapi import Listing


class FileObject(Struct):
    """An uploaded file. Times are Unix seconds."""

    id: str
    object: Literal["file"]
    bytes: int
    filename: str
    purpose: str
    created_at: int
    expires_at: int | None
    status: Literal["processed"]


class FileList(Listing):
    """A page of files."""

    data: list[FileObject]


ANSWERS = (FileObject, FileList)
