"""`/v1/vector_stores` through the official SDK and raw HTTP, over a real server, real jobs and real files."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from fastapi import FastAPI
from openai.types import VectorStore, VectorStoreDeleted, VectorStoreSearchResponse
from openai.types.vector_stores import VectorStoreFile, VectorStoreFileBatch, VectorStoreFileDeleted
from sqlalchemy import func, select

from backtalk.core.clock import now
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.core.owner import new_owner
from backtalk.domain.caller import Caller
from backtalk.files.routes import routes as file_routes
from backtalk.files.service import Files
from backtalk.http import errors
from backtalk.jobs.service import Jobs
from backtalk.retrieval import store
from backtalk.retrieval.routes import routes
from backtalk.retrieval.service import Retrieval
from backtalk.search.base import Embedder
from backtalk.search.wordllama import WordLlama
from backtalk.storage import Storage
from running import served

ME = Caller("default")
ANIMALS = {
    "penguins.txt": "Penguins are birds that swim. They live in the cold south and eat krill.",
    "lions.md": "# Lions\n\nLions sleep for twenty hours a day. They hunt at night on the savanna.",
    "pandas.html": "<html><title>Pandas</title><p>大熊猫主要吃竹子。Giant pandas eat bamboo.</p></html>",
}


class AsProject:
    """Stands where the gate stands: the bearer token is the project."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = dict(scope["headers"]).get(b"authorization", b"Bearer default").decode().removeprefix("Bearer ")
        scope.setdefault("state", {})["caller"] = Caller(token)
        await self.app(scope, receive, send)


class House:
    """The rooms that a vector store needs."""

    def __init__(self, storage: Storage, home: Path, embedder: Embedder | None = None) -> None:
        self.storage = storage
        self.files = Files(storage, home / "files")
        self.jobs = Jobs(storage, new_owner(), poll=0.05, backoff=0.01)
        self.retrieval = Retrieval(storage, self.files, self.jobs, home, embedder=embedder)
        self.app = FastAPI()
        self.app.include_router(file_routes(self.files))
        self.app.include_router(routes(self.retrieval))
        errors.install(self.app, lambda path: path.startswith("/v1"))

    async def count_chunks(self) -> int:
        return await self.storage.read(lambda connection: connection.scalar(select(func.count(store.chunks.c.id)))) or 0


@pytest_asyncio.fixture
async def house(storage: Storage, tmp_path: Path) -> AsyncIterator[House]:
    made = House(storage, tmp_path)
    await made.jobs.start()
    yield made
    await made.jobs.stop()
    await made.retrieval.stop()


@pytest_asyncio.fixture
async def url(house: House) -> AsyncIterator[str]:
    async with served(AsProject(house.app)) as base:
        yield f"{base}/v1"


@pytest_asyncio.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=url, api_key="default", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


async def upload(client: openai.AsyncOpenAI, name: str, data: str | bytes) -> str:
    content = data.encode() if isinstance(data, str) else data
    return (await client.files.create(file=(name, content), purpose="assistants")).id


async def filled(client: openai.AsyncOpenAI, texts: dict[str, str] = ANIMALS) -> tuple[VectorStore, dict[str, str]]:
    """A store with these files, all ingested; file ids by name."""
    ids = {name: await upload(client, name, text) for name, text in texts.items()}
    made = await client.vector_stores.create(name="animals", file_ids=list(ids.values()))
    return await settled(client, made.id), ids


async def settled(client: openai.AsyncOpenAI, store_id: str) -> VectorStore:
    async with asyncio.timeout(60):
        while (found := await client.vector_stores.retrieve(store_id)).status == "in_progress":
            await asyncio.sleep(0.02)
    return found


async def names(client: openai.AsyncOpenAI, store_id: str, query: str | list[str], **options: Any) -> list[str]:
    found = await client.vector_stores.search(store_id, query=query, **options)
    return [hit.filename for hit in found.data]


