"""The `backtalk` command as a user types it: in a process of its own, from an empty folder."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from command import Run, environment, one_line

from backtalk import __version__
from backtalk.access.service import Access
from backtalk.storage import open_storage

APPLICATION = """
import asyncio, os
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/home")
async def home():
    return {"home": os.environ["BACKTALK_HOME"], "port": os.environ["BACKTALK_PORT"], "pid": os.getpid()}

@app.get("/slow")
async def slow():
    async def numbers():
        for number in range(20):
            yield f"{number} "
            await asyncio.sleep(0.05)
    return StreamingResponse(numbers())

@app.get("/endless")
async def endless():
    async def numbers():
        while True:
            yield "again "
            await asyncio.sleep(0.05)
    return StreamingResponse(numbers())
"""


@asynccontextmanager
async def serving(tmp_path: Path, *words: str, **changes: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`backtalk serve` on a free port: its URL, as its first lines tell it, and its process."""
    (tmp_path / "mine.py").write_text(APPLICATION)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "backtalk", "serve", "--port", "0", "--app", "mine:app", *words),
        cwd=tmp_path,
        env=environment(tmp_path, **changes),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while (found := re.search(rb"(http://\S+)/docs", await process.stdout.readline())) is None:
                assert process.returncode is None
        yield found[1].decode(), process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.communicate()


async def get(url: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 200
        return {**await answer.json(), "server": answer.headers.get("server", "")}


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"backtalk {__version__}\n"


async def test_a_key_is_made_listed_and_revoked(run: Run, database: str) -> None:
    def backtalk(*words: str) -> subprocess.CompletedProcess[str]:
        return run(*words, BACKTALK_DATABASE=database)

    nothing = backtalk("keys", "list")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    made = backtalk("keys", "create", "--project", "acme", "--name", "laptop", "--days", "7")
    secret = made.stdout.strip()
    assert secret.startswith("bt_")
    assert secret not in made.stderr, "the key alone goes to stdout, so that scripts can take it"

    storage = await asyncio.to_thread(open_storage, database)
    caller = await Access(storage).authenticate(secret)
    assert caller.project == "acme"

    listed = backtalk("keys", "list", "--project", "acme").stdout
    assert secret[:11] in listed
    assert secret not in listed
    assert "laptop" in listed
    assert backtalk("keys", "list").stdout == "", "another project's keys are not shown"

    key_id = str(caller.key_id)
    assert "No such key" in one_line(backtalk("keys", "revoke", key_id))
    assert backtalk("keys", "revoke", key_id, "--project", "acme").returncode == 0
    assert "revoked" in backtalk("keys", "list", "--project", "acme").stdout
    await storage.close()


def test_a_wrong_project_is_told_in_a_line(run: Run) -> None:
    result = run("keys", "create", "--project", "")
    assert result.returncode == 1
    assert "project" in one_line(result)


def test_db_status_and_upgrade(run: Run, database: str) -> None:
    before = run("db", "status", BACKTALK_DATABASE=database)
    assert before.returncode == 1
    assert "backtalk db upgrade" in one_line(before)
    assert run("db", "upgrade", BACKTALK_DATABASE=database).returncode == 0
    after = run("db", "status", BACKTALK_DATABASE=database)
    assert (after.returncode, "up to date" in after.stdout) == (0, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_not_served_without_a_key(run: Run, host: str) -> None:
    result = run("serve", "--host", host, "--port", "0")
    assert result.returncode == 2
    assert "backtalk keys create" in one_line(result)


@pytest.mark.parametrize(
    ("words", "settings", "code", "says"),
    [
        (["serve", "--app", "nowhere:app"], {}, 2, "nowhere"),
        (["serve", "--log-level", "loud"], {}, 2, "loud"),
        (["serve"], {"BACKTALK_DURABILITY": "perhaps"}, 2, "durability"),
        (["serve"], {"BACKTALK_DURABLITY": "before"}, 2, "BACKTALK_DURABILITY"),
        (["serve"], {"BACKTALK_MODELS": "nowhere:Model"}, 2, "nowhere"),
        (["serve"], {"BACKTALK_HOME": "/dev/null/x"}, 1, "--home"),
        (["serv"], {}, 2, "No such command"),
        (["serve", "--prot", "1"], {}, 2, "backtalk serve --help"),
        (["ingest", "."], {}, 2, "--store"),
        (["serve"], {"BACKTALK_DATABASE": "oracle://x"}, 1, "oracle"),
        (["serve"], {"BACKTALK_DATABASE": "nonsense"}, 1, "nonsense"),
        (["serve"], {"BACKTALK_DATABASE": "postgresql://me:secret@127.0.0.1:1/x"}, 1, "does not answer"),
        (["db", "status"], {"BACKTALK_DATABASE": "mysql://me:secret@127.0.0.1:1/x"}, 1, "does not answer"),
        (["keys", "list"], {"BACKTALK_HOME": "/dev/null/x"}, 1, "cannot be opened"),
    ],
)
def test_mistakes_are_told_in_a_line(
    run: Run, words: list[str], settings: dict[str, str], code: int, says: str
) -> None:
    result = run(*words, **settings)
    assert (result.returncode, says in one_line(result)) == (code, True), result.stderr
    assert "secret" not in result.stderr


def test_a_broken_settings_file_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "backtalk.toml").write_text("hosts = [")
    result = run("serve")
    assert (result.returncode, "backtalk.toml" in one_line(result)) == (2, True)


def test_a_file_that_is_no_database_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "precious.sqlite"
    path.write_bytes(b"my diary, not a database" * 100)
    result = run("serve", BACKTALK_DATABASE=f"sqlite:///{path}")
    assert (result.returncode, "precious.sqlite" in one_line(result)) == (1, True)
    assert path.read_bytes() == b"my diary, not a database" * 100


def test_a_taken_port_is_told_in_a_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", str(taken.getsockname()[1]))
    assert (result.returncode, "--port" in one_line(result)) == (1, True)


async def test_it_serves_and_stops_with_exit_code_0(tmp_path: Path) -> None:
    async with serving(tmp_path, "--home", "elsewhere") as (url, process):
        answer = await get(f"{url}/home")
        assert answer["home"] == str(tmp_path / "elsewhere")
        assert url.endswith(f":{answer['port']}")
        assert answer["server"] == "", "what serves is nobody's business"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def test_sigterm_lets_open_streams_finish(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, process), aiohttp.ClientSession() as http:
        async with http.get(f"{url}/slow") as answer:
            first = await answer.content.readany()
            process.send_signal(signal.SIGTERM)
            rest = await answer.read()
        assert (first + rest).split() == [b"%d" % number for number in range(20)]
        assert await process.wait() == 0


async def test_sigterm_cuts_endless_streams_after_the_grace_time(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "--grace", "1") as (url, process),
        aiohttp.ClientSession() as http,
        http.get(f"{url}/endless") as answer,
    ):
        await answer.content.readany()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_with_a_key_other_machines_are_served(run: Run, tmp_path: Path) -> None:
    assert run("keys", "create").returncode == 0
    async with serving(tmp_path, "--host", "0.0.0.0") as (url, _):
        assert url.startswith("http://127.0.0.1:")
        assert await get(f"{url}/home")


