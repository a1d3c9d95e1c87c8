"""Client libraries in Python: the checks in `tests/clients/python`, a file of them at a time, against our server.

What they demand of the SDK cannot stand in one environment, nor beside what we test with. Each folder there is an
environment: its `requirements.txt`, the checks of its libraries, and a `.venv` that is made once.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backtalk.testing import Server
from support import lacking

PROJECT = Path(__file__).parents[1] / "clients" / "python"
NOT_INHERITED = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "PYTEST_", "PYTHONPATH")


@pytest.mark.wire("N2")
def test_openai_agents(server: Server) -> None:
    _check(server, "newest", "check_agents.py")


@pytest.mark.wire("N3")
def test_langchain(server: Server) -> None:
    _check(server, "newest", "check_langchain.py")


@pytest.mark.wire("N4")
def test_llama_index(server: Server) -> None:
    _check(server, "older", "check_llama_index.py")


@pytest.mark.wire("N5")
def test_pydantic_ai(server: Server) -> None:
    _check(server, "newest", "check_pydantic_ai.py")


@pytest.mark.wire("N6")
def test_instructor(server: Server) -> None:
    _check(server, "older", "check_instructor.py")


def _check(server: Server, folder: str, file: str) -> None:
    home = PROJECT / folder
    python = _installed(home)
    own = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    command = [python, "-m", "pytest", "-c", PROJECT / "pytest.ini", "--rootdir", PROJECT, file]
    try:
        run = subprocess.run(
            command,
            cwd=home,
            env=own | {"BASE_URL": f"{server.url}/v1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{file} did not end:\n{(late.stdout or b'').decode()}", pytrace=False)
    if run.returncode:
        pytest.fail(run.stdout.decode(), pytrace=False)


def _installed(home: Path) -> Path:
    """The environment's Python, with its requirements installed. One worker installs, the others wait."""
    wanted = home / "requirements.txt"
    made = home / ".venv"
    stamp = made / "requirements.txt"  # a copy of what was installed, written last
    with wanted.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != wanted.read_bytes():
            _run(sys.executable, "-m", "venv", "--clear", made)
            _run(made / "bin" / "python", "-m", "pip", "install", "--quiet", "--requirement", wanted)
            stamp.write_bytes(wanted.read_bytes())
    return made / "bin" / "python"


def _run(*command: str | Path) -> None:
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if run.returncode:
        lacking(f"client libraries: {' '.join(map(str, command))} failed:\n{run.stderr[-1000:]}")