async def test_the_life_of_a_store(client: openai.AsyncOpenAI, house: House) -> None:
    made, ids = await filled(client)
    assert type(made) is VectorStore
    assert made.file_counts.model_dump() == {"in_progress": 0, "completed": 3, "failed": 0, "cancelled": 0, "total": 3}
    assert (made.name, made.metadata, made.expires_after) == ("animals", {}, None)
    assert made.usage_bytes > 3 * 512
    assert (await names(client, made.id, "What do lions do all day?"))[0] == "lions.md"
    assert (await names(client, made.id, "熊猫吃什么"))[0] == "pandas.html"
    changed = await client.vector_stores.update(
        made.id, name="zoo", metadata={"a": "b"}, expires_after={"anchor": "last_active_at", "days": 2}
    )
    assert (changed.name, changed.metadata) == ("zoo", {"a": "b"})
    assert changed.last_active_at is not None
    assert changed.expires_at == changed.last_active_at + 2 * 86_400
    assert (await client.vector_stores.update(made.id, expires_after=None)).expires_at is None
    gone = await client.vector_stores.delete(made.id)
    assert gone == VectorStoreDeleted(id=made.id, object="vector_store.deleted", deleted=True)
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.retrieve(made.id)
    assert await house.count_chunks() == 0
    assert {file.id async for file in client.files.list()} == set(ids.values())


async def test_hits(client: openai.AsyncOpenAI) -> None:
    made, ids = await filled(client)
    page = await client.vector_stores.search(made.id, query="penguins eat krill", max_num_results=2, rewrite_query=True)
    assert type(page.data[0]) is VectorStoreSearchResponse
    assert page.data[0].model_dump() == {
        "file_id": ids["penguins.txt"],
        "filename": "penguins.txt",
        "attributes": {},
        "score": page.data[0].score,
        "content": [{"type": "text", "text": ANIMALS["penguins.txt"]}],
    }
    assert 1 >= page.data[0].score >= page.data[1].score >= 0
    assert page.search_query == ["penguins eat krill"]  # type: ignore[attr-defined]
    assert len(page.data) == 2


async def test_several_queries(client: openai.AsyncOpenAI) -> None:
    made, _ = await filled(client)
    assert set((await names(client, made.id, ["krill", "savanna"]))[:2]) == {"penguins.txt", "lions.md"}


async def test_ranking_options(client: openai.AsyncOpenAI) -> None:
    made, _ = await filled(client)
    assert await names(client, made.id, "krill", ranking_options={"ranker": "auto", "score_threshold": 0.6}) == [
        "penguins.txt"
    ]
    weights: Any = {"hybrid_search": {"embedding_weight": 0.0, "text_weight": 1.0}}
    assert set(await names(client, made.id, "krill", ranking_options=weights)) >= {"penguins.txt"}


async def test_filters_are_applied_before_the_limit(client: openai.AsyncOpenAI) -> None:
    made = await client.vector_stores.create()
    files = [
        {"file_id": await upload(client, f"{n}.txt", f"Report number {n} about whales."), "attributes": {"n": n}}
        for n in range(12)
    ]
    await client.vector_stores.file_batches.create(made.id, files=files)  # type: ignore[arg-type]
    await settled(client, made.id)
    only: Any = {"type": "eq", "key": "n", "value": 7}
    assert await names(client, made.id, "whales", max_num_results=1, filters=only) == ["7.txt"]
    some: Any = {
        "type": "and",
        "filters": [{"type": "gte", "key": "n", "value": 9}, {"type": "nin", "key": "n", "value": [10]}],
    }
    assert set(await names(client, made.id, "whales", filters=some)) == {"9.txt", "11.txt"}
    file_id = files[7]["file_id"]
    changed = await client.vector_stores.files.update(str(file_id), vector_store_id=made.id, attributes={"n": True})
    assert changed.attributes == {"n": True}
    assert await names(client, made.id, "whales", filters=only) == []


