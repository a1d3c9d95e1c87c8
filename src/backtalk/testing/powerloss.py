"""Power losses: what the disk may hold when the power goes is rebuilt, and nothing acknowledged may be missing there.

    python -m backtalk.testing.powerloss --points 1000

starts `backtalk serve` under a recorder of all that it does to its files and lets clients talk to it, as
`backtalk.testing.crashes` does. At random moments, also while it starts, after a kill and while it stops, it is noted what the
clients were told until then, and how far the record is. Of each such point a disk is made on which everything is that was
synced, and of all else what dice leave of it (`backtalk.testing.disk`); there a server is started and asked for everything
that had been acknowledged. The exit code is 1 if anything was lost, is there twice, or does not come to an end.

With `--disk lies` syncs are answered and not done, and with `--durability behind` events are sent before they are on the
disk: then things must be lost, or this command would prove nothing.
"""

import argparse
import asyncio
import contextlib
import copy
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from backtalk.testing.disk import Dice, Disk, Fate, Recorder, between_calls, read_record
from backtalk.testing.ledger import Fault, Ledger, Tally
from backtalk.testing.talk import CLIENTS, essays, searches
from backtalk.testing.trial import GRACE, SCRIPTED, Say, Victim, check, check_file, say, talking, tell, wire_to

_EVERY = 20
_LONG = 5
"""In every fifth session long items are written."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `session` is how many points are taken of a server's life, which is `life` seconds long, twice.

    `jobs` of them are looked at side by side.
    """

    points: int = 1000
    seed: int = 0
    home: Path | None = None
    disk: Literal["honest", "lies"] = "honest"
    durability: Literal["before", "behind"] = "before"
    jobs: int = 1
    session: int = 40
    life: float = 2.0


class Point(msgspec.Struct, frozen=True):
    """A moment: how many bytes the record had, and all that had been acknowledged until then."""

    position: int
    ledger: Ledger


class Losses(Tally):
    """What was seen so far, and at how many points."""

    def __init__(self) -> None:
        super().__init__()
        self.points = 0
        self.sessions = 0

    def merge(self, other: Tally, name: str) -> None:
        """Adds what was seen at one point."""
        self.verified.update(other.verified)
        for fault in other.faults.values():
            self.add(Fault(fault.kind, f"{name}: {str(fault).partition(': ')[2]}"))

    def __str__(self) -> str:
        return f"{self.points} power losses, {super().__str__()}"


class Session:
    """Two lives of a server under the recorder: the first is killed, the second is stopped. Nothing was there before."""

    def __init__(self, plan: Plan, recorder: Recorder, folder: Path, number: int) -> None:
        self.folder = folder / f"session{number}"
        self.points: list[Point] = []
        self.tally = Tally()
        self.record = self.folder / "record"
        self._plan = plan
        self._name = f"{plan.seed} {number}"
        self._chance = random.Random(self._name)  # noqa: S311  # a test's dice
        self._ledger = Ledger(plan.seed)
        self._clients = (*CLIENTS, searches, *([essays] * 3 if number % _LONG == 1 else []))
        self._talking = False
        self.disk = self.folder / "disk"
        self.disk.mkdir(parents=True)
        self.record.touch()
        recording = recorder.environment(self.disk, self.record, lies=plan.disk == "lies")
        home = {"BACKTALK_HOME": str(self.disk / "home"), "BACKTALK_DURABILITY": plan.durability}
        self._victim = Victim(self.folder, {**SCRIPTED, **recording, **home}, ["--grace", str(GRACE)])

    async def run(self) -> None:
        """Lets the server live, and takes the points. Raises RuntimeError if it does not start."""
        try:
            async with self._watched():
                await self._live(stop=False)
                await self._live(stop=True)
        finally:
            if self._victim.process:
                self._victim.kill()
        self._compare()

    async def _live(self, *, stop: bool) -> None:
        self._victim.start()
        await asyncio.to_thread(self._victim.wait_ready, 60.0)
        seed = f"{self._name} {stop}"
        async with (
            wire_to(self._victim, self._ledger) as wire,
            talking(wire, seed, self.tally, self._clients),
        ):
            self._talking = True
            await asyncio.sleep(self._plan.life * self._chance.uniform(0.5, 1.0))
            if stop:
                await asyncio.to_thread(self._victim.end, self.tally)
            else:
                with between_calls(self.record):
                    self._victim.kill()
        self._talking = False

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            self._take()
        *others, last = self.points
        chosen = self._chance.sample(others, min(self._plan.session - 1, len(others)))
        self.points = [*sorted(chosen, key=_position), last]

    async def _watch(self) -> None:
        """Takes points at random moments, few of them while there is little to lose."""
        while True:
            await asyncio.sleep(self._chance.uniform(0, 2 * self._plan.life / self._plan.session))
            if self._talking or self._chance.random() < 0.1:
                self._take()

    def _take(self) -> None:
        """No client can be told anything meanwhile, and all that they were told was in the record before that."""
        self.points.append(Point(self.record.stat().st_size, copy.deepcopy(self._ledger)))

    def _compare(self) -> None:
        """If nothing had been lost, all would be as it is: otherwise the recorder has missed something."""
        rebuilt = Disk(self.disk)
        for _, entry in read_record(self.record):
            rebuilt.apply(entry)
        everything = self.folder / "everything"
        rebuilt.rebuild(everything, lambda: "kept", self._chance)
        missed = sorted(_contents(everything).items() ^ _contents(self.disk).items())
        if missed:
            self.tally.add(Fault("wrong", f"the recorder has missed what was done to {sorted({n for n, _ in missed})}"))
        shutil.rmtree(everything)

    def disks(self) -> Iterator[tuple[Point, Disk]]:
        """Each point, and the disk as it was then."""
        disk = Disk(self.disk)
        records = read_record(self.record)
        position = 0
        for point in self.points:
            while position < point.position:
                position, entry = next(records)
                disk.apply(entry)
            yield point, disk


