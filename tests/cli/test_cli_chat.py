"""`backtalk chat`: through a pipe, against a server and without one, and at a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Run, environment, one_line

from backtalk.cli.chat import blocks
from backtalk.testing import Server, client

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server", SCRIPTED) as running:
        yield running


def test_each_line_of_a_pipe_is_a_question(run: Run, server: Server) -> None:
    result = run("chat", "--url", server.url, typed="Hello\n\nMy name is Ada.\nWhat is my name?\n/exit\nNever asked\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "You said: Hello"
    assert "Ada" in result.stdout.splitlines()[2], "one talk, not three questions"
    assert "Never" not in result.stdout


def test_without_a_server_it_works_in_process(run: Run) -> None:
    result = run("chat", typed="Hello", **SCRIPTED)
    assert (result.returncode, result.stdout) == (0, "You said: Hello\n")


def test_files_are_looked_up_and_cited(run: Run, tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("Employees get 28 days of paid leave.")
    assert run("ingest", "leave.md", "--store", "handbook").returncode == 0
    result = run("chat", "--store", "handbook", typed="How many days of paid leave?\n")
    assert "28 days" in result.stdout
    assert result.stdout.endswith("[Sources: leave.md]\n")


def test_a_conversation_goes_on(run: Run, server: Server) -> None:
    talk = client(server.url).conversations.create(
        items=[{"type": "message", "role": "user", "content": "My name is Ada."}]
    )
    result = run("chat", "--conversation", talk.id, typed="What is my name?\n", BACKTALK_URL=server.url)
    assert "Ada" in result.stdout


def test_a_failed_answer_ends_neither_the_talk_nor_in_success(run: Run, server: Server) -> None:
    result = run("chat", "--url", server.url, typed="[[fail:before]]\nHello\n")
    assert (result.returncode, result.stdout) == (1, "You said: Hello\n")
    assert one_line(result)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--url", NOWHERE], "backtalk serve"),
        (["--store", "nowhere"], "there is no store 'nowhere'"),
        (["--conversation", "conv_nowhere"], "conv_nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(run: Run, words: list[str], says: str) -> None:
    result = run("chat", *words, typed="Hello\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert says in one_line(result)


def test_a_key_is_needed_once_there_is_one(run: Run, server: Server, tmp_path: Path) -> None:
    home = {"BACKTALK_HOME": str(server.home)}
    key = run("keys", "create", **home).stdout.strip()
    wrong = run("chat", "--url", server.url, "--key", "bt_wrong", typed="Hello\n")
    assert (wrong.returncode, "--key" in one_line(wrong)) == (1, True)
    assert run("chat", "--url", server.url, typed="Hello\n", BACKTALK_KEY=key).stdout == "You said: Hello\n"


class Talk:
    """A chat at a terminal of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.shown = b""
        self.terminal, theirs = pty.openpty()
        env = environment(folder, TERM="xterm", COLUMNS="100", **SCRIPTED)
        command = [sys.executable, "-m", "backtalk", "chat", *words]
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 40
        while text.encode() not in self.shown:
            readable, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            assert readable, self.shown
            self.shown += os.read(self.terminal, 65_536)
        self.shown = self.shown.partition(text.encode())[2]

    def close(self) -> int:
        try:
            return self.process.wait(40)
        finally:
            self.process.kill()
            os.close(self.terminal)


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    talk.wait_for("›")
    talk.type("[[stall:2]] Hello\r")
    talk.wait_for("You said")
    talk.process.send_signal(signal.SIGINT)
    talk.wait_for("stopped")
    talk.wait_for("›")
    talk.type("Say exactly: still here\r")
    talk.wait_for("Say exactly")
    talk.wait_for("still here")
    talk.wait_for("›")
    talk.type("\x04")
    talk.wait_for("--conversation conv_")
    assert talk.close() == 0


@pytest.mark.parametrize(
    ("text", "whole", "rest"),
    [
        ("one", "", "one"),
        ("one\n\ntwo", "one", "two"),
        ("one\n\n```\na\n\nb", "one", "```\na\n\nb"),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```", "c"),
    ],
)
def test_markdown_is_set_block_by_block(text: str, whole: str, rest: str) -> None:
    assert blocks(text) == (whole, rest)