async def test_files_of_a_store(client: openai.AsyncOpenAI, house: House) -> None:
    made, ids = await filled(client)
    lions = await client.vector_stores.files.retrieve(ids["lions.md"], vector_store_id=made.id)
    assert type(lions) is VectorStoreFile
    assert lions.chunking_strategy is not None
    assert lions.chunking_strategy.model_dump() == {
        "type": "static",
        "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
    }
    content = await client.vector_stores.files.content(ids["lions.md"], vector_store_id=made.id)
    assert [part.text for part in content.data] == [ANIMALS["lions.md"]]
    gone = await client.vector_stores.files.delete(ids["lions.md"], vector_store_id=made.id)
    assert gone == VectorStoreFileDeleted(id=ids["lions.md"], object="vector_store.file.deleted", deleted=True)
    assert "lions.md" not in await names(client, made.id, "lions hunt at night")
    assert (await client.files.retrieve(ids["lions.md"])).filename == "lions.md"
    await client.files.delete(ids["penguins.txt"])
    assert await names(client, made.id, "penguins, lions, krill, bamboo") == ["pandas.html"]
    assert (await client.vector_stores.retrieve(made.id)).file_counts.total == 1
    assert await house.count_chunks() == 1


async def test_the_sdks_own_helpers(client: openai.AsyncOpenAI) -> None:
    made = await client.vector_stores.create()
    file = await client.vector_stores.files.upload_and_poll(
        vector_store_id=made.id,
        file=("long.txt", ("A sentence about rivers and hills. " * 200).encode()),
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}},
        poll_interval_ms=50,
    )
    assert file.status == "completed"
    assert file.chunking_strategy is not None
    assert file.chunking_strategy.model_dump()["static"] == {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}
    assert len(await names(client, made.id, "rivers", max_num_results=50)) > 10
    content = await client.vector_stores.files.content(file.id, vector_store_id=made.id)
    assert [part.text for part in content.data] == [("A sentence about rivers and hills. " * 200).strip()]
    batch = await client.vector_stores.file_batches.upload_and_poll(
        vector_store_id=made.id, files=[(f"{n}.txt", f"text {n}".encode()) for n in range(5)], poll_interval_ms=50
    )
    assert type(batch) is VectorStoreFileBatch
    assert (batch.status, batch.file_counts.completed) == ("completed", 5)
    listed = [
        file.id
        async for file in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=made.id, limit=2)
    ]
    assert len(set(listed)) == 5


async def test_files_that_cannot_be_read_fail_with_a_reason(client: openai.AsyncOpenAI) -> None:
    bad = {
        "a.png": (b"\x89PNG\r\n\x1a\n\0\0", "unsupported_file"),
        "a.pdf": (b"no pdf", "invalid_file"),
        "a.txt": (b"  \n ", "invalid_file"),
    }
    ids = {name: await upload(client, name, data) for name, (data, _) in bad.items()}
    made = await client.vector_stores.create(file_ids=list(ids.values()))
    assert (await settled(client, made.id)).file_counts.failed == 3
    for name, (_, code) in bad.items():
        file = await client.vector_stores.files.retrieve(ids[name], vector_store_id=made.id)
        assert (file.status, file.last_error and file.last_error.code) == ("failed", code)
    failed = await client.vector_stores.files.list(made.id, filter="failed")
    assert len(failed.data) == 3
    assert (await client.vector_stores.files.list(made.id, filter="completed")).data == []
    assert (await client.vector_stores.files.content(ids["a.png"], vector_store_id=made.id)).data == []


async def test_attaching_again_reads_again_and_doubles_nothing(client: openai.AsyncOpenAI, house: House) -> None:
    made, ids = await filled(client)
    await client.vector_stores.files.create(made.id, file_id=ids["lions.md"], attributes={"again": True})
    found = await settled(client, made.id)
    assert found.file_counts.total == 3
    assert await house.count_chunks() == 3
    hits = await client.vector_stores.search(made.id, query="lions")
    assert [hit.attributes for hit in hits.data if hit.filename == "lions.md"] == [{"again": True}]


