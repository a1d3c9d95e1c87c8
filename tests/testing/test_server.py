import os
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI

from backtalk.testing import Server, async_client, client, serve

APP = """
import os
import pathlib
from fastapi import FastAPI

app = FastAPI()
pathlib.Path("starts").open("a").write("x")
print("hello from", os.environ["BACKTALK_HOME"], flush=True)

@app.get("/healthz")
def healthz():
    return {"status": "ok"}

@app.get("/env")
def env():
    return dict(os.environ)

@app.get("/pid")
def pid():
    return os.getpid()
"""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body.decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_text(APP)
    return tmp_path


def tiny(home: Path, **env: str) -> Server:
    return Server(home, env, ["--app", "tiny:app"])


def test_it_starts_stops_and_starts_again_on_its_port(home: Path) -> None:
    with tiny(home) as server:
        url, first = server.url, server.pid
        assert get(f"{url}/pid") == str(first)
        server.restart()
        assert server.url == url
        assert server.pid != first
        assert get(f"{url}/pid") == str(server.pid)
        assert server.stop() == 0
        with pytest.raises(urllib.error.URLError):
            get(f"{url}/healthz")
    assert (home / "starts").read_text() == "xx"
    assert server.log.count(f"hello from {home}") == 2


def test_a_killed_server_is_gone_at_once(home: Path) -> None:
    server = tiny(home).start().wait_ready()
    server.kill()
    with pytest.raises(urllib.error.URLError):
        get(f"{server.url}/healthz")
    assert get(f"{server.restart().url}/healthz")
    server.stop()


def test_the_developers_own_settings_stay_outside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {"BACKTALK_MODEL": "x", "OPENAI_BASE_URL": "http://x", "GEMINI_API_KEY": "canary", "UNRELATED": "kept"}
    for name, value in outside.items():
        monkeypatch.setenv(name, value)
    with tiny(home, BACKTALK_UPSTREAM="http://y/v1", GROQ_API_KEY="mine") as server:
        env = get(f"{server.url}/env")
    assert "canary" not in env and "http://x" not in env and "BACKTALK_MODEL" not in env
    assert "http://y/v1" in env and "mine" in env and "kept" in env
    assert os.environ["GEMINI_API_KEY"] == "canary"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no luck today')")
    with pytest.raises(RuntimeError, match="no luck today"):
        Server(tmp_path, args=["--app", "broken:app"]).__enter__()
    with pytest.raises(RuntimeError, match="not started"):
        Server(tmp_path).stop()


def test_an_application_is_served_in_a_thread_with_its_lifespan() -> None:
    from contextlib import asynccontextmanager

    seen = []

    @asynccontextmanager
    async def lifespan(_: FastAPI):  # type: ignore[no-untyped-def]
        seen.append("up")
        yield
        seen.append("down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "o"}]}

    with serve(app) as url:
        assert seen == ["up"]
        with client(url) as sdk:
            assert [model.id for model in sdk.models.list()] == ["m"]
        with client(url, max_retries=3) as sdk:
            assert sdk.max_retries == 3
    assert seen == ["up", "down"]


def test_an_application_that_does_not_start_is_told() -> None:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(_: FastAPI):  # type: ignore[no-untyped-def]
        raise ValueError("broken")
        yield

    with pytest.raises(RuntimeError, match="did not start"), serve(FastAPI(lifespan=lifespan)):
        raise AssertionError("it started")


async def test_the_asyncio_client_points_at_the_server() -> None:
    async with async_client("http://127.0.0.1:1/") as sdk:
        assert str(sdk.base_url) == "http://127.0.0.1:1/v1/"
        with pytest.raises(openai.APIConnectionError):
            await sdk.models.list()
