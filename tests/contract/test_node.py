"""The official SDK for Node.js: the tests in `tests/clients/node`, a file of them at a time, against our server."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backtalk.testing import Server
from support import lacking

PROJECT = Path(__file__).parents[1] / "clients" / "node"
OLDEST = 18
HOW = f"Node.js {OLDEST} or newer with npm: .ci/node installs it on Debian (apt-get install nodejs npm)"


@pytest.fixture(scope="session")
def node() -> str:
    """The path of `node`, with the SDK installed."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if not program or not npm:
        lacking(f"no {HOW}")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < OLDEST:
        lacking(f"{version.strip()} is too old for the SDK: get {HOW}")
    _install(npm)
    return program


def _install(npm: str) -> None:
    """`npm ci`, unless it was done for this lock file. One worker does it, the others wait."""
    lock = PROJECT / "package-lock.json"
    done = PROJECT / "node_modules" / ".package-lock.json"  # npm writes it last
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
            return
        command = [npm, "ci", "--no-audit", "--no-fund"]
        run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    if run.returncode:
        lacking(f"the SDK for Node.js: `npm ci` in {PROJECT} failed:\n{run.stderr[:500]}")


@pytest.mark.wire("N1")
@pytest.mark.parametrize("file", sorted(path.name for path in PROJECT.glob("*.test.mjs")))
def test_the_sdk_for_node(server: Server, node: str, file: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    try:
        run = subprocess.run(
            [node, "--test-reporter=spec", file],
            cwd=PROJECT,
            env=own | {"BASE_URL": f"{server.url}/v1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=180,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{file} did not end:\n{(late.stdout or b'').decode()}", pytrace=False)
    if run.returncode:
        pytest.fail(run.stdout.decode(), pytrace=False)
