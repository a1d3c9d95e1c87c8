"""Two tenants over every path and verb of `/openapi.json`: what is another's answers as what never was."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel
from shape import assert_clean, things

from backtalk import Backtalk, Settings
from backtalk.core.errors import InvalidRequest
from backtalk.testing import ScriptedModel, serve


class Note(BaseModel):
    text: str


NEVER = "0123456789abcdef0123456789abcdef"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions/{completion_id}": {"metadata": {"a": "b"}},
    "/v1/conversations/{conversation_id}": {"metadata": {"a": "b"}},
    "/v1/conversations/{conversation_id}/items": {"items": [{"role": "user", "content": "x"}]},
    "/v1/vector_stores/{store_id}": {"name": "Mine now"},
    "/v1/vector_stores/{store_id}/search": {"query": "garage"},
    "/v1/vector_stores/{store_id}/files": {"file_id": "{file_id}"},
    "/v1/vector_stores/{store_id}/files/{file_id}": {"attributes": {}},
    "/v1/vector_stores/{store_id}/file_batches": {"file_ids": ["{file_id}"]},
    "/notes/{id}": {"text": "Mine now"},
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[httpx2.Client, httpx2.Client]]:
    keys: list[str] = []

    @asynccontextmanager
    async def making_keys(app: Any) -> AsyncIterator[None]:
        keys.extend([(await app.access.create(project=name))[1] for name in ("ada", "bo")])
        yield

    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()], lifespan=making_keys)
    app.resource("notes", Note)
    with serve(app) as url, client_of(url, keys[0]) as ada, client_of(url, keys[1]) as bo:
        yield ada, bo


def client_of(url: str, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def test_nothing_of_another_tenant_can_be_seen_or_touched(two: tuple[httpx2.Client, httpx2.Client]) -> None:
    ada, bo = two
    ids = things(str(ada.base_url), api_key=ada.headers["authorization"].removeprefix("Bearer "))
    ids["id"] = ada.post("/notes", json={"text": "Ada's"}).json()["id"]
    paths = ada.get("/openapi.json").json()["paths"]
    tried = 0
    for path, operations in paths.items():
        names = [name for name in re.findall(r"\{(\w+)\}", path) if name != "model"]
        if not names:
            continue
        assert set(names) <= ids.keys(), f"a new kind of id: make one in `things` ({path})"
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            foreign, never = (ask(bo, method, path, given) for given in (ids, unknown(ids)))
            assert foreign.status_code in (400, 404), (method, path, foreign.text)
            if path.startswith("/v1/"):
                assert_clean(foreign.status_code, foreign.headers, foreign.content, (method, path))
            assert (foreign.status_code, told(foreign, ids)) == (never.status_code, told(never, unknown(ids)))
            tried += 1
    assert tried >= 30
    for path in ("/v1/files", "/v1/vector_stores", "/v1/conversations", "/notes"):
        assert (bo.get(path).json()["data"], len(ada.get(path).json()["data"])) == ([], 1), path
    for path in paths:
        if path.startswith(("/v1/files/", "/v1/responses/", "/notes/")) and "get" in paths[path]:
            assert ask(ada, "get", path, ids).status_code == 200, path


def ask(http: httpx2.Client, method: str, path: str, ids: dict[str, str]) -> httpx2.Response:
    body = filled(BODIES.get(path, {}), ids) if method in ("post", "put", "patch") else None
    return http.request(method, path.format(**ids), json=body)


def filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, ids) for inner in value]
    return value.format(**ids) if isinstance(value, str) else value


def unknown(ids: dict[str, str]) -> dict[str, str]:
    """Ids of the same kinds that nobody has."""
    return {name: re.sub(r"[0-9a-f]{32}$", NEVER, value) for name, value in ids.items()}


def told(answer: httpx2.Response, ids: dict[str, str]) -> str:
    """The error without the ids that were asked for."""
    text = answer.text
    for name, value in ids.items():
        text = text.replace(value, name)
    return text


@pytest.mark.parametrize("name", ["ada ", " ada", "", "a\x00", "a\n", "\ud800", "a" * 129])
async def test_a_project_that_could_be_taken_for_another(tmp_path: Path, name: str) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False))
    with pytest.raises(InvalidRequest):
        await app.access.create(project=name)
