"""What a slow disk does to a token: milliseconds from the model to the client, as the disk is and with a slower fsync.

    python bench/bench_fsync.py [--ms 10] [--rounds 3] [--seconds 4]

The model writes into each token when it said it; the client subtracts. Every event is on the disk before it leaves, so a
token waits for one fsync, for that of the group before its own too, and not for those of other streams. The recorder of
`backtalk.testing.powerloss` is loaded in both cases and lets fsyncs take longer in one. Rounds are interleaved; the
ratio is the result, the milliseconds are the machine's.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import aiohttp
import msgspec

import backtalk
from backtalk.domain.model import Delta, Finish, Prompt, TextDelta, Usage
from backtalk.testing.disk import Recorder
from backtalk.testing.server import Server
from backtalk.testing.talk import read_frames

PACE = 0.04
STREAMS = (1, 20)


class Stamps:
    """A model whose tokens are the times at which they were said."""

    def __init__(self) -> None:
        self.id = "stamps"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        for _ in range(prompt.max_output_tokens or 100):
            await asyncio.sleep(PACE)
            yield [TextDelta(f"{time.monotonic()} ")]
        yield [Finish("stop", Usage(input_tokens=1, output_tokens=prompt.max_output_tokens or 100))]


async def delays(url: str, streams: int, seconds: float) -> list[float]:
    """Of all tokens of so many streams at once, in milliseconds."""
    async with aiohttp.ClientSession() as http:
        found = await asyncio.gather(*(_listen(http, url, int(seconds / PACE)) for _ in range(streams)))
    return [delay for stream in found for delay in stream]


async def _listen(http: aiohttp.ClientSession, url: str, tokens: int) -> list[float]:
    body = {"model": "stamps", "input": "What time is it?", "stream": True, "max_output_tokens": tokens}
    found: list[float] = []
    async with http.post(f"{url}/v1/responses", json=body) as answer:
        answer.raise_for_status()
        async for frame in read_frames(answer.content):
            now = time.monotonic()
            event = msgspec.json.decode(data) if (data := frame.partition(b"data: ")[2]) != b"[DONE]" else {}
            if event.get("type") == "response.output_text.delta":
                found += [(now - float(stamp)) * 1000 for stamp in event["delta"].split()]
    return found


def measure(recorder: Recorder, folder: Path, streams: int, seconds: float, ms: float) -> list[float]:
    models = {"BACKTALK_MODELS": "bench_fsync:Stamps", "BACKTALK_MODEL": "stamps", "BACKTALK_ACCESS_LOG": "false"}
    environment = models | recorder.environment(folder, None, sync_ms=ms) | {"PYTHONPATH": _path()}
    with Server(folder, environment) as server:
        asyncio.run(delays(server.url, 1, 0.5))  # warm
        return asyncio.run(delays(server.url, streams, seconds))


def _path() -> str:
    """Where the server finds this model and the Backtalk that is measured."""
    return f"{Path(__file__).parent.resolve()}:{Path(backtalk.__file__).parent.parent}"


def percentiles(values: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ms", type=float, default=10.0, help="what each fsync takes longer (default: 10)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each stream goes on")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        recorder = Recorder(Path(scratch))
        for streams in STREAMS:
            seen: dict[float, list[float]] = {0.0: [], told.ms: []}
            for number in range(told.rounds):
                for ms in seen:
                    folder = Path(scratch) / f"{streams}-{number}-{ms}"
                    seen[ms] += measure(recorder, folder, streams, told.seconds, ms)
            _print(streams, seen, told.ms)


def _print(streams: int, seen: dict[float, list[float]], ms: float) -> None:
    plain, slow = percentiles(seen[0.0]), percentiles(seen[ms])
    print(f"streams of {1 / PACE:g} tokens/s, {streams} at once: model to client, p50 / p99 of {len(seen[ms])} tokens")
    print(f"  the disk as it is   {plain[0]:7.2f} / {plain[1]:7.2f} ms")
    print(f"  fsync + {ms:g} ms       {slow[0]:7.2f} / {slow[1]:7.2f} ms", end="")
    print(f"   {slow[0] / plain[0]:.1f} × / {slow[1] / plain[1]:.1f} ×, {slow[0] - plain[0]:+.1f} ms at p50")


if __name__ == "__main__":
    main()
