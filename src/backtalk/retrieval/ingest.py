"""From an attached file to chunks that can be found: parse, cut, embed, put in."""

import asyncio

from backtalk.core.errors import NotFound
from backtalk.files.service import Files
from backtalk.jobs.service import Job
from backtalk.retrieval import store
from backtalk.retrieval.chunk import cut
from backtalk.retrieval.formats import Unreadable
from backtalk.retrieval.parse import Parser
from backtalk.retrieval.store import Chunk, StoreFile
from backtalk.search.base import VECTOR_TYPE, Embedder
from backtalk.storage import Storage

_THREADS = 2
"""How many of the process's threads may embed files; searches need some too."""


class Ingestion:
    """The handler of ingestion jobs. Run again it starts over; what nobody waits for any more it leaves alone."""

    def __init__(self, storage: Storage, files: Files, embedder: Embedder, parser: Parser) -> None:
        self._storage = storage
        self._files = files
        self._embedder = embedder
        self._parser = parser
        self._threads = asyncio.Semaphore(_THREADS)

    async def run(self, job: Job) -> None:
        file = await self._wanted(job)
        if file is None:
            return
        try:
            text = await self._text(file)
        except Unreadable as error:
            await self._storage.write(store.fail, file, error.code, error.message)
            return
        async with self._threads:
            made = await asyncio.to_thread(self._chunks, text, file.chunk_size, file.chunk_overlap)
        usage = sum(len(chunk.text.encode()) + len(chunk.vector) for chunk in made)
        await self._storage.write(store.complete, file, made, usage)

    async def give_up(self, job: Job, error: str) -> None:
        """A job that failed for good: the file says so."""
        file = await self._wanted(job)
        if file is not None:
            message = "The server could not process this file. Attach it again to retry."
            await self._storage.write(store.fail, file, "server_error", message)

    async def _wanted(self, job: Job) -> StoreFile | None:
        wanted = job.payload
        file = await self._storage.read(store.find_file, job.project, wanted["store_id"], wanted["file_id"])
        is_open = file is not None and file.revision == wanted["revision"] and file.status == "in_progress"
        return file if is_open else None

    async def _text(self, file: StoreFile) -> str:
        try:
            await self._files.get(file.project, file.file_id)
        except NotFound:
            raise Unreadable("invalid_file", "The file was deleted.") from None
        return await self._parser.parse(self._files.path(file.project, file.file_id), file.filename)

    def _chunks(self, text: str, size: int, overlap: int) -> list[Chunk]:
        """Blocks: for a thread."""
        spans = cut(text, self._embedder.count_tokens, self._embedder.token_ends, size, overlap)
        texts = [text[span.start : span.end] for span in spans]
        vectors = self._embedder.embed(texts).astype(VECTOR_TYPE)
        return [
            Chunk(span.start, span.end, part, vector.tobytes())
            for span, part, vector in zip(spans, texts, vectors, strict=True)
        ]
