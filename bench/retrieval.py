"""How well and how fast a server finds things, measured over HTTP.

    python bench/retrieval.py FOLDER… [--answers MODEL] [--url http://127.0.0.1:8000/v1] [--key bt_…]

A folder holds `corpus.jsonl` ({"_id", "title", "text"}), `queries.jsonl` ({"_id", "text"}) and `qrels.jsonl` ({"q", "d", "s"}).
Each row of the corpus is uploaded as a file of its own, all are attached to one vector store as a batch, and every query
that has a judgement is sent to the store's search. With --answers each query is also asked of a model by `/v1/responses`
with `file_search`, and the answers are counted whose first, or any, citation is a right document. Without --url it starts a server on a folder of its own. Needs aiohttp.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")
R = TypeVar("R")
CUTOFF = 10
BATCH = 1000


class Client:
    """The few calls that this needs."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(self, method: str, path: str, **options: Any) -> Any:
        async with self._session.request(method, f"{self._url}{path}", **options) as answer:
            if answer.status != 200:
                raise SystemExit(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def upload(self, name: str, text: str) -> str:
        form = aiohttp.FormData({"purpose": "assistants"})
        form.add_field("file", text.encode(), filename=name, content_type="text/plain")
        return (await self.call("POST", "/files", data=form))["id"]


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


async def measure(client: Client, folder: Path, parallel: int, model: str | None) -> dict[str, Any]:
    corpus, queries = rows(folder / "corpus.jsonl"), rows(folder / "queries.jsonl")
    judged: dict[str, dict[str, float]] = {}
    for row in rows(folder / "qrels.jsonl"):
        judged.setdefault(row["q"], {})[row["d"]] = row["s"]
    started = time.perf_counter()
    names = await gather(parallel, corpus, lambda row: client.upload(f"{row['_id']}.txt", content(row)))
    uploaded = time.perf_counter()
    store = await ingest(client, folder.name, names)
    ingested = time.perf_counter()
    docs = dict(zip(names, (row["_id"] for row in corpus), strict=True))
    asked = [query for query in queries if query["_id"] in judged]
    answers, walls = await search(client, store, asked, docs, parallel)
    scores = [judge(answer, judged[query["_id"]]) for query, answer in zip(asked, answers, strict=True)]
    means = [round(statistics.fmean(column), 4) for column in zip(*scores, strict=True)]
    cited = await cite(client, store, asked, docs, judged, parallel, model) if model else {}
    return {
        "set": folder.name,
        "docs": len(corpus),
        "queries": len(asked),
        "nDCG@10": means[0],
        "recall@10": means[1],
        "MRR@10": means[2],
        "uploads/s": round(len(corpus) / (uploaded - started), 1),
        "ingested/s": round(len(corpus) / (ingested - uploaded), 1),
        "search p50 ms": round(statistics.median(walls) * 1000, 2),
        "search p99 ms": round(statistics.quantiles(walls, n=100)[98] * 1000, 2),
        **cited,
    }


def content(row: dict[str, Any]) -> str:
    return f"{row['title']}\n\n{row['text']}" if row.get("title") else row["text"]


async def ingest(client: Client, name: str, files: list[str]) -> str:
    store = (await client.call("POST", "/vector_stores", json={"name": name}))["id"]
    for at in range(0, len(files), BATCH):
        body = {"file_ids": files[at : at + BATCH]}
        batch = await client.call("POST", f"/vector_stores/{store}/file_batches", json=body)
        while batch["status"] == "in_progress":
            await asyncio.sleep(0.05)
            batch = await client.call("GET", f"/vector_stores/{store}/file_batches/{batch['id']}")
        if batch["file_counts"]["completed"] != batch["file_counts"]["total"]:
            raise SystemExit(f"not all files were ingested: {batch}")
    return store


async def search(
    client: Client, store: str, queries: list[dict[str, Any]], docs: dict[str, str], parallel: int
) -> tuple[list[list[str]], list[float]]:
    """For each query the documents found, best first; the wall time of each, one at a time and after a warm-up."""

    async def ask(query: dict[str, Any]) -> list[str]:
        body = {"query": query["text"], "max_num_results": 50}
        found = await client.call("POST", f"/vector_stores/{store}/search", json=body)
        return list(dict.fromkeys(docs[hit["file_id"]] for hit in found["data"]))[:CUTOFF]

    answers = await gather(parallel, queries, ask)
    walls = []
    for query in queries[:200]:
        began = time.perf_counter()
        body = {"query": query["text"]}
        await client.call("POST", f"/vector_stores/{store}/search", json=body)
        walls.append(time.perf_counter() - began)
    return answers, walls


async def cite(
    client: Client,
    store: str,
    queries: list[dict[str, Any]],
    docs: dict[str, str],
    judged: dict[str, dict[str, float]],
    parallel: int,
    model: str,
) -> dict[str, Any]:
    """The shares of answers that cite a right document first, or at all."""

    async def ask(query: dict[str, Any]) -> list[bool]:
        tools = [{"type": "file_search", "vector_store_ids": [store]}]
        body = {"model": model, "input": query["text"], "tools": tools}
        response = await client.call("POST", "/responses", json=body)
        parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
        notes = [note for part in parts for note in part["annotations"]]
        return [judged[query["_id"]].get(docs[note["file_id"]], 0) > 0 for note in notes]

    answers = await gather(parallel, queries, ask)
    return {
        "first citation right": round(statistics.fmean(bool(right) and right[0] for right in answers), 4),
        "any citation right": round(statistics.fmean(any(right) for right in answers), 4),
        "citations/answer": round(statistics.fmean(map(len, answers)), 2),
    }


def judge(found: list[str], judged: dict[str, float]) -> tuple[float, float, float]:
    """nDCG, recall and reciprocal rank within the cut-off."""
    gains = [judged.get(doc, 0.0) for doc in found]
    ideal = sorted(judged.values(), reverse=True)[:CUTOFF]
    relevant = [doc for doc, score in judged.items() if score > 0]
    first = next((rank for rank, gain in enumerate(gains, 1) if gain > 0), 0)
    return (
        discounted(gains) / (discounted(ideal) or 1.0),
        len(set(found) & set(relevant)) / (len(relevant) or 1),
        1 / first if first else 0.0,
    )


def discounted(gains: Iterable[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


async def gather(parallel: int, entries: list[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    turn = asyncio.Semaphore(parallel)

    async def one(entry: T) -> R:
        async with turn:
            return await work(entry)

    return await asyncio.gather(*map(one, entries))


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server of our own, on a folder that is removed afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="backtalk-bench-") as home:
        environ = {**os.environ, "BACKTALK_HOME": home, "BACKTALK_DISCOVER": "false"}
        command = [sys.executable, "-m", "backtalk", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@contextlib.asynccontextmanager
async def connected(url: str, key: str) -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=600)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        await answering(session, url)
        yield Client(session, url)


async def answering(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/vector_stores"):
                return
        await asyncio.sleep(0.1)
    raise SystemExit(f"no server answers at {url}")


async def run(url: str, arguments: argparse.Namespace) -> None:
    async with connected(url, arguments.key) as client:
        for folder in arguments.folders:
            print(json.dumps(await measure(client, folder, arguments.parallel, arguments.answers)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--url", help="base URL of a running server, with /v1")
    parser.add_argument("--key", default=os.environ.get("BACKTALK_KEY", ""), help="its API key, when it wants one")
    parser.add_argument("--answers", metavar="MODEL", help="ask this model too, such as backtalk/extractive")
    parser.add_argument("--parallel", type=int, default=8, help="requests at once")
    arguments = parser.parse_args()
    with contextlib.nullcontext(arguments.url.rstrip("/")) if arguments.url else server() as url:
        asyncio.run(run(url, arguments))


if __name__ == "__main__":
    main()
