"""Both caches over rows that change."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest_asyncio

from backtalk.search.base import VECTOR_TYPE, Source
from backtalk.search.index import Index
from backtalk.search.registry import embedder

EMBEDDER = embedder()


class Rows:
    """Rows of one scope, in memory; counts what is read of them."""

    def __init__(self, scope: str, first_id: int = 1) -> None:
        self.scope = scope
        self.version = 0
        self.loaded: list[str] = []
        self._next = first_id
        self._docs: dict[str, tuple[str, list[tuple[int, str]]]] = {}

    def put(self, doc: str, *texts: str) -> None:
        self.version += 1
        chunks = [(self._next + n, text) for n, text in enumerate(texts)]
        self._next += len(texts)
        self._docs[doc] = (f"r{self.version}", chunks)

    def remove(self, doc: str) -> None:
        self.version += 1
        del self._docs[doc]

    async def docs(self) -> tuple[int, Mapping[str, str]]:
        return self.version, {doc: revision for doc, (revision, _) in self._docs.items()}

    async def texts(self, docs: Sequence[str]) -> list[tuple[int, str, str]]:
        self.loaded += docs
        return self._chunks(docs)

    async def vectors(self, docs: Sequence[str]) -> list[tuple[int, str, bytes]]:
        rows = self._chunks(docs)
        embedded = EMBEDDER.embed([text for _, _, text in rows]).astype(VECTOR_TYPE)
        return [(id_, doc, vector.tobytes()) for (id_, doc, _), vector in zip(rows, embedded, strict=True)]

    def _chunks(self, docs: Sequence[str]) -> list[tuple[int, str, str]]:
        return [(id_, doc, text) for doc in docs if doc in self._docs for id_, text in self._docs[doc][1]]


@pytest_asyncio.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    made = Index(tmp_path / "search", EMBEDDER)
    yield made
    await made.close()


def rows() -> Rows:
    made = Rows("p/one")
    made.put("zoo", "Penguins live in the cold south.", "Lions sleep all day.")
    made.put("town", "The bakery opens at six.", "The library is closed on Mondays.")
    return made


async def ids(index: Index, source: Source, query: str, **options: object) -> list[int]:
    return [hit.id for hit in await index.search([source], [query], 10, **options)]  # type: ignore[arg-type]


async def test_finds_by_words_and_by_meaning(index: Index) -> None:
    source = rows()
    assert (await ids(index, source, "penguins"))[0] == 1
    assert (await ids(index, source, "where can I buy bread?"))[0] == 3
    assert await index.search([source], [""], 10) == []


async def test_scores_are_sorted_and_limited(index: Index) -> None:
    found = await index.search([rows()], ["bakery library penguins"], 2)
    assert len(found) == 2
    assert 1 >= found[0].score >= found[1].score >= 0


async def test_follows_every_change_and_loads_only_that(index: Index) -> None:
    source = rows()
    await ids(index, source, "penguins")
    source.loaded.clear()
    source.put("zoo", "Now there are otters.")
    source.remove("town")
    assert await ids(index, source, "penguins bakery otters") == [5]
    assert source.loaded == ["zoo"]
    await ids(index, source, "otters")
    assert source.loaded == ["zoo"]


async def test_within(index: Index) -> None:
    source = rows()
    assert set(await ids(index, source, "penguins bakery", within={source.scope: ["town"]})) <= {3, 4}
    assert await ids(index, source, "penguins", within={source.scope: []}) == []


async def test_several_scopes_and_queries_become_one_ranking(index: Index) -> None:
    one, two = rows(), Rows("p/two", first_id=100)
    two.put("sea", "Octopuses have three hearts.")
    found = await index.search([one, two], ["octopuses' hearts", "penguins"], 10)
    assert {hit.id for hit in found[:2]} == {100, 1}
    assert len(found) == len({hit.id for hit in found})


async def test_a_restart_reads_no_text_again(index: Index, tmp_path: Path) -> None:
    source = rows()
    await ids(index, source, "penguins")
    await index.close()
    source.loaded.clear()
    again = Index(tmp_path / "search", EMBEDDER)
    assert (await ids(again, source, "penguins"))[0] == 1
    assert source.loaded == []
    await again.close()


async def test_a_deleted_folder_and_a_restored_database_are_noticed(index: Index, tmp_path: Path) -> None:
    source = rows()
    source.version = 50
    await ids(index, source, "penguins")
    await index.close()
    source.version = 7  # as in last night's copy
    again = Index(tmp_path / "search", EMBEDDER)
    assert (await ids(again, source, "penguins"))[0] == 1
    await again.close()
    for path in (tmp_path / "search").iterdir():
        path.unlink()
    third = Index(tmp_path / "search", EMBEDDER)
    assert (await ids(third, source, "library"))[0] == 4
    await third.close()


async def test_a_dropped_scope_leaves_nothing(index: Index, tmp_path: Path) -> None:
    source = rows()
    await ids(index, source, "penguins")
    await index.drop(source.scope)
    assert list((tmp_path / "search").iterdir()) == []


async def test_searches_and_changes_side_by_side(index: Index) -> None:
    source = rows()

    async def change() -> None:
        for n in range(30):
            source.put(f"doc{n}", f"number{n} of many")
            await asyncio.sleep(0)

    async def search() -> None:
        for _ in range(10):
            assert (await ids(index, source, "penguins"))[0] == 1

    await asyncio.gather(change(), *(search() for _ in range(4)))
    found = await index.search([source], ["number29"], 1)
    assert found[0].id == 34
