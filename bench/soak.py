"""A server that answers for long must not grow: 100,000 responses of all kinds, and what the process holds meanwhile.

    python bench/soak.py [--responses 100000] [--clients 32] [--only KIND…] [--database URL] [--report FILE]

`backtalk serve` runs as a child with the scripted model, on SQLite unless told otherwise. Clients ask for streams that are stored and streams
that are not, for chat completions, JSON, turns that go on from others, turns over WebSockets; some leave in the middle,
some leave a background response and read the rest of it later. Every 5 % of the run they pause, and memory, files,
tasks and threads of the server are counted while nothing is asked of it.

The exit code is 1 if an answer was wrong; if memory grew by more than 5 % after the first tenth of the run; or if at the
end more files or tasks are open than after that tenth.
"""

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import msgspec

from backtalk.testing import Server

HERE = Path(__file__).parent
STEPS = 20
WARM = 2
"""Steps after which the server must have all the memory that it needs."""
GROWTH = 0.05
SETTLE_SECONDS = 20.0
MB = 2**20


class Wrong(Exception):
    """An answer that was not as it must be."""


class Sample(NamedTuple):
    """What a server holds, after so many responses, while nothing is asked of it; `busiest`: most files under load."""

    responses: int
    seconds: float
    memory: int
    files: int
    busiest: int
    tasks: int
    threads: int
    objects: int


