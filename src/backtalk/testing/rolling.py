"""Rolling restarts: two replicas on one database are restarted in turn under load, and clients must not notice.

    python -m backtalk.testing.rolling --restarts 100

starts `backtalk serve` twice, on two ports, and lets the clients of the crash loops talk to both as they would through a
load balancer: where a connection is refused, or the answer is a 503 with a Retry-After, the other replica is asked; a
stream that was cut is resumed at the other one. Meanwhile one replica after the other gets a SIGTERM and is started anew.
Everything that was acknowledged is asked for again. The exit code is 1 if anything was lost, is there twice, does not come
to an end, or if a client saw any other error.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from backtalk.testing.ledger import Fault, Ledger, Object, Record, Tally, Told
from backtalk.testing.talk import CLIENTS, PATIENCE, Client, Passing, Wire
from backtalk.testing.trial import GRACE, SCRIPTED, Say, Victim, check, say, tell

_STOPPING = 20.0
_TIMEOUT = 60.0
_ROUND = 10
"""Restarts between two looks at everything that was acknowledged."""
_CUT = (Passing, aiohttp.ClientError, aiohttp.WSMessageTypeError, ConnectionError)
"""What a client sees of a stream that ends in the middle."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `life` is the longest time, in seconds, that both replicas are left alone between two restarts."""

    restarts: int = 100
    seed: int = 0
    database: str | None = None
    home: Path | None = None
    life: float = 1.0


class Rolled(Tally):
    """What was seen so far. `seen` counts what a load balancer hides from its clients, and what they resumed."""

    def __init__(self, say: Say = lambda line: None) -> None:
        super().__init__()
        self.restarts = 0
        self.seen: Counter[str] = Counter()
        self._say = say

    def add(self, fault: Fault) -> None:
        if str(fault) not in self.faults:
            self._say(f"  {fault}")
        super().add(fault)

    def __str__(self) -> str:
        seen = ", ".join(f"{count:,} {name}" for name, count in sorted(self.seen.items()))
        return f"{self.restarts} restarts, {super().__str__()}; {seen}"


# ── the load balancer, and clients that resume ───────────────────────────────────────────────────────────────────────


