"""What clients cost that ask for a long stream and never read it, and whether they disturb those who do read.

    python bench/slow_readers.py [--deaf 1000] [--readers 50] [--deltas 60] [--size 3000] [--pace 1.0]

Three times the same, each with a server of its own: so many runs that say `size` bytes each `pace` seconds, `deltas` times,
beside `readers` that read a stream of 20 tokens a second. First there are the readers alone; then the runs are in the
background and nobody follows them, which is what they cost anyway; then each has a client that does not read. What is
asked is how much more memory the server has then while all of them run; and at its most, which is when they end together.
"""

import argparse
import asyncio
import contextlib
import resource
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from backtalk.domain.model import Delta, Finish, Prompt, TextDelta, Usage
from backtalk.testing import Server
from soak import MB, environment, status

WARM_SECONDS = 3.0
ENDING_SECONDS = 180.0


class Long:
    """Says so many bytes, so often, so far apart, as its prompt tells it: `60 3000 1.0`."""

    id = "long"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        deltas, size, pace = prompt.items[-1]["content"][0]["text"].split()
        for _ in range(int(deltas)):
            yield [TextDelta("x" * int(size))]
            await asyncio.sleep(float(pace))
        yield [Finish("stop", Usage())]


class Figures(NamedTuple):
    """Bytes of memory that came with the runs, while all run and at the most; seconds between tokens; how runs ended."""

    running: int
    most: int
    gaps: list[float]
    statuses: dict[str, int]
    left: int


class Stage:
    """One of the three: a server, its readers, and so many runs, with deaf clients or without."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options = options
        self.home = home

    async def run(self, runs: int, *, deaf: bool) -> Figures:
        with Server(self.home, environment(None) | MODELS, ["--app", "soak_app:app", "--no-access-log"]) as server:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                await self._listen(http, server, WARM_SECONDS)
                before = status(server.pid)[0]
                with contextlib.ExitStack() as stack:
                    if deaf:
                        await asyncio.gather(*(self._ask(stack, server) for _ in range(runs)))
                    else:
                        await asyncio.gather(*(self._start(http, server) for _ in range(runs)))
                    watching = asyncio.create_task(self._watch(http, server, runs))
                    gaps = await self._listen(http, server, self.options.deltas * self.options.pace)
                    running, most, left = await watching
        return Figures(max(running - before, 0), max(most - before, 0), gaps, self._statuses(), left)

    def _prompt(self) -> str:
        return f"{self.options.deltas} {self.options.size} {self.options.pace}"

    async def _ask(self, stack: contextlib.ExitStack, server: Server) -> None:
        """A client that does not read. Small segments, as on a real line, keep the kernel from taking it all."""
        line = stack.enter_context(socket.socket())
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        line.setblocking(False)
        body = msgspec.json.encode({"model": "long", "input": self._prompt(), "stream": True})
        head = f"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, ("127.0.0.1", server.port))
        await loop.sock_sendall(line, head.encode() + body)

    async def _start(self, http: aiohttp.ClientSession, server: Server) -> None:
        """A run that nobody follows."""
        body = {"model": "long", "input": self._prompt(), "background": True}
        async with http.post(f"{server.url}/v1/responses", json=body) as answer:
            answer.raise_for_status()

    async def _listen(self, http: aiohttp.ClientSession, server: Server, seconds: float) -> list[float]:
        """The times between two tokens, of all readers."""
        found = await asyncio.gather(*(self._read(http, server, seconds) for _ in range(self.options.readers)))
        return [gap for gaps in found for gap in gaps]

    async def _read(self, http: aiohttp.ClientSession, server: Server, seconds: float) -> list[float]:
        body = {"model": "scripted", "input": f"[[pace:0.05]] [[tokens:{round(20 * seconds)}]]", "stream": True}
        gaps, before = [], 0.0
        async with http.post(f"{server.url}/v1/responses", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"event: response.output_text.delta"):
                    now = time.perf_counter()
                    gaps.append(now - before)
                    before = now
        return gaps[1:]

    async def _watch(self, http: aiohttp.ClientSession, server: Server, all_runs: int) -> tuple[int, int, int]:
        """Memory after four fifths of the runs, and at the most until they have ended; how many have not when it gives up."""
        lasts = self.options.deltas * self.options.pace
        began = time.monotonic()
        running, most, runs = 0, 0, all_runs
        while (runs or time.monotonic() < began + lasts) and time.monotonic() < began + lasts + ENDING_SECONDS:
            memory = status(server.pid)[0]
            most = max(most, memory)
            running = memory if time.monotonic() < began + 0.8 * lasts else running
            await asyncio.sleep(1)
            async with http.get(f"{server.url}/alive") as answer:
                runs = (await answer.json())["runs"]
        return running, most, runs

    def _statuses(self) -> dict[str, int]:
        with contextlib.closing(sqlite3.connect(self.home / "backtalk.sqlite")) as connection:
            return dict(connection.execute("SELECT status, count(*) FROM responses GROUP BY status"))


MODELS = {"BACKTALK_MODELS": "slow_readers:Long,backtalk.testing:ScriptedModel", "BACKTALK_MAX_RUNS": "100000"}


def stages(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for name, runs, deaf in (
        ("readers alone", 0, False),
        ("runs that nobody follows", options.deaf, False),
        ("clients that do not read", options.deaf, True),
    ):
        with tempfile.TemporaryDirectory() as folder:
            yield name, asyncio.run(Stage(options, Path(folder)).run(runs, deaf=deaf))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deaf", type=int, default=1000)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--deltas", type=int, default=60)
    parser.add_argument("--size", type=int, default=3000)
    parser.add_argument("--pace", type=float, default=1.0)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server inherits it
    found: dict[str, Figures] = {}
    print(f"{'':<26}{'running + MB':>14}{'most + MB':>11}{'gap p50 ms':>12}{'gap p99 ms':>12}  responses")
    for name, figures in stages(options):
        found[name] = figures
        parts: Any = statistics.quantiles(figures.gaps, n=100)
        times = f"{parts[49] * 1000:>12.1f}{parts[98] * 1000:>12.1f}"
        print(
            f"{name:<26}{figures.running / MB:>14.1f}{figures.most / MB:>11.1f}{times}  {figures.statuses}, {figures.left} not ended",
            flush=True,
        )
    deaf, nobody = found["clients that do not read"], found["runs that nobody follows"]
    print(f"\nwhat {options.deaf} clients cost that do not read, more than runs without:")
    for words, more in (("while all run", deaf.running - nobody.running), ("at the most", deaf.most - nobody.most)):
        print(f"  {words:<14}{more / MB:>8.1f} MB, {more / max(options.deaf, 1) / 1024:.1f} KB each")
    return 1 if any(figures.left for figures in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
