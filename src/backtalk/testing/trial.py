"""What trials of a real server share: a victim, clients at work, a look at all that was promised, the command's end."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Self, TypeAlias

import aiohttp

from backtalk.testing.ledger import Fault, Ledger, Record, Tally
from backtalk.testing.server import Server
from backtalk.testing.talk import CLIENTS, Client, Passing, Wire

GRACE = 1
"""Seconds that a server's streams may go on after a SIGTERM."""
STOPPING = 15.0
SCRIPTED = {
    "BACKTALK_MODELS": "backtalk.testing:ScriptedModel",
    "BACKTALK_MODEL": "scripted",
    "BACKTALK_ACCESS_LOG": "false",
}
"""The environment in which clients of `backtalk.testing.talk` find the model that they talk to."""
_INTERRUPTED = 130
"""The exit code of what was ended by Ctrl-C."""
_LISTED = 50

Say: TypeAlias = Callable[[str], None]


class Victim(Server):
    """A server that leads a process group, so that all of it can be killed at once."""

    def start(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "backtalk", "serve", "--port", str(self.port), *self.args]
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL for everything that belongs to the server."""
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def workers(self) -> list[int]:
        """The process ids of the workers. Only Linux tells them."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return []

    def end(self, tally: Tally) -> None:
        """SIGTERM; a server that does not heed it is a fault."""
        try:
            self.stop(STOPPING)
        except subprocess.TimeoutExpired:
            tally.add(Fault("stuck", f"the server does not stop within {STOPPING:g} s of a SIGTERM"))


@contextlib.asynccontextmanager
async def wire_to(server: Server, ledger: Ledger) -> AsyncIterator[Wire]:
    """HTTP to a server."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Wire(http, server.url, ledger)


@contextlib.asynccontextmanager
async def talking(wire: Wire, seed: str, tally: Tally, clients: Sequence[Client] = CLIENTS) -> AsyncIterator[None]:
    """Lets clients talk. The server should be gone at the end of the block; they get a moment to notice."""
    talks = [asyncio.create_task(_talk(client, wire, f"{seed} {n}", tally)) for n, client in enumerate(clients)]
    try:
        yield
        await asyncio.wait(talks, timeout=0.2)
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _talk(client: Client, wire: Wire, seed: str, tally: Tally) -> None:
    try:
        await client(wire, random.Random(seed))  # noqa: S311  # a test's dice
    except Fault as fault:
        tally.add(fault)
    except (Passing, aiohttp.ClientError, aiohttp.WSMessageTypeError, ConnectionError, TimeoutError):
        pass  # what it was told until then is written down


async def check(wire: Wire, records: Iterable[Record], tally: Tally, *, slow: bool) -> None:
    """Sends again what was under way, then looks for everything else; what was looked at is settled."""
    wanted = [record for record in dict.fromkeys(records) if slow or not record.slow]
    turns = asyncio.Semaphore(8)
    for first in (True, False):
        await asyncio.gather(*(_check_one(wire, one, tally, turns) for one in wanted if one.first is first))


async def _check_one(wire: Wire, record: Record, tally: Tally, turns: asyncio.Semaphore) -> None:
    async with turns:
        try:
            await record.check(wire)
        except Fault as fault:
            tally.add(fault)
    wire.ledger.settle(record)
    tally.count(record)


def check_file(path: Path, tally: Tally) -> None:
    """SQLite's own look at its file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if found != ["ok"]:
        tally.add(Fault("wrong", f"the database file is damaged: {found[:5]}"))


def tell(tally: Tally) -> int:
    """Prints what was found; returns a command's exit code."""
    for words in list(tally.faults)[:_LISTED]:
        say(f"  {words}")
    if len(tally.faults) > _LISTED:
        say(f"  … and {len(tally.faults) - _LISTED} more")
    say(str(tally))
    return 1 if tally.faults else _INTERRUPTED if tally.interrupted else 0


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
