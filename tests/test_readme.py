"""The README tells the truth: each of its blocks is run as it stands."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx2
import pytest

from backtalk import Settings
from backtalk.testing import Server
from backtalk.testing.server import free_port
from support import until

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    (found,) = [text for text in blocks(language) if holding in text]
    return found


def run(code: str, cwd: Path) -> str:
    """What a program prints. It sees nothing of the developer's own settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("BACKTALK_", "OPENAI_"))}
    env |= {"BACKTALK_HOME": str(cwd / "home"), "BACKTALK_DISCOVER": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_screen(tmp_path: Path) -> None:
    with Server(tmp_path / "home", {"BACKTALK_DISCOVER": "0"}) as server:
        code = block("python", "vector_stores").replace("http://127.0.0.1:8000", server.url)
        assert server.url in code
        printed = run(code, tmp_path)
    assert "28 days of paid leave" in printed
    assert "[leave.md]" in printed
    assert "March" in printed.splitlines()[-1]


def test_main_py_under_uvicorn(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(block("python", "def hello"))
    port = free_port()
    env = {**os.environ, "BACKTALK_HOME": str(tmp_path / "home"), "BACKTALK_DISCOVER": "0"}
    command = [sys.executable, "-m", "uvicorn", "main:app", "--reload", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
            assert httpx2.get(f"http://127.0.0.1:{port}/").json() == {"hello": "world"}
            reply = httpx2.post(f"http://127.0.0.1:{port}/v1/responses", json={"input": "Hello"})
            assert reply.json()["status"] == "completed"
        finally:
            process.terminate()


def test_the_python_way(tmp_path: Path) -> None:
    code = (
        block("python", "app.resource")
        + """
from fastapi.testclient import TestClient

with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as inside:
    print(inside.get("/summary", params={"text": "Rain."}).json()["summary"])
    print(inside.post("/notes", json={"text": "Buy bread"}).json()["done"])
    print(len(inside.get("/notes").json()["data"]))
"""
    )
    printed = run(code, tmp_path).splitlines()
    assert "built-in" in printed[0]
    assert printed[-2:] == ["False", "1"]


def test_the_testing_kit(tmp_path: Path) -> None:
    run(block("python", "ScriptedModel"), tmp_path)


def test_the_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backtalk.toml").write_text(block("toml", "upstreams"))
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.model == ["home/llama-3.3"]
    assert [(entry.name, entry.adapter) for entry in settings.upstreams] == [
        ("home", "openai"),
        ("claude", "anthropic"),
    ]
    assert settings.aliases["best"][1] == "home/llama-3.3"
    assert tomllib.loads(block("toml", "upstreams")).keys() <= Settings.model_fields.keys()


def test_the_commands_exist() -> None:
    commands = re.findall(r"^backtalk (.+)$", "\n".join(blocks("console")), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        words = [word for word in command.split() if re.fullmatch(r"[a-z]+", word)][:2]
        words = words if words[0] == "keys" else words[:1]
        done = subprocess.run([sys.executable, "-m", "backtalk", *words, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_setting_in_the_table_is_one() -> None:
    table = README[README.index("| setting |") :].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert named
    assert named <= Settings.model_fields.keys()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False
