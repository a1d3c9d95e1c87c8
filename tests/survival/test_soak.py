"""A sample of the long run; `make soak` asks for 100,000 responses and holds memory to its bound."""

import asyncio
import sys
from pathlib import Path

import pytest

from backtalk.storage.sqlite import READ_THREADS
from support import lacking

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import soak

LEAKY = """
import asyncio
from soak_app import app

leaked = []

class Leaky:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "POST":
            leaked.append((open("/dev/null"), asyncio.create_task(asyncio.Event().wait()), bytearray(b"x" * 200_000)))
        await self.app(scope, receive, send)

app.add_middleware(Leaky)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        lacking("what a process holds is counted in /proc, which only Linux has")
    monkeypatch.setattr(soak, "STEPS", 5)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    outcome = asyncio.run(soak.Soak(1500, 32, seed=1).run(tmp_path, print))
    pool = 2 * READ_THREADS  # the file and its log, for each connection that reads
    assert outcome.faults(growth=0.5, pool=pool) == []  # its caches are still filling: the bound is for the long run
    assert outcome.kinds.keys() == soak.KINDS.keys()
    assert outcome.kinds.total() == outcome.samples[-1].responses == 1500


def test_what_grows_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLE_SECONDS", 0.3)
    (tmp_path / "leaky.py").write_text(LEAKY)
    run = soak.Soak(300, 8, ["plain", "stored"])
    run.app = "leaky:app"
    found = "\n".join(asyncio.run(run.run(tmp_path, print)).faults())
    for words in ("memory grew by", "files are open", "tasks are open"):
        assert words in found


def test_a_wrong_answer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def impatient(client: soak.Client) -> None:
        await client.read("/responses", client.body(stream=True), first=1)

    monkeypatch.setitem(soak.KINDS, "plain", impatient)
    outcome = asyncio.run(soak.Soak(20, 2, ["plain"]).run(tmp_path, print))
    assert outcome.wrong.total() == 20
    assert "the numbers of /responses" in outcome.faults()[0]