async def test_several_processes_share_the_port(tmp_path: Path) -> None:
    async with serving(tmp_path, "--workers", "2") as (url, process):
        pids = set()
        deadline = time.monotonic() + 60
        while len(pids) < 2 and time.monotonic() < deadline:
            try:
                pids.add((await get(f"{url}/home"))["pid"])
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        assert len(pids) == 2
        assert process.pid not in pids


async def test_reload_picks_up_a_change(tmp_path: Path) -> None:
    async with serving(tmp_path, "--reload") as (url, _):
        async with asyncio.timeout(60):
            before = await eventually(f"{url}/home")
            (tmp_path / "mine.py").write_text(APPLICATION.replace('"pid": os.getpid()', '"pid": "changed"'))
            while (await eventually(f"{url}/home"))["pid"] == before["pid"]:
                await asyncio.sleep(0.1)
        assert (await eventually(f"{url}/home"))["pid"] == "changed"


async def eventually(url: str) -> dict[str, str]:
    while True:
        try:
            return await get(url)
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


def test_shells_complete_commands_and_options(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        command = Path(sys.executable).with_name("backtalk")
        wanted = {"_BACKTALK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [command], env=environment(tmp_path, **wanted), capture_output=True, text=True, timeout=60
        )
        return done.stdout.split()

    assert {"serve", "chat", "ingest", "doctor", "keys", "db", "config"} <= set(completed("backtalk "))
    assert "--store" in completed("backtalk ingest --st")


def test_every_command_explains_itself(run: Run) -> None:
    alone = run()
    assert (alone.returncode, "backtalk serve" in alone.stdout) == (0, True)
    for words in (
        ["serve"],
        ["chat"],
        ["ingest"],
        ["doctor"],
        ["keys"],
        ["keys", "create"],
        ["db"],
        ["config", "docs"],
    ):
        helped = run(*words, "--help")
        assert (helped.returncode, f"backtalk {' '.join(words)}" in helped.stdout) == (0, True)