def _position(point: Point) -> int:
    return point.position


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def dice(chance: random.Random) -> Dice:
    """Decides what becomes of things that were not synced: nothing stays, or all, or some of it."""
    kept = chance.choice((0.0, 0.0, 0.1, 0.5, 0.9, 1.0))
    torn = chance.choice((0.0, 0.3, 1.0)) if kept else 0.0

    def fate() -> Fate:
        if chance.random() < kept:
            return "kept"
        return "torn" if chance.random() < torn else "dropped"

    return fate


class PowerLosses:
    """One run of a plan."""

    def __init__(self, plan: Plan, folder: Path, say: Say = lambda line: None) -> None:
        self.plan = plan
        self.tally = Losses()
        self._folder = folder
        self._say = say
        self._began = time.monotonic()

    async def run(self) -> None:
        """All of it. Raises RuntimeError if there can be no recorder, or the server does not start under it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(self._folder)
        while self.tally.points < self.plan.points:
            known = len(self.tally.faults)
            session = Session(self.plan, recorder, self._folder, self.tally.sessions)
            await session.run()
            self.tally.merge(session.tally, f"session {self.tally.sessions}")
            await self._verify(session)
            self.tally.sessions += 1
            if len(self.tally.faults) == known:
                shutil.rmtree(session.folder)

    async def _verify(self, session: Session) -> None:
        turns = asyncio.Semaphore(self.plan.jobs)
        first = self.tally.points
        async with asyncio.TaskGroup() as group:
            for number, (point, disk) in enumerate(session.disks(), first):
                if number == self.plan.points:
                    break
                await turns.acquire()
                chance = random.Random(f"{self.plan.seed} point {number}")  # noqa: S311  # a test's dice
                folder = self._folder / f"point{number}"
                folder.mkdir()
                disk.rebuild(folder / "disk", dice(chance), chance)
                looking = group.create_task(self._look(folder, point, slow=chance.random() < 0.5))
                looking.add_done_callback(lambda _: turns.release())

    async def _look(self, folder: Path, point: Point, *, slow: bool) -> None:
        """Starts a server on what is left, and asks it for everything."""
        shutil.copytree(folder / "disk", folder / "found")
        seen = await look(folder / "disk" / "home", point.ledger, slow=slow)
        self.tally.merge(seen, folder.name)
        self.tally.points += 1
        if seen.faults:
            self._say(f"{folder} is kept, {point.position:,} bytes into session {self.tally.sessions}:")
            self._say("\n".join(f"  {words}" for words in seen.faults))
        else:
            shutil.rmtree(folder)
        if self.tally.points % _EVERY == 0:
            self._report()

    def _report(self) -> None:
        spent = time.monotonic() - self._began
        left = spent / self.tally.points * (self.plan.points - self.tally.points)
        self._say(f"{self.tally}; {spent:.0f} s, about {left:.0f} s to go")


async def look(home: Path, ledger: Ledger, *, slow: bool) -> Tally:
    """What a server that is started in that home still knows of the ledger."""
    tally = Tally()
    victim = Victim(home.parent.parent, {**SCRIPTED, "BACKTALK_HOME": str(home)})
    victim.start()
    try:
        await asyncio.to_thread(victim.wait_ready, 60.0)
        async with wire_to(victim, ledger) as wire:
            await check(wire, [*ledger.fresh, *ledger.settled], tally, slow=slow)
        check_file(home / "backtalk.sqlite", tally)
    except (RuntimeError, sqlite3.Error) as error:
        tally.add(Fault("lost", f"nothing can be served from what is left: {error}"))
    finally:
        victim.kill()
    return tally


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def lose_power(plan: Plan, say: Say = lambda line: None) -> Losses:
    """Carries a plan out. Raises RuntimeError, with what is lacking, where nothing can be recorded.

    Without a home of the plan's own, one is made, and kept only if something was wrong.
    """
    folder = plan.home or Path(tempfile.mkdtemp(prefix="backtalk-powerloss-"))
    losses = PowerLosses(plan, folder.resolve(), say)
    tally = losses.tally
    try:
        asyncio.run(losses.run())
    except KeyboardInterrupt:
        say("interrupted; what was seen until then:")
        tally.interrupted = True
    if tally.faults:
        say(f"kept: {folder}, with the disks (found) and what a server has made of them (disk)")
    elif plan.home is None:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    plan = _plan(arguments)
    try:
        return tell(lose_power(plan, say))
    except (RuntimeError, FileExistsError) as error:
        say(str(error))
        return 2


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m backtalk.testing.powerloss", description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=1000, help="how often the power goes (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the dice; the moments still differ (default: 0)")
    parser.add_argument("--home", type=Path, help="an empty folder (default: one that is made and removed)")
    parser.add_argument("--disk", choices=("honest", "lies"), default="honest", help="lies: things must be lost")
    parser.add_argument("--durability", choices=("before", "behind"), default="before", help="the server's setting")
    parser.add_argument("--jobs", type=int, default=1, help="points that are looked at side by side (default: 1)")
    return Plan(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the server must not outlive us
    sys.exit(main())
