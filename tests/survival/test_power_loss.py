"""A sample of the power losses, proof that the command can find some, and what a disk may hold after one.

`python -m backtalk.testing.powerloss` takes as many points as you like.
"""

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backtalk.testing.disk import Dice, Disk, Recorder, missing, read_record
from backtalk.testing.powerloss import Plan, dice, lose_power, main
from support import lacking

DROPPED, KEPT, TORN = (lambda: "dropped"), (lambda: "kept"), (lambda: "torn")  # what becomes of all that is not synced
SEED = 4
"""With which nothing that is not synced is left at the last of three points."""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    if reason := missing():
        lacking(reason)
    return Recorder(tmp_path_factory.mktemp("recorder"))


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("recorder")
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    tally = lose_power(Plan(points=8, seed=1, session=8, life=1.5, home=tmp_path))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.points == 8
    assert tally.verified["events"] > 100
    assert tally.verified["objects"] > 20


@pytest.mark.usefixtures("recorder")
def test_a_disk_that_lies_is_found_out(tmp_path: Path) -> None:
    plan = Plan(points=3, seed=SEED, session=3, life=1.0, home=tmp_path, disk="lies")
    assert dice(random.Random(f"{SEED} point 2"))() == "dropped"
    assert any(fault.kind == "lost" for fault in lose_power(plan).faults.values())


@pytest.mark.usefixtures("recorder")
def test_events_that_are_sent_before_they_are_kept_are_found_out(tmp_path: Path) -> None:
    plan = Plan(points=6, seed=3, session=6, life=1.0, home=tmp_path, durability="behind")
    assert any("event" in words for words in lose_power(plan).faults)


def test_the_command_tells_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(["--points", "1", "--home", str(tmp_path)]) == 2
    assert "record" in capsys.readouterr().out


# ── what a disk may hold ─────────────────────────────────────────────────────────────────────────────────────────────


class Played:
    """A program was run below a folder, and what it did was recorded."""

    def __init__(self, recorder: Recorder, folder: Path, program: str, *, lies: bool = False) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        self._rebuilt = folder / "rebuilt"
        record = folder / "record"
        environment = os.environ | recorder.environment(self.folder, record, lies=lies)
        subprocess.run([sys.executable, "-c", PRELUDE + program], cwd=self.folder, env=environment, check=True)
        self.entries = [entry for _, entry in read_record(record)]

    def left(self, dice: Dice = DROPPED, seed: int = 0) -> dict[str, bytes]:
        """What is there after the power has gone at the end of it."""
        return contents(self.rebuilt(dice, seed))

    def rebuilt(self, dice: Dice, seed: int = 0) -> Path:
        disk = Disk(self.folder)
        for entry in self.entries:
            disk.apply(entry)
        folder = self._rebuilt / str(len(list(self._rebuilt.glob("*"))))
        folder.mkdir(parents=True)
        disk.rebuild(folder, dice, random.Random(seed))
        return folder


PRELUDE = """
import os, sqlite3

def sync(path):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)

def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder" for path in folder.rglob("*")
    }


def outcomes(played: Played) -> Iterator[dict[str, bytes]]:
    for seed in range(60):
        yield played.left(dice(random.Random(seed)), seed)


def test_what_was_written_and_not_synced_may_be_missing(recorder: Recorder, tmp_path: Path) -> None:
    played = Played(recorder, tmp_path, "write('a', b'x' * 2000); sync('.')")
    assert played.left(DROPPED) == {"a": b""}
    assert played.left(KEPT) == {"a": b"x" * 2000}
    torn = [played.left(TORN, seed)["a"] for seed in range(50)]
    assert all(data.count(b"x") > 0 and not set(data) - set(b"x\0") for data in torn)
    assert {data.count(b"x") % 512 for data in torn} == {0, 2000 % 512}  # sectors are whole, but for the last one
    assert any(data[:1] == b"\0" for data in torn) and any(data[-1:] == b"\0" for data in torn)


def test_what_was_synced_is_there(recorder: Recorder, tmp_path: Path) -> None:
    program = "write('a', b'first'); sync('a'); sync('.'); os.pwrite(os.open('a', os.O_WRONLY), b'F', 0)"
    found = {data["a"] for data in outcomes(Played(recorder, tmp_path, program))}
    assert found == {b"first", b"First"}


def test_a_name_is_as_safe_as_its_folder(recorder: Recorder, tmp_path: Path) -> None:
    program = "os.mkdir('d'); write('d/a', b'a'); sync('d/a'); sync('d'); write('d/b', b'b'); sync('d/b')"
    played = Played(recorder, tmp_path, program)
    found = list(outcomes(played))
    assert {} in found  # the folder's own name was never synced
    assert {"d": b"folder", "d/a": b"a"} in found
    assert {"d": b"folder", "d/a": b"a", "d/b": b"b"} in found
    assert all("d/a" in names for names in found if names)


def test_a_rename_is_done_or_not(recorder: Recorder, tmp_path: Path) -> None:
    program = "write('a', b'old'); sync('a'); write('b', b'new'); sync('b'); sync('.'); os.replace('b', 'a')"
    before, after = {"a": b"old", "b": b"new"}, {"a": b"new"}
    found = list(outcomes(Played(recorder, tmp_path, program)))
    assert before in found and after in found
    assert all(names in (before, after) for names in found)


def test_what_was_removed_may_come_back(recorder: Recorder, tmp_path: Path) -> None:
    removed = "write('a', b'a'); sync('a'); sync('.'); os.unlink('a'); "
    (tmp_path / "later").mkdir()
    assert Played(recorder, tmp_path, removed).left() == {"a": b"a"}
    assert Played(recorder, tmp_path / "later", removed + "sync('.')").left() == {}


def test_a_truncation_may_be_undone(recorder: Recorder, tmp_path: Path) -> None:
    program = "write('a', b'long'); sync('a'); sync('.'); os.truncate(os.open('a', os.O_RDWR), 1)"
    assert {data["a"] for data in outcomes(Played(recorder, tmp_path, program))} == {b"long", b"l"}


def test_nothing_that_a_program_does_is_missed(recorder: Recorder, tmp_path: Path) -> None:
    program = """
