"""Hybrid search over scopes: brings both caches up to date with the rows, asks both, and fuses the answers."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from backtalk.search.base import Embedder, Hit, Source
from backtalk.search.fusion import TEXT_WEIGHT, best, fuse, merge
from backtalk.search.lexical import Lexicon, Lexicons
from backtalk.search.vectors import CACHE_BYTES, Matrices

CANDIDATES = 100
"""How many chunks each of text and vectors may name for a query."""
_BATCH = 64
_Found = tuple[list[dict[int, float]], list[dict[int, float]]]


class Index:
    """The caches of one room, under `folder`. Chunk ids must be unique over all scopes of an index."""

    def __init__(self, folder: Path, embedder: Embedder, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._embedder = embedder
        self._lexicons = Lexicons(folder)
        self._matrices = Matrices(embedder.dimension, cache_bytes)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def search(
        self,
        sources: Sequence[Source],
        queries: Sequence[str],
        limit: int,
        *,
        within: Mapping[str, Collection[str]] | None = None,
        text_weight: float = TEXT_WEIGHT,
    ) -> list[Hit]:
        """The best chunks of all sources for any of the queries, best first.

        `within` names, for each scope, the only documents to look at: they are sifted before the best are chosen.
        """
        versions: list[int | None] = [source.version for source in sources]
        found = await asyncio.to_thread(self._find, sources, versions, queries, within)
        if found is None:
            for source in sources:
                await self._refresh(source)
            found = await asyncio.to_thread(self._find, sources, [None] * len(sources), queries, within)
        scores = merge(fuse(text, vector, text_weight) for text, vector in zip(*found or ([], []), strict=True))
        return [Hit(chunk, score) for chunk, score in best(scores, limit)]

    async def drop(self, scope: str) -> None:
        """Forgets a scope that was deleted."""
        self._matrices.drop(scope)
        await asyncio.to_thread(self._lexicons.drop, scope)

    async def close(self) -> None:
        await asyncio.to_thread(self._lexicons.close)

    def _find(
        self,
        sources: Sequence[Source],
        versions: Sequence[int | None],
        queries: Sequence[str],
        within: Mapping[str, Collection[str]] | None,
    ) -> _Found | None:
        """What text and vectors found for each query. None when a cache is not at the version that is asked for."""
        texts: list[dict[int, float]] = [{} for _ in queries]
        vectors: list[dict[int, float]] = [{} for _ in queries]
        embedded = self._embedder.embed(queries)
        for source, version in zip(sources, versions, strict=True):
            docs = None if within is None else within[source.scope]
            matrix = self._matrices.get(source.scope)
            words = self._lexicons[source.scope].search(version, queries, CANDIDATES, docs)
            if words is None or (version is not None and matrix.version != version):
                return None
            for at, meant in enumerate(matrix.search(embedded, CANDIDATES, docs)):
                texts[at].update(words[at])
                vectors[at].update(meant)
        return texts, vectors

    async def _refresh(self, source: Source) -> None:
        """Brings both caches to the version that the rows have now; loads only what has changed."""
        async with self._locks.setdefault(source.scope, asyncio.Lock()):
            lexicon = self._lexicons[source.scope]
            known = await asyncio.to_thread(lexicon.version)  # before the rows, which cannot be older, unless …
            version, docs = await source.docs()
            if known is not None and known > version:  # … the database was restored from a backup
                await asyncio.to_thread(lexicon.delete)
                known = None
            if known != version:
                await _refresh_text(source, lexicon, version, docs)
            if self._matrices.get(source.scope).version != version:
                await self._refresh_vectors(source, version, docs)

    async def _refresh_vectors(self, source: Source, version: int, docs: Mapping[str, str]) -> None:
        matrix = self._matrices.get(source.scope)
        fresh = [row for names in _batches(matrix.missing(docs)) for row in await source.vectors(names)]
        self._matrices.put(source.scope, await asyncio.to_thread(matrix.updated, version, docs, fresh))


async def _refresh_text(source: Source, lexicon: Lexicon, version: int, docs: Mapping[str, str]) -> None:
    known = await asyncio.to_thread(lexicon.docs)
    for names in _batches([doc for doc, revision in docs.items() if known.get(doc) != revision]):
        texts = await source.texts(names)
        await asyncio.to_thread(lexicon.add, version, {name: docs[name] for name in names}, texts)
    await asyncio.to_thread(lexicon.settle, version, docs.keys())


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[at : at + _BATCH] for at in range(0, len(names), _BATCH))