class Outcome(NamedTuple):
    samples: list[Sample]
    kinds: Counter[str]
    wrong: Counter[str]

    @property
    def warm(self) -> Sample:
        return self.samples[WARM]

    @property
    def growth(self) -> float:
        """The part by which memory grew, at the most, since the server was warm."""
        return max(sample.memory for sample in self.samples[WARM:]) / self.warm.memory - 1

    def faults(self, growth: float = GROWTH, pool: int = 0) -> list[str]:
        """What is not as it must be, in words. `pool`: files that the database's connections may not have opened yet
        when the server was warm."""
        found = [f"{times} × {words}" for words, times in self.wrong.most_common(10)]
        if self.growth > growth:
            found.append(f"memory grew by {self.growth:.1%}")
        for name in ("files", "tasks"):
            before, after = getattr(self.warm, name), getattr(self.samples[-1], name)
            if after > before + (pool if name == "files" else 0):
                found.append(f"{after} {name} are open, {before} were")
        return found


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Client:
    """One of many. What it says differs in length, so that no run is in step with another."""

    def __init__(self, http: aiohttp.ClientSession, url: str, chance: random.Random) -> None:
        self.http = http
        self.base = f"{url}/v1"
        self.chance = chance
        self.last: str | None = None

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"input": f"Say it. [[tokens:{self.chance.randint(1, 40)}]]", **fields}

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.http.post(self.base + path, json=body) as answer:
            return msgspec.json.decode(await checked(answer))

    async def events(self, path: str, body: dict[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """A stream's events; the last one is `[DONE]`, without its brackets."""
        asked = self.http.get(self.base + path) if body is None else self.http.post(self.base + path, json=body)
        async with asked as answer:
            if answer.status != 200:
                await checked(answer)
            async for line in answer.content:
                if line == b"data: [DONE]\n":
                    yield {"type": "DONE"}
                elif line.startswith(b"data: "):
                    yield msgspec.json.decode(line[6:])

    async def read(self, path: str, body: dict[str, Any] | None = None, first: int = 0) -> str:
        """Reads a stream of the Responses API to its end. Returns the response's id."""
        events = [event async for event in self.events(path, body)]
        numbers = [event["sequence_number"] for event in events[:-1]]
        demand(numbers == list(range(first, first + len(numbers))), f"the numbers of {path.partition('?')[0]}")
        demand(events[-1]["type"] == "DONE" and events[-2]["type"] == "response.completed", "the end of a stream")
        return str(events[-2]["response"]["id"])


async def stored(client: Client) -> None:
    client.last = await client.read("/responses", client.body(stream=True))


async def unstored(client: Client) -> None:
    await client.read("/responses", client.body(stream=True, store=False))


async def plain(client: Client) -> None:
    made = await client.post("/responses", client.body())
    demand(made["status"] == "completed", "the status of a response")


async def follow_up(client: Client) -> None:
    """Goes on from an earlier response, where there is one; talks stay short."""
    previous, client.last = client.last, None
    await client.read("/responses", client.body(stream=True, previous_response_id=previous))


async def chat(client: Client) -> None:
    body = {"messages": [{"role": "user", "content": client.body()["input"]}], "stream": True}
    chunks = [chunk async for chunk in client.events("/chat/completions", body)]
    demand(chunks[-2]["choices"][0]["finish_reason"] == "stop", "the end of a chat completion")


async def leaver(client: Client) -> None:
    """Leaves in the middle of a stream; what it asked for is ended without it."""
    said = "[[pace:0.01]] [[tokens:400]]"
    most = client.chance.randint(1, 20)
    async for event in client.events("/responses", {"input": said, "stream": True}):
        demand(event["type"] != "DONE", "a stream that ended before its client left")
        if (most := most - 1) <= 0:
            return


async def resumer(client: Client) -> None:
    """Leaves a background response, and reads the rest of it."""
    said = f"[[pace:0.002]] [[tokens:{client.chance.randint(10, 40)}]]"
    left = client.chance.randint(0, 10)
    name = ""
    async for event in client.events("/responses", {"input": said, "stream": True, "background": True}):
        name = name or event["response"]["id"]
        if event["sequence_number"] == left:
            break
    await client.read(f"/responses/{name}?stream=true&starting_after={left}", first=left + 1)


async def socket(client: Client) -> None:
    async with client.http.ws_connect(f"{client.base}/responses") as line:
        await line.send_json({"type": "response.create", **client.body()})
        while (kind := msgspec.json.decode(await line.receive_str())["type"]) != "response.completed":
            demand(kind not in ("error", "response.failed", "response.incomplete"), f"{kind} over a WebSocket")


Kind: TypeAlias = Callable[[Client], Awaitable[None]]
KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (stored, unstored, chat, follow_up, plain, leaver, resumer, socket)
}
WEIGHTS = {"stored": 4, "unstored": 2, "chat": 2}


def demand(holds: bool, words: str) -> None:
    if not holds:
        raise Wrong(f"wrong: {words}")


async def checked(answer: aiohttp.ClientResponse) -> bytes:
    data = await answer.read()
    demand(answer.status == 200, f"{answer.status} {data[:200]!r}")
    return data


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Soak:
    """Asks a server of its own for so many responses, `clients` at a time, and counts what it holds."""

    def __init__(
        self, responses: int, clients: int, kinds: Sequence[str] = (), seed: int = 0, database: str | None = None
    ) -> None:
        self.responses = responses
        self.clients = clients
        self.database = database
        self.app = "soak_app:app"
        self.outcome = Outcome([], Counter(), Counter())
        self._kinds = [name for name in kinds or KINDS for _ in range(WEIGHTS.get(name, 1))]
        self._chance = random.Random(seed)
        self._began = time.monotonic()
        self._left = 0

    async def run(self, home: Path, say: Callable[[str], None]) -> Outcome:
        with Server(home, environment(self.database), ["--app", self.app, "--no-access-log"]) as server:
            self.outcome.samples.append(await self._sample(server, 0))
            say(HEAD)
            say(row(self.outcome.samples[0]))
            for step in range(STEPS):
                self._left = self.responses * (step + 1) // STEPS - self.responses * step // STEPS
                busiest = await self._load(server)
                self.outcome.samples.append(await self._sample(server, busiest))
                say(row(self.outcome.samples[-1]))
        return self.outcome

    async def _load(self, server: Server) -> int:
        """A step of the run. Returns how many files the server had open at the most."""
        watching = asyncio.create_task(most_files(server.pid))
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            chances = [random.Random(self._chance.random()) for _ in range(self.clients)]
            await asyncio.gather(*(self._ask(Client(http, server.url, chance)) for chance in chances))
        watching.cancel()
        return (await asyncio.gather(watching))[0]

    async def _ask(self, client: Client) -> None:
        while self._left > 0:
            self._left -= 1
            kind = client.chance.choice(self._kinds)
            try:
                await KINDS[kind](client)
                self.outcome.kinds[kind] += 1
            except (Wrong, aiohttp.ClientError, TimeoutError) as error:
                self.outcome.wrong[f"{kind}: {type(error).__name__} {error}"] += 1

    async def _sample(self, server: Server, busiest: int) -> Sample:
        """Waits until nothing is left of the load, and counts. What does not go away in time is told as it is."""
        deadline = time.monotonic() + SETTLE_SECONDS
        async with aiohttp.ClientSession() as http:
            before, found = None, await self._count(http, server, busiest)
            while not (before and calm(before, found, self.outcome.samples)) and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
                before, found = found, await self._count(http, server, busiest)
        return found

    async def _count(self, http: aiohttp.ClientSession, server: Server, busiest: int) -> Sample:
        async with http.get(f"{server.url}/alive") as answer:
            alive = await answer.json()
        responses = self.outcome.kinds.total() + self.outcome.wrong.total()
        seconds = time.monotonic() - self._began
        memory, threads = status(server.pid)
        files = open_files(server.pid)
        return Sample(responses, seconds, memory, files, busiest, alive["tasks"], threads, alive["objects"])


def calm(before: Sample, found: Sample, samples: Sequence[Sample]) -> bool:
    """Whether nothing changes any more, and no more is open than was. How many files its database keeps open is not known
    before the server is warm."""
    if (before.files, before.tasks) != (found.files, found.tasks):
        return False
    if len(samples) <= WARM:
        return not samples or found.tasks <= samples[0].tasks
    return found.files <= samples[WARM].files and found.tasks <= samples[WARM].tasks


def environment(database: str | None) -> dict[str, str]:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    models = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
    named = {"BACKTALK_DATABASE": database} if database else {}
    return {**models, **named, "PYTHONPATH": os.pathsep.join(paths)}


def status(pid: int) -> tuple[int, int]:
    """Bytes of memory and number of threads of a process, as Linux tells them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"])


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def most_files(pid: int) -> int:
    """The most that were seen until it is cancelled."""
    most = 0
    try:
        while True:
            most = max(most, open_files(pid))
            await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        return most


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────

HEAD = f"{'responses':>10}{'seconds':>9}{'RSS MB':>9}{'files':>7}{'busiest':>9}{'tasks':>7}{'threads':>9}{'objects':>9}"


def row(sample: Sample) -> str:
    counts = f"{sample.files:>7}{sample.busiest:>9}{sample.tasks:>7}{sample.threads:>9}{sample.objects:>9,}"
    return f"{sample.responses:>10,}{sample.seconds:>9.0f}{sample.memory / MB:>9.1f}{counts}"


_REPORT = """# A long run

A server that answers for long must not grow. `make soak` asks a real `backtalk serve` for {responses:,} responses, {clients} at a
time, counts what its process holds at every twentieth of the way, and writes this page.

- What is asked for: streams that are stored (`stored`) and that are not (`unstored`), chat completions (`chat`), JSON (`plain`), turns
  that go on from others (`follow_up`), turns over WebSockets of their own (`socket`), background responses whose client leaves and
  reads the rest (`resumer`), and clients that leave in the middle for good (`leaver`). Answers have 1 to 40 tokens; each is checked.
- When it is counted: the clients have closed their connections and nothing is under way. `busiest` is the most files under load.
- What must hold: after {warm:.0%} of the run memory grows by {growth:.0%} at the most, and at the end no more files and tasks are open
  than there were then. Until then caches fill, and stay: SQLite's pages (16 MB for the connection that writes, and up to as much
  for each of the four that read), its compiled statements, the allocator's arenas.