here = os.open(".", os.O_RDONLY)
os.mkdir("d", dir_fd=here)
one = os.open("d/one", os.O_RDWR | os.O_CREAT, dir_fd=here)
two = os.dup(one)
os.write(two, b"0123456789")
os.pwrite(one, b"abc", 20)
os.writev(one, [b"4", b"56"])
os.pwritev(one, [b"x", b"yz"], 1)
os.ftruncate(two, 22)
open("two", "ab").write(b"2")
open("two", "ab").write(b"22")
open("two", "r+b").truncate(1)
write("three", b"3"); write("three", b"4")
os.rename("three", "d/three"); os.rename("d", "e", src_dir_fd=here, dst_dir_fd=here)
os.mkdir("f"); os.rmdir("f")
write(os.path.abspath("e/../four"), b"4"); os.unlink("four", dir_fd=here)
write("e/five", b"5")
os.chdir("e"); os.remove("five")
"""
    played = Played(recorder, tmp_path, program)
    assert played.left(KEPT) == contents(played.folder)
    assert played.left(DROPPED) == {}


SAVED = """
from io import BytesIO
from pathlib import Path
from backtalk.files.blobs import Blobs
from backtalk.storage.engine import open_storage

database = open_storage("sqlite:///above/home/backtalk.sqlite")
database.engine.connect().close()
Blobs(Path("above/home/files")).save("a project", "file-1", BytesIO(b"data"))
os._exit(0)
"""


def test_a_file_is_there_with_all_the_folders_above_it(recorder: Recorder, tmp_path: Path) -> None:
    found = Played(recorder, tmp_path, SAVED).left()
    assert found["above/home/backtalk.sqlite"]
    assert [data for name, data in found.items() if name.endswith("file-1")] == [b"data"]


ROWS = """
connection = sqlite3.connect("a.sqlite", isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous={synchronous}")
connection.execute("PRAGMA wal_autocheckpoint=8")
connection.execute("CREATE TABLE rows (n, filling)")
for n in range(40):
    connection.execute("INSERT INTO rows VALUES (?, zeroblob(3000))", (n,))
os._exit(0)
"""


def rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "a.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])


def test_commits_of_sqlite_outlive_any_power_loss(recorder: Recorder, tmp_path: Path) -> None:
    played = Played(recorder, tmp_path, ROWS.format(synchronous="FULL"))
    seen = Counter(entry.operation for entry in played.entries)
    assert seen["s"] >= 40 and seen["w"] >= 80
    assert {rows(played.rebuilt(dice(random.Random(seed)), seed)) for seed in range(60)} == {40}


def test_commits_that_were_not_synced_do_not(recorder: Recorder, tmp_path: Path) -> None:
    assert rows(Played(recorder, tmp_path, ROWS.format(synchronous="NORMAL")).rebuilt(DROPPED)) < 40


def test_a_lie_is_not_taken_for_a_sync(recorder: Recorder, tmp_path: Path) -> None:
    played = Played(recorder, tmp_path, ROWS.format(synchronous="FULL"), lies=True)
    assert "s" not in {entry.operation for entry in played.entries}
    assert played.left() == {}
