"""The adapter against the benchmarks' model server, which is a program of its own: it counts what was asked and aborted."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backtalk.domain.model import Finish, Prompt, TextDelta, Usage
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.listing import fetch
from backtalk.models.openai_chat import OpenAIChat
from backtalk.testing.server import free_port
from support import lacking

SOURCE = Path(__file__).parents[2] / "bench" / "mock_llm.c"


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        lacking("no C compiler: install gcc")
    program = tmp_path_factory.mktemp("mock") / "mock_llm"
    subprocess.run([str(compiler), "-O2", "-w", "-o", program, SOURCE], check=True)
    port = free_port()
    with subprocess.Popen([program, str(port), "first", "second"]) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()


async def stats(egress: Egress, url: str) -> dict[str, int]:
    import msgspec

    async with egress.request("GET", f"{url}/stats") as reply:
        known: dict[str, int] = msgspec.json.decode(await reply.body())
        return known


@pytest.mark.parametrize("name", ["mock-t1", "mock-t500", "mock-t300-c7", "mock-t40-d2-f20"])
async def test_every_token_arrives_once_and_in_order(mock: str, name: str) -> None:
    egress = Egress()
    count = int(name.split("-")[1][1:])
    model = OpenAIChat(Upstream("mock", f"{mock}/v1"), egress)
    for _ in range(3):
        deltas = [d async for read in model.stream(Prompt(model=name, items=[])) for d in read]
        texts = [d.text for d in deltas if isinstance(d, TextDelta)]
        assert [int(text[1:5], 16) for text in texts] == list(range(count))
        assert deltas[-1] == Finish("stop", Usage(input_tokens=10, output_tokens=count))
    await egress.close()


async def test_fifty_streams_at_once_of_which_half_are_left(mock: str) -> None:
    egress = Egress()
    model = OpenAIChat(Upstream("mock", f"{mock}/v1"), egress)
    before = await wait_for_rest(egress, mock)

    async def run(leave: bool) -> int:
        count = 0
        stream = model.stream(Prompt(model="mock-t60-d2", items=[]))
        async for read in stream:
            count += sum(isinstance(delta, TextDelta) for delta in read)
            if leave and count >= 10:
                await stream.aclose()
                return count
        return count

    counts = await asyncio.gather(*(run(bool(number % 2)) for number in range(50)))
    assert counts[::2] == [60] * 25
    assert all(count < 60 for count in counts[1::2])
    after = await wait_for_rest(egress, mock)
    assert after["aborted"] - before["aborted"] == 25
    await egress.close()


async def wait_for_rest(egress: Egress, mock: str) -> dict[str, int]:
    """The counters once every answer has ended or was given up."""
    last = await stats(egress, mock)
    for _ in range(100):
        await asyncio.sleep(0.05)
        known = await stats(egress, mock)
        if known == last:
            return known
        last = known
    raise AssertionError(f"the streams go on: {last}")


async def test_its_models_are_listed(mock: str) -> None:
    egress = Egress()
    listed = await fetch(Upstream("mock", f"{mock}/v1"), egress)
    await egress.close()
    assert listed == dict.fromkeys(("mock", "first", "second"), 1700000000)