async def test_cancelling_a_batch(client: openai.AsyncOpenAI, house: House) -> None:
    await house.jobs.stop()
    made = await client.vector_stores.create()
    ids = [await upload(client, f"{n}.txt", f"text {n}") for n in range(3)]
    batch = await client.vector_stores.file_batches.create(made.id, file_ids=ids, attributes={"a": 1})
    assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 3)
    cancelled = await client.vector_stores.file_batches.cancel(batch.id, vector_store_id=made.id)
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 3)
    await house.jobs.start()
    other = await client.vector_stores.files.create_and_poll(
        await upload(client, "other.txt", "another text"), vector_store_id=made.id, poll_interval_ms=20
    )
    assert other.status == "completed"
    found = await client.vector_stores.retrieve(made.id)
    assert (found.file_counts.cancelled, found.file_counts.completed) == (3, 1)
    assert await house.count_chunks() == 1
    done = await client.vector_stores.file_batches.create(made.id, file_ids=ids)
    await settled(client, made.id)
    assert (await client.vector_stores.file_batches.cancel(done.id, vector_store_id=made.id)).status == "completed"


async def test_lists_page_both_ways(client: openai.AsyncOpenAI) -> None:
    ids = [(await client.vector_stores.create(name=str(n))).id for n in range(7)]
    assert [made.id async for made in client.vector_stores.list(limit=2, order="asc")] == ids
    assert [made.id async for made in client.vector_stores.list(limit=3)] == ids[::-1]
    before = await client.vector_stores.list(limit=2, order="asc", before=ids[5])
    assert ([made.id for made in before.data], before.has_more) == (ids[3:5], True)
    first = await client.vector_stores.list(limit=5, order="desc", before=ids[4])
    assert ([made.id for made in first.data], first.has_more) == ([ids[6], ids[5]], False)
    between = await client.vector_stores.list(order="asc", after=ids[1], before=ids[4])
    assert [made.id for made in between.data] == ids[2:4]


async def test_an_expired_store_is_not_searched(client: openai.AsyncOpenAI, house: House) -> None:
    made, _ = await filled(client)
    await client.vector_stores.update(made.id, expires_after={"anchor": "last_active_at", "days": 1})
    await house.storage.write(store.touch, "default", made.id, now() - 3 * 86_400)
    assert (await client.vector_stores.retrieve(made.id)).status == "expired"
    with pytest.raises(openai.BadRequestError, match="expired"):
        await names(client, made.id, "lions")


async def test_searching_keeps_a_store_alive(client: openai.AsyncOpenAI, house: House) -> None:
    made, _ = await filled(client)
    await house.storage.write(store.touch, "default", made.id, now() - 3600)
    await names(client, made.id, "lions")
    assert ((await client.vector_stores.retrieve(made.id)).last_active_at or 0) >= made.created_at


async def test_turns_search_several_stores(client: openai.AsyncOpenAI, house: House) -> None:
    one, _ = await filled(client)
    two, ids = await filled(client, {"cars.txt": "A car has four wheels.  \n\n"})
    found = await house.retrieval.search(ME, [one.id, two.id], ["wheels of a car", "bamboo"], limit=10)
    assert {passage.filename for passage in found[:2]} == {"cars.txt", "pandas.html"}
    (car,) = [passage for passage in found if passage.filename == "cars.txt"]
    assert (car.store_id, car.file_id, car.text) == (two.id, ids["cars.txt"], "A car has four wheels.")
    assert (car.start, car.end) == (0, len(car.text))
    with pytest.raises(NotFound):
        await house.retrieval.search(ME, [one.id, "vs_never"], ["x"], limit=5)
    with pytest.raises(InvalidRequest) as error:
        await house.retrieval.search(ME, [one.id], ["x"], limit=5, filters={"type": "like"})
    assert error.value.param == "filters.type"
    assert await house.retrieval.search(ME, [], ["x"], limit=5) == []


