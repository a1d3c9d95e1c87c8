"""A sample of the crash loops; `python -m backtalk.testing.crashes` runs as many as you like."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backtalk.testing.crashes import Plan, crash, main

Meddle = Callable[[sqlite3.Connection], object]


def test_nothing_is_lost(database: str, tmp_path: Path) -> None:
    kills = 12 if database.startswith("sqlite") else 4
    tally = crash(Plan(kills=kills, seed=1, database=database, home=tmp_path / "home"))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.kills >= kills
    assert tally.verified["events"] > 100
    assert tally.verified["objects"] > 20


def test_workers_and_gentle_ends(tmp_path: Path) -> None:
    tally = crash(Plan(kills=3, seed=2, workers=2, signal="mixed", home=tmp_path))
    assert not tally.faults, "\n".join(tally.faults)
    assert tally.verified["events"] > 50


SEED = 36
"""Of a first life that is long enough for many to be told something."""


def meddling(*meddles: Meddle) -> Callable[[Path], None]:
    """What goes on behind the server's back while it is down."""

    def between(home: Path) -> None:
        with closing(sqlite3.connect(home / "backtalk.sqlite")) as connection, connection:
            for meddle in meddles:
                meddle(connection)

    return between


def without_files(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM files")


def without_events(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM transcripts WHERE rowid % 2")


def other_words(connection: sqlite3.Connection) -> None:
    """Changes what was said, in the logs of all responses that have ended."""
    for name, data in connection.execute("SELECT id, data FROM transcripts").fetchall():
        said = data.replace(b"word0 ", b"lies0 ")
        connection.execute("UPDATE transcripts SET data = ? WHERE id = ?", (said, name))


def twice(connection: sqlite3.Connection) -> None:
    """Puts the first item of each conversation behind its last one, under another name."""
    rows = connection.execute(
        "SELECT id, conversation_id, project, kind, created_at, data, min(position), max(position) FROM items"
        " WHERE conversation_id IS NOT NULL GROUP BY conversation_id"
    )
    for name, conversation, *same, _, last in rows.fetchall():
        query = "SELECT id FROM items WHERE conversation_id = ? AND position = ?"
        (leaf,) = connection.execute(query, (conversation, last)).fetchone()
        connection.execute(
            "INSERT INTO items (id, conversation_id, parent_id, position, project, kind, created_at, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (f"{name}{last}", conversation, leaf, last + 1, *same),
        )


def test_the_command_tells_of_a_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kills", "3", "--seed", str(SEED), "--home", str(tmp_path)]
    assert main(arguments, between=meddling(without_files)) == 1
    assert "lost: GET /files/file-" in capsys.readouterr().out


def test_who_interrupts_it_hears_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(home: Path) -> None:
        raise KeyboardInterrupt

    assert main(["--kills", "9", "--seed", str(SEED), "--home", str(tmp_path)], between=interrupt) == 130
    assert "interrupted" in (told := capsys.readouterr().out) and "lost 0, duplicated 0" in told


def test_every_kind_of_loss_is_noticed(tmp_path: Path) -> None:
    plan = Plan(kills=3, seed=SEED, home=tmp_path)
    found = "\n".join(crash(plan, between=meddling(other_words, without_events, twice)).faults)
    for words in ("lost: events of resp_", "wrong: event ", "duplicated: "):
        assert words in found
