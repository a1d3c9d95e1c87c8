"""What a second process does for the latency of a stream: `--workers 1` and `--workers 2`, on one SQLite file each time.

    python bench/bench_workers.py [--rounds 3] [--streams 50] [--tokens 40] [--rate 20]

A model server in C (`mock_llm.c`) writes into each token the moment at which it sends it, and a client (`loadgen.c`) the
moment at which the token arrives; both share this machine's clock. Streams start one after the other over two seconds.
Rounds are interleaved and medians taken: the ratios are the result, not the milliseconds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backtalk.testing.server import free_port
from bench_tokens import BUILD, RESPONSES, build, child

RAMP_MS = 2000
FIGURES = [("first event p50", "ttft", "p50"), ("first event p99", "ttft", "p99")]
FIGURES += [("delta p50", "lat", "p50"), ("delta p99", "lat", "p99")]


@contextlib.contextmanager
def served(workers: int, upstream: int, home: Path) -> Iterator[int]:
    """`backtalk serve` with so many workers. Yields its port."""
    port = free_port()
    env = {
        "BACKTALK_HOME": str(home),
        "BACKTALK_UPSTREAM": f"http://127.0.0.1:{upstream}/v1",
        "BACKTALK_DISCOVER": "false",
    }
    command = [sys.executable, "-m", "backtalk", "serve", "--port", str(port), "--workers", str(workers)]
    with child([*command, "--no-access-log"], None, f"http://127.0.0.1:{port}/healthz", env):
        yield port


def load(port: int, streams: int, model: str) -> dict[str, Any]:
    """One round of load. Raises SystemExit when a token was lost."""
    command = [str(BUILD / "loadgen"), "-p", str(port), "-k", str(streams), "-n", str(streams), "-m", model]
    command += ["-r", str(RAMP_MS), "-u", "/v1/responses", "-b", RESPONSES]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if result["failed"]:
        raise SystemExit(f"{result['failed']} streams failed: {result['fail']}")
    return result


def table(rounds: dict[int, list[dict[str, Any]]]) -> None:
    print(f"{'milliseconds':<18}{'1 worker':>10}{'2 workers':>11}{'ratio':>8}")
    for name, kind, part in FIGURES:
        one, two = (statistics.median(found[kind][part] for found in rounds[workers]) for workers in (1, 2))
        print(f"{name:<18}{one:>10.2f}{two:>11.2f}{two / one:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rate", type=int, default=20, help="tokens a second of each stream")
    options = parser.parse_args()
    build()
    model = f"mock-t{options.tokens}-d{1000 // options.rate}"
    rounds: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        stack.enter_context(child([str(BUILD / "mock_llm"), str(port)], None, f"http://127.0.0.1:{port}/health"))
        ports = {workers: stack.enter_context(served(workers, port, folder / str(workers))) for workers in rounds}
        for workers in rounds:  # warm
            load(ports[workers], 8, "mock-t20")
        for number in range(options.rounds):
            for workers, found in rounds.items():
                found.append(load(ports[workers], options.streams, model))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    print(f"\n{options.streams} streams of {options.rate} tokens/s, {os.cpu_count()} cores")
    table(rounds)


if __name__ == "__main__":
    main()