{verdict}

{kinds}. Python {python}, {system}, {database}.

| responses | seconds | RSS MB | | files | busiest | tasks | threads |
|--:|--:|--:|:--|--:|--:|--:|--:|
{rows}

`python bench/soak.py --only socket chat` asks for some kinds only, to find which one grows; `--responses`, `--clients` and
`--database` do what they say. A sample of it runs with the tests.
"""


def report(outcome: Outcome, soak: Soak) -> str:
    """The page about a run."""
    faults = "; ".join(outcome.faults())
    words = f"memory grew by {outcome.growth:.1%}" if outcome.growth > 0 else "memory did not grow"
    return _REPORT.format(
        responses=soak.responses,
        clients=soak.clients,
        warm=WARM / STEPS,
        growth=GROWTH,
        verdict=f"**It did not hold: {faults}.**"
        if faults
        else f"Measured: {words} after that, and no answer was wrong.",
        kinds=", ".join(f"{count:,} {kind}" for kind, count in outcome.kinds.most_common()),
        python=platform.python_version(),
        system=platform.system(),
        database=(soak.database or "sqlite").partition(":")[0],
        rows="\n".join(cells(sample, max(one.memory for one in outcome.samples)) for sample in outcome.samples),
    )


def cells(sample: Sample, most: int) -> str:
    """A row of the page's table, with a bar that begins at nothing."""
    bar = "█" * round(30 * sample.memory / most)
    memory = f"{sample.memory / MB:.1f} | {bar}"
    counts = f"{sample.files} | {sample.busiest or ''} | {sample.tasks} | {sample.threads}"
    return f"| {sample.responses:,} | {sample.seconds:.0f} | {memory} | {counts} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=32, help="how many ask at the same time")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=(), help="kinds of responses, to find what grows")
    parser.add_argument("--database", help="URL of an empty database (default: SQLite in a folder that is removed)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="a Markdown file that the curve is written to")
    options = parser.parse_args(arguments)
    soak = Soak(options.responses, options.clients, options.only, options.seed, options.database)
    with tempfile.TemporaryDirectory(prefix="backtalk-soak-") as folder:
        outcome = asyncio.run(soak.run(Path(folder), say))
    faults = outcome.faults()
    say(f"memory grew by {outcome.growth:+.1%} at the most since {outcome.warm.responses:,} responses")
    for words in faults:
        say(f"  {words}")
    if options.report:
        options.report.write_text(report(outcome, soak), "utf-8")
    return 1 if faults else 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
