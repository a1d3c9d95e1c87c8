"""Every example runs and does what it says."""

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from backtalk.testing import client, serve
from support import until

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serves an example from an empty home, with ScriptedModel where it names no model of its own."""
    monkeypatch.chdir(tmp_path)
    settings = {"HOME": str(tmp_path), "DISCOVER": "0", "MODELS": "backtalk.testing:ScriptedModel", "MODEL": "scripted"}
    for name, value in settings.items():
        monkeypatch.setenv(f"BACKTALK_{name}", value)

    @contextmanager
    def serving(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        with serve(example["app"]) as url:
            yield url, example

    return serving


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'run("{path.stem}")' not in source] == []


def test_main(run: Any) -> None:
    with run("main") as (url, _):
        assert httpx2.get(url).json() == {"hello": "world"}
        assert client(url).responses.create(input="Hello").output_text == "You said: Hello"


def test_own_route(run: Any) -> None:
    with run("own_route") as (url, _):
        answer = httpx2.get(f"{url}/summary", params={"text": "Rain."}).json()
        assert answer["summary"] == "You said: Sum up in one sentence: Rain."
        assert client(url).responses.retrieve(answer["id"]).status == "completed"
        assert "about rain" in httpx2.get(f"{url}/story", params={"about": "rain"}).text


def test_context_source(run: Any) -> None:
    with run("context_source") as (url, _):
        for user, ids in (("ada", ["17"]), ("bo", [])):
            answer = client(url).responses.create(input="When do my chairs come?", user=user)
            receipt = httpx2.get(f"{url}/v1/responses/{answer.id}/context").json()
            assert [piece["id"] for piece in receipt["pieces"]] == ids


def test_own_model(run: Any) -> None:
    with run("own_model") as (url, _):
        assert client(url).responses.create(model="shout", input="hello there").output_text == "HELLO THERE "
        assert "shout" in [model.id for model in client(url).models.list()]


def test_own_embedder(run: Any) -> None:
    with run("own_embedder") as (url, _):
        sdk = client(url)
        assert len(sdk.embeddings.create(model="example/letters", input="abc").data[0].embedding) == 26
        store = sdk.vector_stores.create()
        attached = sdk.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("a.txt", b"The gate is open.")
        )
        assert attached.status == "completed", attached.last_error
        assert sdk.vector_stores.search(store.id, query="gate").data[0].filename == "a.txt"


def test_notes(run: Any) -> None:
    with run("notes") as (url, _):
        made = httpx2.post(f"{url}/notes", json={"title": "The garage", "text": "It closes at 22:00."}).json()
        assert httpx2.patch(f"{url}/notes/{made['id']}", json={"stars": 5}).json()["stars"] == 5
        assert httpx2.get(f"{url}/notes", params={"stars": 5}).json()["data"][0]["id"] == made["id"]
        found = until(lambda: httpx2.get(f"{url}/notes", params={"q": "When does it close?"}).json()["data"])
        assert found[0]["title"] == "The garage"


def test_mounted(run: Any) -> None:
    with run("mounted") as (url, example):
        assert example["seen"] == ["up"]
        assert httpx2.get(f"{url}/me").json() == {"project": "default"}
        assert client(url).responses.create(input="Hello").output_text == "You said: Hello"
        assert httpx2.get(f"{url}/v1/nowhere").json()["error"]["code"] == "unknown_url"
        assert httpx2.get(f"{url}/nowhere").json() == {"detail": "Not Found"}
    assert example["seen"] == ["up", "background", "down"]


def test_mounted_websocket(run: Any) -> None:
    with run("mounted") as (_, _example):
        pass
    example = runpy.run_path(str(EXAMPLES / "mounted.py"))
    with TestClient(example["app"], base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as inside:
        with inside.websocket_connect("/chat") as socket:
            socket.send_text("Hello")
            said = [socket.receive_text() for _ in range(3)]
        assert "".join(said) == "You said: Hello"
