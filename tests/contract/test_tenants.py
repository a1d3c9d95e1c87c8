"""Keys and projects: who may call, and what they can see."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backtalk.testing import Server, client


def new_key(server: Server, project: str) -> str:
    """Makes a key by the command line and returns its secret."""
    done = subprocess.run(
        [sys.executable, "-m", "backtalk", "keys", "create", "--project", project],
        env={**server._environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(word for word in done.stdout.split() if word.startswith("bt_"))


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """(URL, Ada's secret, Bo's secret) of a server with a key for each of two projects."""
    env = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted", "BACKTALK_DISCOVER": "0"}
    with Server(Path(tmp_path_factory.mktemp("tenants")), env) as server:
        yield server.url, new_key(server, "ada"), new_key(server, "bo")


@pytest.mark.wire("K1")
def test_only_a_good_key_opens_the_door(tenants: tuple[str, str, str]) -> None:
    url, ada, _ = tenants
    good = {"authorization": f"Bearer {ada}"}
    assert httpx2.get(f"{url}/v1/models", headers=good).status_code == 200
    spoilt = {"authorization": f"Bearer {ada[:-1]}{'a' if ada[-1] != 'a' else 'b'}"}
    for headers in ({}, {"authorization": "Bearer bt_nonsense"}, spoilt, {"authorization": ada}):
        reply = httpx2.get(f"{url}/v1/models", headers=headers)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.wire("K2")
def test_a_foreign_id_is_as_one_that_never_was(tenants: tuple[str, str, str]) -> None:
    url, ada, bo = tenants
    mine = client(url, api_key=ada)
    response = mine.responses.create(input="My name is Ada.")
    conversation = mine.conversations.create(items=[{"type": "message", "role": "user", "content": "Hello"}])
    (item,) = mine.conversations.items.list(conversation.id)
    file = mine.files.create(file=("secret.txt", b"The secret word is heliotrope."), purpose="assistants")
    store = mine.vector_stores.create(name="Ada's")
    mine.vector_stores.files.create_and_poll(vector_store_id=store.id, file_id=file.id, poll_interval_ms=50)
    batch = mine.vector_stores.file_batches.create_and_poll(store.id, file_ids=[file.id], poll_interval_ms=50)
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/responses/{response.id}", None),
        ("GET", f"/responses/{response.id}?stream=true", None),
        ("DELETE", f"/responses/{response.id}", None),
        ("POST", f"/responses/{response.id}/cancel", None),
        ("GET", f"/responses/{response.id}/input_items", None),
        ("GET", f"/responses/{response.id}/context", None),
        ("POST", "/responses", {"previous_response_id": response.id, "input": "What is my name?"}),
        ("POST", "/responses", {"conversation": conversation.id, "input": "What is my name?"}),
        ("POST", "/responses", {"input": [{"type": "item_reference", "id": item.id}]}),
        ("GET", f"/conversations/{conversation.id}", None),
        ("POST", f"/conversations/{conversation.id}", {"metadata": {"a": "b"}}),
        ("DELETE", f"/conversations/{conversation.id}", None),
        ("GET", f"/conversations/{conversation.id}/items", None),
        ("POST", f"/conversations/{conversation.id}/items", {"items": [{"role": "user", "content": "x"}]}),
        ("GET", f"/conversations/{conversation.id}/items/{item.id}", None),
        ("DELETE", f"/conversations/{conversation.id}/items/{item.id}", None),
        ("GET", f"/files/{file.id}", None),
        ("GET", f"/files/{file.id}/content", None),
        ("DELETE", f"/files/{file.id}", None),
        ("GET", f"/vector_stores/{store.id}", None),
        ("POST", f"/vector_stores/{store.id}", {"name": "Bo's"}),
        ("DELETE", f"/vector_stores/{store.id}", None),
        ("POST", f"/vector_stores/{store.id}/search", {"query": "secret word"}),
        ("GET", f"/vector_stores/{store.id}/files", None),
        ("POST", f"/vector_stores/{store.id}/files", {"file_id": file.id}),
        ("GET", f"/vector_stores/{store.id}/files/{file.id}", None),
        ("POST", f"/vector_stores/{store.id}/files/{file.id}", {"attributes": {}}),
        ("GET", f"/vector_stores/{store.id}/files/{file.id}/content", None),
        ("DELETE", f"/vector_stores/{store.id}/files/{file.id}", None),
        ("POST", f"/vector_stores/{store.id}/file_batches", {"file_ids": [file.id]}),
        ("GET", f"/vector_stores/{store.id}/file_batches/{batch.id}", None),
        ("POST", f"/vector_stores/{store.id}/file_batches/{batch.id}/cancel", None),
        ("GET", f"/vector_stores/{store.id}/file_batches/{batch.id}/files", None),
        ("POST", "/vector_stores", {"file_ids": [file.id]}),
    ]
    ids = (response.id, conversation.id, item.id, file.id, store.id, batch.id)
    stranger = httpx2.Client(base_url=f"{url}/v1", headers={"authorization": f"Bearer {bo}"}, timeout=30)
    for method, path, body in calls:
        foreign = stranger.request(method, path, json=body)
        never = stranger.request(method, unknown(path, ids), json=unknown(body, ids))
        assert foreign.status_code in (400, 404), (method, path, foreign.text)
        assert foreign.status_code == never.status_code
        assert unknown(foreign.json(), ids) == never.json(), (method, path)
    for path in ("/files", "/vector_stores", "/conversations"):
        assert stranger.get(path).json()["data"] == []
    assert mine.vector_stores.search(store.id, query="secret word").data
    assert mine.responses.retrieve(response.id).output_text
    assert mine.files.content(file.id).read() == b"The secret word is heliotrope."


def unknown(value: Any, ids: tuple[str, ...]) -> Any:
    """The same text or body with each id changed into one that never was."""
    if isinstance(value, dict):
        return {key: unknown(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [unknown(inner, ids) for inner in value]
    if isinstance(value, str):
        for known in ids:
            value = value.replace(known, known[:-4] + "zzzz")
    return value