async def test_an_empty_store_finds_nothing(client: openai.AsyncOpenAI) -> None:
    made = await client.vector_stores.create()
    assert made.status == "completed"
    assert made.name == ""
    assert await names(client, made.id, "anything") == []


async def test_a_deleted_cache_is_made_again(client: openai.AsyncOpenAI, house: House, tmp_path: Path) -> None:
    made, _ = await filled(client)
    before = await names(client, made.id, "lions")
    await house.retrieval.stop()
    for path in (tmp_path / "search").iterdir():
        path.write_bytes(b"broken" * 1000)
    assert await names(client, made.id, "lions") == before


async def test_foreign_things_answer_as_what_never_was(url: str, client: openai.AsyncOpenAI) -> None:
    made, ids = await filled(client)
    batch = await client.vector_stores.file_batches.create(made.id, file_ids=list(ids.values()))
    await settled(client, made.id)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("POST", "", {"name": "mine now"}),
        ("DELETE", "", None),
        ("POST", "/search", {"query": "lions"}),
        ("GET", "/files", None),
        ("POST", "/files", {"file_id": ids["lions.md"]}),
        ("GET", f"/files/{ids['lions.md']}", None),
        ("POST", f"/files/{ids['lions.md']}", {"attributes": {}}),
        ("DELETE", f"/files/{ids['lions.md']}", None),
        ("GET", f"/files/{ids['lions.md']}/content", None),
        ("POST", "/file_batches", {"file_ids": [ids["lions.md"]]}),
        ("GET", f"/file_batches/{batch.id}", None),
        ("POST", f"/file_batches/{batch.id}/cancel", None),
        ("GET", f"/file_batches/{batch.id}/files", None),
    ]
    async with aiohttp.ClientSession(headers={"authorization": "Bearer stranger"}) as http:
        for method, path, body in calls:
            answers = []
            for store_id in (made.id, "vs_never"):
                async with http.request(method, f"{url}/vector_stores/{store_id}{path}", json=body) as answer:
                    answers.append((answer.status, (await answer.text()).replace(store_id, "ID")))
            assert answers[0] == answers[1], path
            assert answers[0][0] == 404, path
        async with http.get(f"{url}/vector_stores") as answer:
            assert (await answer.json())["data"] == []
        async with http.post(f"{url}/vector_stores", json={"file_ids": [ids["lions.md"]]}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (404, "file_ids[0]")
    assert (await settled(client, made.id)).file_counts.completed == 3


BAD_BODIES: list[tuple[str, Any, str | None]] = [
    ("", {"name": 5}, "name"),
    ("", {"name": "x" * 257}, "name"),
    ("", {"name": "a\0b"}, "name"),
    ("", {"metadata": {"a": 1}}, "metadata.a"),
    ("", {"file_ids": "x"}, "file_ids"),
    ("", {"file_ids": ["x"] * 501}, "file_ids"),
    ("", {"expires_after": {"days": 1}}, "expires_after.anchor"),
    ("", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
    ("", {"chunking_strategy": {"type": "clever"}}, "chunking_strategy.type"),
    ("", {"chunking_strategy": {"type": "static"}}, "chunking_strategy"),
    (
        "",
        {"chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 99}}},
        "chunking_strategy.static.max_chunk_size_tokens",
    ),
    (
        "",
        {
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
            }
        },
        "chunking_strategy.static",
    ),
    ("/ID/search", {}, "query"),
    ("/ID/search", {"query": 5}, "query"),
    ("/ID/search", {"query": []}, "query"),
    ("/ID/search", {"query": ["a", 5]}, "query[1]"),
    ("/ID/search", {"query": " "}, "query"),
    ("/ID/search", {"query": "a", "max_num_results": 0}, "max_num_results"),
    ("/ID/search", {"query": "a", "max_num_results": 51}, "max_num_results"),
    ("/ID/search", {"query": "a", "max_num_results": "5"}, "max_num_results"),
    ("/ID/search", {"query": "a", "filters": {"type": "no"}}, "filters.type"),
    ("/ID/search", {"query": "a", "filters": "x"}, "filters"),
    ("/ID/search", {"query": "a", "ranking_options": {"ranker": "no"}}, "ranking_options.ranker"),
    ("/ID/search", {"query": "a", "ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold"),
    (
        "/ID/search",
        {"query": "a", "ranking_options": {"hybrid_search": {"text_weight": 0, "embedding_weight": 0}}},
        "ranking_options.hybrid_search",
    ),
    ("/ID/files", {}, "file_id"),
    ("/ID/files", {"file_id": "file-x", "attributes": {"a": []}}, "attributes.a"),
    ("/ID/file_batches", {}, None),
    ("/ID/file_batches", {"file_ids": ["a"], "files": [{"file_id": "b"}]}, None),
    ("/ID/file_batches", {"file_ids": []}, "file_ids"),
    ("/ID/file_batches", {"files": [{"attributes": {}}]}, "files[0].file_id"),
    ("/ID/file_batches", {"files": [{"file_id": "a", "attributes": 1}]}, "files[0].attributes"),
]


async def test_bad_bodies_are_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/vector_stores", json={}) as answer:
            store_id = (await answer.json())["id"]
        for path, body, param in BAD_BODIES:
            async with http.post(f"{url}/vector_stores{path.replace('ID', store_id)}", json=body) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["param"]) == (400, param), (body, error)


async def test_bad_lists_are_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/vector_stores", json={}) as answer:
            store_id = (await answer.json())["id"]
        for query in ("limit=0", "limit=101", "order=up", "after=no", "before=no", "after=%00"):
            for path in ("", f"/{store_id}/files"):
                async with http.get(f"{url}/vector_stores{path}?{query}") as answer:
                    assert answer.status == 400, query
        async with http.get(f"{url}/vector_stores/{store_id}/files?filter=no") as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "filter")


async def test_any_text_can_be_searched_for(client: openai.AsyncOpenAI) -> None:
    made, _ = await filled(client, {"a.txt": "one text"})
    for text in ('" OR *', "a\0b", "NEAR(", "🦙" * 3000, "x" * 100_000, "; DROP TABLE chunks"):
        assert await names(client, made.id, text) in ([], ["a.txt"])
    assert await names(client, made.id, "text") == ["a.txt"]


async def test_odd_names_and_ids(url: str, client: openai.AsyncOpenAI) -> None:
    made = await client.vector_stores.create(name="资料 – 🦙", metadata={"ключ": "a\0b"})
    assert (await client.vector_stores.retrieve(made.id)).metadata == {"ключ": "a\0b"}
    async with aiohttp.ClientSession() as http:
        for store_id in ("%00", "..%2F..", "%F0%9F%92%A9", "x" * 5000):
            async with http.get(f"{url}/vector_stores/{store_id}") as answer:
                assert answer.status in (400, 404)
        async with http.post(f"{url}/vector_stores/{made.id}/files", json={"file_id": "a\0b"}) as answer:
            assert answer.status in (400, 404)


class Broken(WordLlama):
    """An embedder that never succeeds."""

    def embed(self, texts: Sequence[str]) -> Any:
        raise RuntimeError("no vectors today")


async def test_a_job_that_gives_up_says_so_in_the_file(storage: Storage, tmp_path: Path) -> None:
    house = House(storage, tmp_path, Broken())
    async with served(AsProject(house.app)) as base, openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="p") as client:
        file_id = await upload(client, "a.txt", "text")
        made = await client.vector_stores.create(file_ids=[file_id])
        await house.jobs.start()
        assert (await settled(client, made.id)).file_counts.failed == 1
        file = await client.vector_stores.files.retrieve(file_id, vector_store_id=made.id)
        assert file.last_error is not None
        assert file.last_error.code == "server_error"
    await house.jobs.stop()
    await house.retrieval.stop()
