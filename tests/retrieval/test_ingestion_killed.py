"""SIGKILL during ingestion, again and again: every file ends completed, and each chunk is there once."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import create_engine, text

FILES = 40


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def start(home: Path, database: str, port: int) -> asyncio.subprocess.Process:
    environ = {
        **os.environ,
        "BACKTALK_HOME": str(home),
        "BACKTALK_DATABASE": database,
        "BACKTALK_DISCOVER": "false",
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "backtalk", "serve", "--port", str(port)),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def ready(http: aiohttp.ClientSession, port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def call(http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Any:
    async with http.request(method, url, **options) as answer:
        assert answer.status == 200, await answer.text()
        return json.loads(await answer.read())


async def upload(http: aiohttp.ClientSession, base: str, n: int) -> str:
    form = aiohttp.FormData({"purpose": "assistants"})
    form.add_field("file", f"Document {n} speaks of subject{n}. ".encode() * 400, filename=f"{n}.txt")
    return (await call(http, "POST", f"{base}/files", data=form))["id"]


async def test_every_file_is_whole_after_many_kills(database: str, tmp_path: Path) -> None:
    chance = random.Random(24)
    port = free_port()
    base = f"http://127.0.0.1:{port}/v1"
    process = await start(tmp_path / "home", database, port)
    async with aiohttp.ClientSession() as http:
        await ready(http, port)
        files = [await upload(http, base, n) for n in range(FILES)]
        body = {
            "file_ids": files,
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
            },
        }
        made = await call(http, "POST", f"{base}/vector_stores", json=body)
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            process = await start(tmp_path / "home", database, port)
            await ready(http, port)
        async with asyncio.timeout(60):
            while made["status"] == "in_progress":
                await asyncio.sleep(0.1)
                made = await call(http, "GET", f"{base}/vector_stores/{made['id']}")
        assert made["file_counts"]["completed"] == FILES
        body = {"query": "subject7", "max_num_results": 50}
        found = await call(http, "POST", f"{base}/vector_stores/{made['id']}/search", json=body)
        assert found["data"][0]["filename"] == "7.txt"
    process.terminate()
    assert await process.wait() == 0
    check_chunks(database)


def check_chunks(database: str) -> None:
    engine = create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT file_id, ordinal FROM chunks")).all()
        left = connection.execute(text("SELECT count(*) FROM jobs")).scalar()
    engine.dispose()
    assert len(set(rows)) == len(rows)
    by_file: dict[str, set[int]] = {}
    for file_id, ordinal in rows:
        by_file.setdefault(file_id, set()).add(ordinal)
    assert len(by_file) == FILES
    assert all(ordinals == set(range(len(ordinals))) for ordinals in by_file.values())
    assert min(len(ordinals) for ordinals in by_file.values()) > 10
    assert left == 0