class Balancer:
    """Asks the replicas in turn, and the next one where it may: nothing was done, or it can be asked for again."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str], tally: Rolled) -> None:
        self._http = http
        self._urls = itertools.cycle(urls)
        self._tally = tally

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with await self._answer(method, path, options) as answer:
            yield answer

    def get(self, path: str) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.request("GET", path)

    def post(self, path: str, **options: Any) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.request("POST", path, **options)

    @contextlib.asynccontextmanager
    async def ws_connect(self, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = await self._http.ws_connect(next(self._urls) + path, **options)
                break
            except aiohttp.WSServerHandshakeError as error:
                self._refused(path, error.status, error.headers or {})
            except (aiohttp.ClientConnectionError, ConnectionError) as error:
                self._count(error)
            await _a_moment(path, deadline)
        async with line:
            yield line

    async def _answer(self, method: str, path: str, options: dict[str, Any]) -> aiohttp.ClientResponse:
        deadline = time.monotonic() + PATIENCE
        tried = unanswered = False
        while True:
            try:
                answer = await self._http.request(method, next(self._urls) + path, **options)
            except (aiohttp.ClientConnectionError, ConnectionError) as error:
                unanswered |= self._count(error)
            else:
                if not await self._come_again(path, answer, tried or unanswered):
                    self._check_done_once(f"{method} {path}", answer, unanswered)
                    return answer
                tried = True
            await _a_moment(path, deadline)

    async def _come_again(self, path: str, answer: aiohttp.ClientResponse, tried: bool) -> bool:
        """A 503; or that a replica which was asked before has not let go of the key until its process has ended."""
        if answer.status == 503:
            async with answer:
                self._refused(path, answer.status, answer.headers)
            return True
        if tried and answer.status == 409 and b"idempotency_key_in_use" in await answer.read():
            self._tally.seen["waited for their key"] += 1
            return True
        return False

    def _count(self, error: Exception) -> bool:
        """Whether there was a connection, so that something may have been done."""
        refused = isinstance(error, aiohttp.ClientConnectorError)
        self._tally.seen["refused" if refused else "closed before an answer"] += 1
        return not refused

    def _refused(self, path: str, status: int, headers: Mapping[str, str]) -> None:
        if status != 503:
            raise Fault("wrong", f"{path} answers {status}")
        if "retry-after" not in headers:
            raise Fault("wrong", f"{path} answers 503 without a Retry-After")
        self._tally.seen["answered 503"] += 1

    def _check_done_once(self, name: str, answer: aiohttp.ClientResponse, unanswered: bool) -> None:
        """A request that was carried out must be answered, whoever stops meanwhile."""
        if unanswered and answer.headers.get("idempotent-replayed"):
            raise Fault("wrong", f"{name} was carried out, but its connection was closed before an answer")


async def _a_moment(path: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Fault("stuck", f"no replica takes {path} within {PATIENCE:g} s")
    await asyncio.sleep(0.02)


class Line(Wire):
    """What one client hears through the load balancer: event for event, without a gap, also over a cut."""

    def __init__(self, http: Any, ledger: Ledger) -> None:
        super().__init__(http, "", ledger)
        self.telling: Told | None = None

    def hear(self, frame: bytes, told: Told | None) -> Told | None:
        known = len(told.frames) if told else 0
        self.telling = told = super().hear(frame, told)
        if told and len(told.frames) != known + (frame != b"data: [DONE]"):
            raise Fault("duplicated", f"an event of {told.id} was told again after {known}: {frame!r}"[:500])
        if told and told.frames and max(told.frames) != len(told.frames) - 1:
            raise Fault("lost", f"after {known} events of {told.id} came {frame!r}"[:500])
        return told

    async def go_on(self) -> bool:
        """Reads what was cut to its end. Whether there was anything."""
        told, self.telling = self.telling, None
        if told is None or told.end or await self._is_cancelled(told):
            return False
        while told.end is None:
            with contextlib.suppress(*_CUT):
                await self.resume(told, max(told.frames, default=-1))
            if told.end is None and await self._is_cancelled(told):
                break
        return True

    async def _is_cancelled(self, told: Told) -> bool:
        """A cancelled response has no last event."""
        return bool((await self.find(f"/responses/{told.id}"))["status"] == "cancelled")


async def followers(wire: Wire, chance: random.Random) -> None:
    """Long responses in the background, read in one go: most are cut, or end because their replica stops."""
    while True:
        said = f"{wire.ledger.word()} [[pace:0.02]] [[tokens:{chance.randint(50, 150)}]]"
        made = await wire.post("/responses", {"input": said, "background": True})
        wire.ledger.add(Object(f"/responses/{made['id']}", made))
        told = Told(made["id"])
        wire.ledger.add(told)
        await wire.resume(told, -1)
        if told.end is None:
            raise Passing


async def slow(wire: Wire, chance: random.Random) -> None:
    """Answers, streamed or not, that take longer than a replica that is told to stop waits."""
    while True:
        body = {"input": f"{wire.ledger.word()} [[pace:0.05]] [[tokens:{chance.randint(20, 80)}]]"}
        keyed = chance.random() < 0.5
        if chance.random() < 0.5:
            await wire.stream(body, keyed=keyed)
        else:
            made = await wire.post("/responses", body, keyed=keyed)
            wire.ledger.add(Object(f"/responses/{made['id']}", made))


# ── the restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Rolling:
    """One run of a plan."""

    def __init__(self, plan: Plan, home: Path, say: Say = lambda line: None) -> None:
        self.plan = plan
        self.tally = Rolled(say)
        self.ledger = Ledger(plan.seed)
        args = ["--grace", str(GRACE)]
        self.replicas = [Victim(home, _environment(plan), args) for _ in range(2)]
        self._say = say
        self._chance = random.Random(plan.seed)  # noqa: S311  # a test's dice

    async def run(self) -> None:
        """All of it. Raises RuntimeError if a replica does not start."""
        try:
            await asyncio.gather(*map(self._start, self.replicas))
            while self.tally.restarts < self.plan.restarts:
                async with self._balancer() as http:
                    await self._round(http)
                    await self._check(http, self.ledger.fresh)
                self._say(str(self.tally))
            async with self._balancer() as http:
                await self._check(http, [*self.ledger.fresh, *self.ledger.settled])
            await asyncio.gather(*map(self._stop, self.replicas))
        finally:
            for replica in self.replicas:
                if replica.alive:
                    replica.kill()
        self._check_log()

    @contextlib.asynccontextmanager
    async def _balancer(self) -> AsyncIterator[Balancer]:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            yield Balancer(http, [replica.url for replica in self.replicas], self.tally)

    async def _round(self, http: Balancer) -> None:
        """Some restarts, while clients talk."""
        clients = [
            asyncio.create_task(self._serve(client, http, number))
            for number, client in enumerate((*CLIENTS, followers, followers, slow, slow))
        ]
        last = min(self.tally.restarts + _ROUND, self.plan.restarts)
        while self.tally.restarts < last:
            await asyncio.sleep(self._chance.uniform(0.1, self.plan.life))
            await self._restart(self.replicas[self.tally.restarts % 2])
            self.tally.restarts += 1
        for client in clients:
            client.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(ended, Exception):
                self.tally.add(Fault("wrong", f"a client broke: {ended!r}"))

    async def _restart(self, replica: Victim) -> None:
        await self._stop(replica)
        await self._start(replica)

    async def _start(self, replica: Victim) -> None:
        replica.start()
        await asyncio.to_thread(replica.wait_ready, 60.0)

    async def _stop(self, replica: Victim) -> None:
        try:
            code = await asyncio.to_thread(replica.stop, _STOPPING)
        except subprocess.TimeoutExpired:
            self.tally.add(Fault("stuck", f"a replica does not stop within {_STOPPING:g} s of a SIGTERM"))
            return
        if code:
            self.tally.add(Fault("wrong", f"a replica that was told to stop ended with exit code {code}"))

    async def _serve(self, client: Client, http: Balancer, number: int) -> None:
        """A client, until it is cancelled: what was cut is read to its end at the other replica, and it goes on."""
        chance = random.Random(f"{self.plan.seed} {self.tally.restarts} {number}")  # noqa: S311  # a test's dice
        line = Line(http, self.ledger)
        while True:
            try:
                try:
                    await client(line, chance)
                except _CUT:
                    self.tally.seen["streams resumed"] += await line.go_on()
            except Fault as fault:
                self.tally.add(fault)
            except TimeoutError:
                self.tally.add(Fault("stuck", f"{client.__name__}: an answer did not end within {_TIMEOUT:g} s"))

    async def _check(self, http: Balancer, records: Iterable[Record]) -> None:
        """Asks for everything, first again what was under way when the clients stopped."""
        await check(Line(http, self.ledger), list(records), self.tally, slow=True)

    def _check_log(self) -> None:
        log = self.replicas[0].log  # both write to it
        if "Traceback" in log:
            self.tally.add(Fault("wrong", f"a replica's log: {log[log.index('Traceback') :][:2000]}"))


def _environment(plan: Plan) -> dict[str, str]:
    database = {"BACKTALK_DATABASE": plan.database} if plan.database else {}
    return {**SCRIPTED, **database}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def roll(plan: Plan, say: Say = lambda line: None) -> Rolled:
    """Carries a plan out. Without a home of the plan's own, one is made, and kept only if something was wrong."""
    home = plan.home or Path(tempfile.mkdtemp(prefix="backtalk-rolling-"))
    rolling = Rolling(plan, home, say)
    try:
        asyncio.run(rolling.run())
    except KeyboardInterrupt:
        say("interrupted; what was seen until then:")
        rolling.tally.interrupted = True
    if rolling.tally.faults:
        say(f"the replicas' home is kept: {home}")
    elif plan.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return rolling.tally


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m backtalk.testing.rolling", description=__doc__.split("\n")[0])
    parser.add_argument("--restarts", type=int, default=100, help="how often a replica is restarted (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the dice; the moments still differ (default: 0)")
    parser.add_argument("--database", help="URL of an empty database (default: SQLite in the home)")
    parser.add_argument("--home", type=Path, help="folder for both (default: one that is made and removed)")
    return tell(roll(Plan(**vars(parser.parse_args(arguments))), say))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the replicas must not outlive us
    sys.exit(main())
