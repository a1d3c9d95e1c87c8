"""Vector stores for the texts of other rooms: `domain.documents.Documents` over files and retrieval."""

import contextlib
import io
from collections.abc import Mapping

from backtalk.core.errors import NotFound
from backtalk.domain.caller import Caller
from backtalk.files.service import Files
from backtalk.retrieval.service import NewFile, Retrieval

MOST_PASSAGES = 100


class StoredDocuments:
    """Each document is a file of its project, listed at `/v1/files` as any other."""

    def __init__(self, files: Files, retrieval: Retrieval) -> None:
        self._files = files
        self._retrieval = retrieval

    async def open_store(self, project: str, name: str) -> str:
        record, _ = await self._retrieval.create(Caller(project), name=name, metadata={"resource": name})
        return record.id

    async def drop_store(self, project: str, store_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._retrieval.delete(Caller(project), store_id)

    async def put(self, project: str, filename: str, text: str) -> str:
        return (await self._files.create(project, filename, io.BytesIO(text.encode()), purpose="assistants")).id

    async def attach(self, project: str, store_id: str, document: str, attributes: Mapping[str, str]) -> bool:
        try:
            await self._retrieval.attach(Caller(project), store_id, NewFile(document, dict(attributes)))
        except NotFound as error:
            if error.param != "vector_store_id":
                raise
            return False
        return True

    async def drop(self, project: str, document: str) -> None:
        with contextlib.suppress(NotFound):
            await self._files.delete(project, document)
        await self._retrieval.forget_file(project, document)  # it may have been attached while it went

    async def search(self, project: str, store_id: str, query: str) -> list[str] | None:
        try:
            found = await self._retrieval.search(Caller(project), [store_id], [query], limit=MOST_PASSAGES)
        except NotFound:
            return None
        return list(dict.fromkeys(passage.file_id for passage in found))
