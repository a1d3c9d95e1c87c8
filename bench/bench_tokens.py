"""What a streamed token costs the server: CPU µs, against nginx and against a tutorial's server, in the same run.

    python bench/bench_tokens.py [--rounds 3] [--quick]

The mock model server and the load generator (C, beside this file) share core 0, the server under test has core 1. Rounds
are interleaved and medians taken; machines are shared and noisy, so the ratios are the result, not the microseconds.
Backtalk runs as it is shipped: `/v1/responses`, `store: true`, every event on disk before it leaves, with an API key.
nginx is a peer when it is installed (apt-get install nginx-light), the tutorial's server when httpx is.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from backtalk.testing.server import free_port

HERE = Path(__file__).parent
BUILD = HERE / ".build"
RESPONSES = '{"model":"%m","input":"Tell me something long.","stream":true}'


class Scenario(NamedTuple):
    name: str
    streams: int
    requests: int
    model: str
    ramp_ms: int


SCENARIOS = [
    Scenario("paced: 200 streams of 25 tokens/s", 200, 200, "mock-t250-d40", 4000),
    Scenario("saturated: 32 streams", 32, 640, "mock-t200", 0),
]


class Peer(NamedTuple):
    """A server under test. `extra` are the load generator's words for it."""

    name: str
    port: int
    pid: int
    extra: list[str]


def build() -> None:
    BUILD.mkdir(exist_ok=True)
    for name in ("mock_llm", "loadgen"):
        source = HERE / f"{name}.c"
        subprocess.run(["gcc", "-O2", "-o", str(BUILD / name), str(source), "-lm"], check=True)


@contextlib.contextmanager
def child(command: list[str], core: int | None, url: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process, on one core if that is given, once it answers at `url`. Yields its id."""
    pinned = ["taskset", "-c", str(core), *command] if core is not None and shutil.which("taskset") else command
    with subprocess.Popen(
        pinned, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(url)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def wait_for(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} does not answer") from None
            time.sleep(0.1)


@contextlib.contextmanager
def nginx(upstream: int, folder: Path) -> Iterator[Peer]:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""worker_processes 1; daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ worker_connections 4096; }}
        http {{ access_log off; upstream mock {{ server 127.0.0.1:{upstream}; keepalive 512; }}
          server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_buffering off; }} }} }}"""
    )
    with child([shutil.which("nginx") or "nginx", "-c", str(config)], 1, f"http://127.0.0.1:{port}/health") as pid:
        yield Peer("nginx", port, pid, [])


@contextlib.contextmanager
def tutorial(upstream: int, _: Path) -> Iterator[Peer]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tutorial_server:app", "--port", str(port), "--app-dir", str(HERE)]
    env = {"UPSTREAM": f"http://127.0.0.1:{upstream}"}
    with child([*command, "--log-level", "warning"], 1, f"http://127.0.0.1:{port}/docs", env) as pid:
        yield Peer("tutorial (FastAPI + httpx)", port, pid, [])


@contextlib.contextmanager
def backtalk(upstream: int, folder: Path) -> Iterator[Peer]:
    port = free_port()
    env = {
        "BACKTALK_HOME": str(folder / "home"),
        "BACKTALK_UPSTREAM": f"http://127.0.0.1:{upstream}/v1",
        "BACKTALK_DISCOVER": "false",
    }
    create = [sys.executable, "-m", "backtalk", "keys", "create"]
    made = subprocess.run(create, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    key = next(word for word in made.stdout.split() if word.startswith("bt_"))
    extra = ["-u", "/v1/responses", "-b", RESPONSES, "-H", f"Authorization: Bearer {key}"]
    command = [sys.executable, "-m", "backtalk", "serve", "--port", str(port)]
    with child(command, 1, f"http://127.0.0.1:{port}/healthz", env) as pid:
        yield Peer("backtalk (log before send)", port, pid, extra)


def load(peer: Peer, scenario: Scenario) -> dict[str, Any]:
    """One round of load. Raises SystemExit when a token was lost."""
    command = [str(BUILD / "loadgen"), "-p", str(peer.port), "-k", str(scenario.streams), "-n", str(scenario.requests)]
    command += ["-m", scenario.model, "-r", str(scenario.ramp_ms), "-P", str(peer.pid), *peer.extra]
    pinned = ["taskset", "-c", "0", *command] if shutil.which("taskset") else command
    result: dict[str, Any] = json.loads(subprocess.run(pinned, capture_output=True, text=True, check=True).stdout)
    if result["failed"]:
        raise SystemExit(f"{peer.name}: {result['failed']} streams failed: {result['fail']}")
    return result


def table(scenario: Scenario, rounds: dict[str, list[dict[str, Any]]]) -> None:
    ours = next(name for name in rounds if name.startswith("backtalk"))
    cost = {name: statistics.median(r["cpu_us_per_token"] for r in found) for name, found in rounds.items()}
    print(f"\n{scenario.name}")
    print(
        f"{'':<28}{'CPU µs/token':>14}{'× ours':>8}{'ttft p50 ms':>13}{'lat p50 ms':>12}{'lat p99 ms':>12}{'RSS MB':>8}"
    )
    for name, found in rounds.items():
        middle = sorted(found, key=lambda r: r["cpu_us_per_token"])[len(found) // 2]
        times = f"{middle['ttft']['p50']:>13.1f}{middle['lat']['p50']:>12.1f}{middle['lat']['p99']:>12.1f}"
        print(f"{name:<28}{cost[name]:>14.1f}{cost[name] / cost[ours]:>8.2f}{times}{middle['rss_peak_mb']:>8.0f}")
    for name in cost:
        if name != ours:
            print(f"  ours / {name}: {cost[ours] / cost[name]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    options = parser.parse_args()
    build()
    peers = [backtalk]
    if shutil.which("nginx"):
        peers.append(nginx)
    else:
        print("nginx is left out: apt-get install nginx-light")
    if importlib.util.find_spec("httpx"):
        peers.append(tutorial)
    else:
        print("the tutorial's server is left out: pip install httpx")
    scenarios = (
        [s._replace(requests=s.streams, model="mock-t50") for s in SCENARIOS[1:]] if options.quick else SCENARIOS
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        stack.enter_context(child([str(BUILD / "mock_llm"), str(port)], 0, f"http://127.0.0.1:{port}/health"))
        running = [stack.enter_context(start(port, folder)) for start in peers]
        for scenario in scenarios:
            rounds: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in running}
            for peer in running:  # warm
                load(peer, scenario._replace(streams=8, requests=8, model="mock-t20", ramp_ms=0))
            for _ in range(1 if options.quick else options.rounds):
                for peer in running:
                    rounds[peer.name].append(load(peer, scenario))
            table(scenario, rounds)


if __name__ == "__main__":
    main()
