"""Crash loops: a real server is killed again and again, and nothing that it acknowledged may be missing afterwards.

    python -m backtalk.testing.crashes --kills 1000

starts `backtalk serve` in a home of its own and lets clients talk to it: streams, responses in the background,
conversations, chat completions, WebSockets, uploads that are made searchable, POSTs with an `Idempotency-Key`. They write
down what they were told. The server is killed at random moments, also while it starts and while it stops, and started
again; then it is asked for all of it. The exit code is 1 if anything was lost, is there twice, or does not come to an end.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from backtalk.testing.ledger import Ledger, Tally
from backtalk.testing.talk import Wire
from backtalk.testing.trial import GRACE, SCRIPTED, Say, Victim, check, check_file, say, talking, tell, wire_to

_EVERY = 10


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `life` is the longest time, in seconds, that a server is left alone once it is ready."""

    kills: int = 1000
    seed: int = 0
    database: str | None = None
    workers: int = 1
    signal: Literal["KILL", "TERM", "mixed"] = "KILL"
    home: Path | None = None
    life: float = 0.7


class Kills(Tally):
    """What was seen so far, and over how many kills."""

    def __init__(self) -> None:
        super().__init__()
        self.kills = 0
        self.lives = 0

    def __str__(self) -> str:
        return f"{self.kills} kills, {super().__str__()}"


class Crashes:
    """One run of a plan. `between` is called while the server is down, with the home of that server."""

    def __init__(
        self, plan: Plan, home: Path, say: Say = lambda line: None, between: Callable[[Path], None] | None = None
    ) -> None:
        self.plan = plan
        self.tally = Kills()
        self.ledger = Ledger(plan.seed)
        self.victim = Victim(home, _environment(plan), ["--grace", str(GRACE), "--workers", str(plan.workers)])
        self._say = say
        self._between = between
        self._chance = random.Random(plan.seed)  # noqa: S311  # a test's dice
        self._start_seconds = 1.0
        self._began = time.monotonic()
        self._reported = 0

    async def run(self) -> None:
        """All of it. Raises RuntimeError if the server does not start."""
        try:
            await self._kill_starting()
            while self.tally.kills < self.plan.kills:
                await self._live()
            await self._last_life()
        finally:
            if self.victim.process:
                self.victim.kill()
        self._check_file()

    async def _live(self) -> None:
        """A life of the server: it is started, asked for what its predecessors promised, put to work, and killed."""
        await self._start()
        self.tally.lives += 1
        async with wire_to(self.victim, self.ledger) as wire:
            slow = self.tally.kills // _EVERY > self._reported
            await check(wire, [*self.ledger.fresh, *self.ledger.some(self._chance)], self.tally, slow=slow)
            if slow:
                self._report()
            await self._work(wire)
        if self._between and not self.victim.alive:
            self._between(self.victim.home)
        if not self.victim.alive and self._chance.random() < 0.2 and self.tally.kills < self.plan.kills:
            await self._kill_starting()

    async def _last_life(self) -> None:
        await self._start()
        async with wire_to(self.victim, self.ledger) as wire:
            await check(wire, [*self.ledger.fresh, *self.ledger.settled], self.tally, slow=True)
        await self._terminate()

    async def _start(self) -> None:
        if self.victim.alive:
            return
        began = time.monotonic()
        self.victim.start()
        await asyncio.to_thread(self.victim.wait_ready, 60.0)
        self._start_seconds = time.monotonic() - began

    def _report(self) -> None:
        self._reported = self.tally.kills // _EVERY
        spent = time.monotonic() - self._began
        left = spent / self.tally.kills * (self.plan.kills - self.tally.kills)
        self._say(f"{self.tally}; {spent:.0f} s, about {max(left, 0):.0f} s to go")

    # killing

    async def _kill_starting(self) -> None:
        """Kills the server somewhere between its first instruction and its first answer."""
        self.victim.start()
        await asyncio.sleep(self._chance.uniform(0, 1.1 * self._start_seconds))
        self.victim.kill()
        self.tally.kills += 1

    async def _work(self, wire: Wire) -> None:
        """Lets the clients talk, kills the server while they do, and waits until all have noticed."""
        async with talking(wire, f"{self.plan.seed} {self.tally.lives}", self.tally):
            await asyncio.sleep(self._chance.uniform(0.02, self.plan.life))
            await self._strike()
            self.tally.kills += 1

    async def _strike(self) -> None:
        gently = self.plan.signal == "TERM" or (self.plan.signal == "mixed" and self._chance.random() < 0.3)
        workers = self.victim.workers() if self.plan.workers > 1 else []
        if gently and self._chance.random() < 0.3:  # and then not gently, while it stops
            self._signal(signal.SIGTERM)
            await asyncio.sleep(self._chance.uniform(0, 0.5))
            self.victim.kill()
        elif gently:
            await self._terminate()
        elif workers and self._chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)
        else:
            self.victim.kill()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victim.pid, number)

    async def _terminate(self) -> None:
        await asyncio.to_thread(self.victim.end, self.tally)

    def _check_file(self) -> None:
        url = self.plan.database or f"sqlite:///{self.victim.home / 'backtalk.sqlite'}"
        if url.startswith("sqlite:///"):
            check_file(Path(url.removeprefix("sqlite:///")), self.tally)


def _environment(plan: Plan) -> dict[str, str]:
    database = {"BACKTALK_DATABASE": plan.database} if plan.database else {}
    return {**SCRIPTED, **database}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def crash(plan: Plan, say: Say = lambda line: None, *, between: Callable[[Path], None] | None = None) -> Kills:
    """Carries a plan out. Without a home of the plan's own, one is made, and kept only if something was wrong.

    `between` is called with that home whenever the server is down.
    """
    home = plan.home or Path(tempfile.mkdtemp(prefix="backtalk-crashes-"))
    crashes = Crashes(plan, home, say, between)
    tally = crashes.tally
    try:
        asyncio.run(crashes.run())
    except KeyboardInterrupt:
        say("interrupted; what was seen until then:")
        tally.interrupted = True
    if tally.faults:
        say(f"the server's home is kept: {home}")
    elif plan.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return tally


def main(arguments: Sequence[str] | None = None, *, between: Callable[[Path], None] | None = None) -> int:
    """The command; returns its exit code."""
    return tell(crash(_plan(arguments), say, between=between))


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m backtalk.testing.crashes", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="how often the server is killed (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the dice; the moments still differ (default: 0)")
    parser.add_argument("--database", help="URL of an empty database (default: SQLite in the home)")
    parser.add_argument("--workers", type=int, default=1, help="processes that serve; single ones are killed too")
    parser.add_argument("--signal", choices=("KILL", "TERM", "mixed"), default="KILL", help="default: KILL")
    parser.add_argument("--home", type=Path, help="folder for the server (default: one that is made and removed)")
    return Plan(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must not outlive us
    sys.exit(main())
