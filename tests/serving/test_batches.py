"""Texts of many requests in one call of the embedder."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from held import Held

from backtalk.core.errors import Overloaded
from backtalk.serving import batches
from backtalk.serving.batches import BATCH_CHARACTERS, BATCH_TEXTS, Batches


async def begin(embedding: Batches, *requests: Sequence[str]) -> list[asyncio.Task[Any]]:
    """Requests that have been admitted, one after the other."""
    tasks = []
    for texts in requests:
        tasks.append(asyncio.create_task(embedding.embed(texts)))
        await asyncio.sleep(0)
    return tasks


def is_right(answer: batches.Embedded, texts: Sequence[str]) -> bool:
    same = np.allclose(answer.vectors, [Held.vector(text) for text in texts])
    return bool(same) and answer.tokens == sum(len(text.split()) for text in texts)


async def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    held = Held()
    requests = [["held"], *([f"text {number}", f"other {number}"] for number in range(20))]
    tasks = await begin(Batches(held), *requests)
    held.go.set()
    for texts, answer in zip(requests, await asyncio.gather(*tasks), strict=True):
        assert is_right(answer, texts)
    assert held.calls[0] == ["held"], "the first starts at once, and alone"
    assert len(held.calls) == 2
    assert held.most == 1


async def test_a_bad_text_fails_its_own_request_only() -> None:
    held = Held()
    good, bad = ["good", "better"], ["fine", "poison"]
    tasks = await begin(Batches(held), ["held"], good, bad, ["best"])
    held.go.set()
    first, second, third, fourth = await asyncio.gather(*tasks, return_exceptions=True)
    assert is_right(first, ["held"])
    assert is_right(second, good)
    assert is_right(fourth, ["best"])
    assert isinstance(third, ValueError)


async def test_a_request_that_fails_early_is_not_gone_on_with() -> None:
    held = Held()
    embedding = Batches(held)
    [failing] = await begin(embedding, ["poison", *(f"rest {number}" for number in range(3 * BATCH_TEXTS))])
    with pytest.raises(ValueError, match="cannot be embedded"):
        await failing
    assert len(held.calls) == 1
    assert is_right(await embedding.embed(["next"]), ["next"])


async def test_a_cancelled_request_leaves_the_batch() -> None:
    held = Held()
    _, unwanted, wanted = tasks = await begin(Batches(held), ["held"], ["unwanted"], ["wanted"])
    unwanted.cancel()
    await asyncio.sleep(0)
    held.go.set()
    assert is_right(await wanted, ["wanted"])
    assert "unwanted" not in held.seen
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_request_cancelled_while_it_is_embedded_disturbs_nobody() -> None:
    held = Held()
    first, second = await begin(Batches(held), ["held"], ["second"])
    first.cancel()
    await asyncio.sleep(0)
    held.go.set()
    assert is_right(await second, ["second"])


async def test_small_requests_pass_large_ones() -> None:
    held = Held()
    embedding = Batches(held)
    large = ["held", "x" * BATCH_CHARACTERS]
    [task] = await begin(embedding, large)
    assert is_right(await embedding.embed(["small"]), ["small"])
    assert not task.done()
    held.go.set()
    assert is_right(await task, large)


async def test_large_requests_take_turns() -> None:
    held = Held()
    requests = [[f"{name} {number}" for number in range(size * BATCH_TEXTS)] for name, size in (("held", 8), ("b", 2))]
    tasks = await begin(Batches(held), *requests)
    held.go.set()
    longer, shorter = await asyncio.gather(*tasks)
    assert is_right(longer, requests[0])
    assert is_right(shorter, requests[1])
    assert all(len(call) <= BATCH_TEXTS for call in held.calls)
    last = max(place for place, call in enumerate(held.calls) if any(text[0] == "b" for text in call))
    assert last <= 5 < len(held.calls) - 1


async def test_batches_have_a_size_in_characters() -> None:
    held = Held()
    texts = ["y" * (BATCH_CHARACTERS // 3) for _ in range(8)] + ["z" * (2 * BATCH_CHARACTERS), "short"]
    assert is_right(await Batches(held).embed(texts), texts)
    assert [len(call) for call in held.calls] == [3, 3, 2, 1, 1]


async def test_too_much_is_refused_and_room_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_WAITING", 1000)
    held = Held()
    embedding = Batches(held)
    tasks = await begin(embedding, ["held"], ["a" * 900])
    with pytest.raises(Overloaded):
        await embedding.embed(["b" * 200])
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks += await begin(embedding, ["b" * 200])
    held.go.set()
    assert is_right(await tasks[-1], ["b" * 200])
    await asyncio.gather(*tasks, return_exceptions=True)
    assert is_right(await embedding.embed(["c" * 5000]), ["c" * 5000]), "a lone request is never too much"
    for _ in range(4):
        await asyncio.gather(*(embedding.embed(["d" * 400]) for _ in range(3)))


async def test_an_embedder_that_loses_a_text_is_found_out() -> None:
    class Lossy(Held):
        def embed(self, texts: Sequence[str]) -> Any:
            return super().embed(texts)[:-1]

    with pytest.raises(ValueError, match="gave 0 vectors for 1 texts"):
        await Batches(Lossy()).embed(["one"])


async def test_the_loop_is_free_while_the_embedder_works() -> None:
    held = Held()
    [task] = await begin(Batches(held), ["held"])
    threading.Timer(0.2, held.go.set).start()
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert ticks > 5
