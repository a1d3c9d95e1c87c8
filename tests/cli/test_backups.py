"""`backtalk backup` and `restore`, with real servers; and the daily copies."""

import contextlib
import io
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from command import Run, one_line

from backtalk.storage.copies import keep_copies
from backtalk.testing import Server

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "home", SCRIPTED) as running:
        yield running


def ask(server: Server, text: str) -> dict[str, Any]:
    answer = httpx2.post(f"{server.url}/v1/responses", json={"input": text}, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def upload(server: Server, data: bytes) -> str:
    form = {"purpose": "user_data"}
    answer = httpx2.post(f"{server.url}/v1/files", files={"file": ("a.txt", data)}, data=form, timeout=30)
    return str(answer.json()["id"])


def get(server: Server, path: str) -> httpx2.Response:
    return httpx2.get(f"{server.url}/v1/{path}", timeout=30)


def test_what_was_saved_while_it_was_in_use_is_there_again(run: Run, server: Server, tmp_path: Path) -> None:
    before = ask(server, "Hello")
    file_id = upload(server, b"precious" * 1000)
    stop = threading.Event()
    talking = threading.Thread(target=until_told(stop, lambda: ask(server, "on and on")))
    talking.start()
    saved = tmp_path / "saved.tar"
    result = run("backup", str(saved), BACKTALK_HOME=str(server.home))
    stop.set()
    talking.join()
    assert result.returncode == 0 and "1 files" in result.stdout, result.stderr
    assert saved.stat().st_mode & 0o077 == 0, "others may read it"
    after = ask(server, "later")

    with Server(tmp_path / "other", SCRIPTED) as other:
        lost = ask(other, "what is to be replaced")
    result = run("restore", str(saved), BACKTALK_HOME=str(other.home))
    assert result.returncode == 0, result.stderr
    with other:
        assert get(other, f"responses/{before['id']}").json() == before
        assert get(other, f"responses/{before['id']}?stream=true").text.count("event: ") > 5
        assert get(other, f"files/{file_id}/content").content == b"precious" * 1000
        assert get(other, f"responses/{after['id']}").status_code == 404
        assert get(other, f"responses/{lost['id']}").status_code == 404
        assert ask(other, "Hello again")["status"] == "completed"
    aside = next(other.home.glob("replaced-*")) / "backtalk.sqlite"
    assert lost["id"] in {row[0] for row in sqlite3.connect(aside).execute("SELECT id FROM responses")}


def until_told(stop: threading.Event, work: Callable[[], Any]) -> Callable[[], None]:
    def go_on() -> None:
        while not stop.is_set():
            work()

    return go_on


def test_a_database_in_use_is_not_replaced(run: Run, server: Server, tmp_path: Path) -> None:
    kept = ask(server, "Hello")
    assert run("backup", str(tmp_path / "a.tar"), BACKTALK_HOME=str(server.home)).returncode == 0
    result = run("restore", str(tmp_path / "a.tar"), BACKTALK_HOME=str(server.home))
    assert (result.returncode, "stop the server" in one_line(result)) == (1, True)
    assert get(server, f"responses/{kept['id']}").json() == kept
    assert [path.name for path in server.home.iterdir() if "restore" in path.name or "replaced" in path.name] == []


def test_a_damaged_file_is_not_served_and_a_daily_copy_helps(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home, SCRIPTED) as server:
        kept = ask(server, "Hello")
        keep_copies(home / "backtalk.sqlite", 7)
    damaged = bytearray((home / "backtalk.sqlite").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (home / "backtalk.sqlite").write_bytes(damaged)
    copy = next((home / "backups").glob("*.sqlite"))
    result = run("serve", "--port", "0", BACKTALK_HOME=str(home))
    assert result.returncode == 1
    assert "backtalk.sqlite is damaged" in one_line(result) and f"backtalk restore {copy}" in one_line(result)
    assert (home / "backtalk.sqlite").read_bytes() == damaged, "it was touched"
    assert run("backup", str(tmp_path / "bad.tar"), BACKTALK_HOME=str(home)).returncode == 1
    assert not (tmp_path / "bad.tar").exists()

    assert run("restore", str(copy), BACKTALK_HOME=str(home)).returncode == 0
    with server:
        assert get(server, f"responses/{kept['id']}").json() == kept
    assert (next(home.glob("replaced-*")) / "backtalk.sqlite").read_bytes() == damaged


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_what_is_no_whole_backup_changes_nothing(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home, SCRIPTED) as server:
        kept = ask(server, "Hello")
        upload(server, b"x" * 9000)
    good = tmp_path / "good.tar"
    assert run("backup", str(good), BACKTALK_HOME=str(home)).returncode == 0
    flipped = bytearray(good.read_bytes())
    flipped[flipped.index(b"x" * 9000) + 50] ^= 1
    bad = {
        "flipped": flipped,
        "cut": good.read_bytes()[:-30_000],
        "nonsense": b"nonsense" * 1000,
        "empty": b"",
        "another database": foreign(tmp_path),
        "a way out": tar_of(tmp_path / "x", {"../../evil": b"x", "list.json": b"{}"}).read_bytes(),
        "nothing in it": tar_of(tmp_path / "y", {"list.json": json.dumps({"sums": {}}).encode()}).read_bytes(),
        "no list": tar_of(tmp_path / "z", {"backtalk.sqlite": b"x"}).read_bytes(),
    }
    for name, data in bad.items():
        (tmp_path / "bad").write_bytes(data)
        result = run("restore", str(tmp_path / "bad"), BACKTALK_HOME=str(home))
        assert (result.returncode, one_line(result).count("cannot be used")) == (1, 1), name
    assert not list(home.glob("*re*-*")), "something was left"
    with server:
        assert get(server, f"responses/{kept['id']}").json() == kept


def foreign(folder: Path) -> bytes:
    path = folder / "foreign.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE diary (page TEXT)")
    connection.close()
    return path.read_bytes()


def test_other_databases_have_tools_of_their_own(run: Run) -> None:
    for command in ("backup", "restore"):
        result = run(command, "x", BACKTALK_DATABASE="postgresql://somebody:secret@127.0.0.1/x")
        assert (result.returncode, "pg_dump" in one_line(result), "secret" in result.stderr) == (1, True, False)


def test_of_the_daily_copies_the_last_are_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home, SCRIPTED) as server:
        ask(server, "Hello")
        folder = home / "backups"
        folder.mkdir()
        for day in range(1, 10):
            old = folder / f"backtalk-2020-01-0{day}.sqlite"
            old.write_bytes(b"old")
            os.utime(old, (day, day))
        makers = [threading.Thread(target=keep, args=(home / "backtalk.sqlite",)) for _ in range(4)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
        copies = sorted(path.name for path in folder.glob("*.sqlite"))
        assert len(copies) == 7 and copies[0] == "backtalk-2020-01-04.sqlite", copies
        newest = folder / copies[-1]
        first = newest.read_bytes()
        ask(server, "more")
        keep(home / "backtalk.sqlite")
        assert newest.read_bytes() == first, "one a day"
        yesterdays = newest.rename(folder / "backtalk-2020-01-10.sqlite")
        os.utime(yesterdays)
        keep(home / "backtalk.sqlite")
        assert not newest.exists(), "nothing has changed since"
        yesterdays.rename(newest)
    with sqlite3.connect(newest) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (1,)
    assert not list(folder.glob(".*"))


def keep(path: Path) -> None:
    with contextlib.suppress(FileExistsError):  # another is at it
        keep_copies(path, 7)
