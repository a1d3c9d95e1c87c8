"""`backtalk ingest`: what goes in, what is left alone, what is told."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from command import Run, environment, one_line

from backtalk.testing import Server, client
from support import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files to take, at two depths, and two hidden ones."""
    made = tmp_path / "papers"
    (made / "deep" / "deeper").mkdir(parents=True)
    (made / ".git").mkdir()
    (made / "leave.md").write_text("Employees get 28 days of paid leave.")
    (made / "deep" / "deeper" / "expiry.txt").write_text("Unused days expire in March.")
    (made / ".git" / "config.txt").write_text("hidden")
    (made / ".secret.md").write_text("hidden")
    return made


def summary(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout.strip()


def store_of(api: openai.OpenAI) -> str:
    (store,) = api.vector_stores.list().data
    return store.id


def test_a_folder_goes_in_once(run: Run, server: Server, folder: Path) -> None:
    first = run("ingest", "papers", "--store", "handbook", "--url", server.url)
    assert (first.returncode, summary(first)) == (0, "handbook: 2 added, 0 changed, 0 unchanged")
    again = run("ingest", "papers", "papers/leave.md", "--store", "handbook", "--url", server.url)
    assert summary(again) == "handbook: 0 added, 0 changed, 2 unchanged"

    api = client(server.url)
    files = api.vector_stores.files.list(store_of(api)).data
    assert {file.attributes["path"] for file in files if file.attributes} == {
        str(folder / "leave.md"),
        str(folder / "deep" / "deeper" / "expiry.txt"),
    }
    assert {file.status for file in files} == {"completed"}
    assert len(api.files.list().data) == 2


def test_a_changed_file_takes_the_place_of_the_old_one(run: Run, server: Server, folder: Path) -> None:
    run("ingest", "papers", "--store", "handbook", "--url", server.url)
    (folder / "leave.md").write_text("Employees get 30 days of paid leave.")
    assert summary(run("ingest", "papers", "--store", "handbook", "--url", server.url)) == (
        "handbook: 0 added, 1 changed, 1 unchanged"
    )
    api = client(server.url)
    found = api.vector_stores.search(store_of(api), query="days of paid leave").data
    texts = [part.text for hit in found for part in hit.content]
    assert any("30 days" in text for text in texts)
    assert not any("28 days" in text for text in texts)
    assert len(api.files.list().data) == 2


def test_a_bad_file_stops_no_other_and_costs_no_older_one(run: Run, server: Server, folder: Path) -> None:
    run("ingest", "papers", "--store", "handbook", "--url", server.url)
    (folder / "leave.md").write_bytes(bytes(range(256)) * 20)
    (folder / "empty.md").write_text("")
    (folder / "new.md").write_text("New.")
    result = run("ingest", "papers", "gone.md", "--store", "handbook", "--url", server.url)
    assert (result.returncode, summary(result)) == (1, "handbook: 1 added, 0 changed, 1 unchanged, 3 failed")
    reasons = dict(line.strip().split(": ", 1) for line in result.stderr.splitlines())
    assert reasons.keys() == {"gone.md", "papers/leave.md", "papers/empty.md"}
    assert "empty" in reasons["papers/empty.md"]

    api = client(server.url)
    files = api.vector_stores.files.list(store_of(api)).data
    assert {file.status for file in files} == {"completed"}, "what failed leaves nothing behind"
    assert len(files) == 3
    found = api.vector_stores.search(store_of(api), query="days of paid leave").data
    assert "28 days" in found[0].content[0].text


def test_a_file_that_is_too_large_is_told_of(run: Run, tmp_path: Path, folder: Path) -> None:
    (folder / "large.txt").write_text("word " * 1_000_000)
    with Server(tmp_path / "small", {"BACKTALK_MAX_UPLOAD": "1000"}) as server:
        result = run("ingest", "papers", "--store", "s", "--url", server.url)
    assert (result.returncode, summary(result)) == (1, "s: 2 added, 0 changed, 0 unchanged, 1 failed")
    assert "papers/large.txt" in result.stderr
    alone = run("ingest", "papers", "--store", "s", BACKTALK_MAX_UPLOAD="1000")
    assert "max_upload" in alone.stderr


def test_without_a_server_it_works_in_process(run: Run, folder: Path) -> None:
    assert summary(run("ingest", "papers", "--store", "s")) == "s: 2 added, 0 changed, 0 unchanged"
    (folder / "leave.md").write_text("Employees get 30 days of paid leave.")
    assert summary(run("ingest", "papers", "--store", "s")) == "s: 0 added, 1 changed, 1 unchanged"
    assert "30 days" in run("chat", "--store", "s", typed="How many days of paid leave?\n").stdout


def test_what_was_stopped_goes_on(run: Run, server: Server, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(150):
        (many / f"{number}.txt").write_text(f"This is file number {number}. " * 50)
    api = client(server.url)
    command = [sys.executable, "-m", "backtalk", "ingest", "many", "--store", "m", "--url", server.url]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: len(api.files.list().data) > 10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "goes on from here" in said) == (130, True), said
    assert said.count("\n") == 1

    result = run("ingest", "many", "--store", "m", "--url", server.url)
    assert result.returncode == 0, result.stderr
    added = int(summary(result).split()[1])
    assert 0 < added < 150
    files = list(api.vector_stores.files.list(store_of(api), limit=100))
    assert len({file.attributes["path"] for file in files if file.attributes}) == len(files) == 150


def test_a_server_that_goes_away_is_told_in_a_line(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    server.stop()
    result = run("ingest", "a.md", "--store", "s", "--url", server.url)
    assert (result.returncode, "backtalk serve" in one_line(result)) == (1, True)


def test_nothing_to_take_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("ingest", "empty", "--store", "s")
    assert (result.returncode, "no files" in one_line(result)) == (1, True)
