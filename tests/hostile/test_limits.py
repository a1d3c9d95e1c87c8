"""The limits that hold when nothing is set, and those that are: what is within them goes through, what is over does not."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from shape import assert_clean

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve
from support import until

TURN: dict[str, Any] = {"model": "scripted", "input": "x", "store": False}
USER = {"role": "user", "content": "x"}
CHAT: dict[str, Any] = {"model": "scripted", "messages": [USER]}


def function(i: int) -> dict[str, Any]:
    return {"type": "function", "name": f"f{i}", "function": {"name": f"f{i}"}}


def call(i: int) -> dict[str, Any]:
    return {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


COUNTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "2,049 items": ("/v1/responses", TURN | {"input": [USER] * 2049}, "input"),
    "129 tools": ("/v1/responses", TURN | {"tools": [function(i) for i in range(129)]}, "tools"),
    "2,049 messages": ("/v1/chat/completions", CHAT | {"messages": [USER] * 2049}, "messages"),
    "129 tools in a chat": ("/v1/chat/completions", CHAT | {"tools": [function(i) for i in range(129)]}, "tools"),
    "2,049 calls in one message": (
        "/v1/chat/completions",
        CHAT | {"messages": [{"role": "assistant", "tool_calls": [call(i) for i in range(2049)]}]},
        "messages",
    ),
    "21 items of a conversation": ("/v1/conversations", {"items": [USER] * 21}, "items"),
    "501 files of a store": ("/v1/vector_stores", {"file_ids": ["file-1"] * 501}, "file_ids"),
    "2,049 texts": ("/v1/embeddings", {"model": "backtalk/static", "input": ["x"] * 2049}, "input"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_list_that_is_too_long(http: httpx2.Client, name: str) -> None:
    path, body, param = COUNTS[name]
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert_clean(answer.status_code, answer.headers, answer.content)


def test_a_list_that_is_just_short_enough(http: httpx2.Client) -> None:
    for path, body in (
        ("/v1/responses", TURN | {"input": [USER] * 2048, "tools": [function(i) for i in range(128)]}),
        ("/v1/chat/completions", CHAT | {"messages": [USER] * 2048, "tools": [function(i) for i in range(128)]}),
    ):
        assert http.post(path, json=body).status_code == 200


def form(files: int, fields: int = 1) -> bytes:
    names = ["purpose"] * fields
    parts = [f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\nassistants\r\n' for name in names]
    parts += ['--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n'] * files
    return "".join([*parts, "--b--\r\n"]).encode()


def test_parts_of_a_form(http: httpx2.Client) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert http.post("/v1/files", content=form(20), headers=kind).status_code == 200
    for body in (form(21), form(1, 101)):
        answer = http.post("/v1/files", content=body, headers=kind)
        assert answer.status_code == 400 and "Too many" in answer.json()["error"]["message"]
        assert_clean(answer.status_code, answer.headers, answer.content)


def test_bytes_of_bodies_and_uploads(tmp_path: Path) -> None:
    app = Backtalk(
        Settings(home=tmp_path, discover=False, max_body=1000, max_upload=2 * 2**20), models=[ScriptedModel()]
    )
    with serve(app) as url, httpx2.Client(base_url=url, timeout=30) as http:
        assert http.post("/v1/responses", json=TURN | {"input": "x" * 900}).status_code == 200
        answer = http.post("/v1/responses", json=TURN | {"input": "x" * 1000})
        assert (answer.status_code, "1,000 bytes" in answer.json()["error"]["message"]) == (413, True)
        for size, status in ((2 * 2**20, 200), (3 * 2**20 + 1, 413)):
            answer = http.post("/v1/files", files={"file": ("a", b"x" * size)}, data={"purpose": "user_data"})
            assert answer.status_code == status
            assert_clean(answer.status_code, answer.headers, answer.content)
        blobs = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
        assert [blob.stat().st_size for blob in blobs] == [2 * 2**20]


def test_what_holds_when_nothing_is_set() -> None:
    settings = Settings()
    assert (settings.max_body, settings.max_upload) == (8 * 2**20, 512 * 2**20)
    assert (settings.body_timeout, settings.write_timeout, settings.max_runs) == (120, 60, 1000)
    assert (settings.max_bodies, settings.max_connections) == (256 * 2**20, 10_000)


async def test_runs_at_once(tmp_path: Path) -> None:
    """A burst is counted as it comes in, not when its first events are stored."""
    app = Backtalk(Settings(home=tmp_path, discover=False, max_runs=3), models=[ScriptedModel()])
    slow = {"model": "scripted", "input": "[[tokens:1000]] [[pace:1]]", "background": True}
    with serve(app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
            answers = await asyncio.gather(*(http.post("/v1/responses", json=slow) for _ in range(12)))
            assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 9
            refused = next(answer for answer in answers if answer.status_code == 503)
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "service_unavailable"
            streamed = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
            assert (streamed.status_code, streamed.headers["content-type"]) == (503, "application/json")
            begun = [answer.json()["id"] for answer in answers if answer.status_code == 200]
            await http.post(f"/v1/responses/{begun[0]}/cancel")
        until(lambda: httpx2.post(f"{url}/v1/responses", json=TURN, timeout=30).status_code == 200)
        for response in begun[1:]:
            httpx2.post(f"{url}/v1/responses/{response}/cancel", timeout=30)


async def test_a_mistake_gives_its_place_back(tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False, max_runs=1), models=[ScriptedModel()])
    with serve(app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
            for _ in range(3):
                assert (await http.post("/v1/responses", json=TURN | {"model": "nobody"})).status_code == 404
            assert (await http.post("/v1/responses", json=TURN)).status_code == 200


RANGES = {
    "bytes=2-4": (206, b"cde"),
    "bytes=-2": (206, b"ij"),
    "bytes=x": (200, b"abcdefghij"),
    "bytes=": (200, b"abcdefghij"),
    "lines=1-2": (200, b"abcdefghij"),
    "bytes=5-1": (200, b"abcdefghij"),
    "bytes=" + ",".join(["0-1"] * 5000): (200, b"abcdefghij"),
    "bytes=99-": (416, None),
    "bytes=0-1,99-100": (416, None),
}


@pytest.mark.parametrize("wanted", RANGES, ids=lambda text: text[:20])
def test_ranges_of_a_file(http: httpx2.Client, wanted: str) -> None:
    stored = http.post("/v1/files", files={"file": ("a", b"abcdefghij")}, data={"purpose": "user_data"}).json()
    answer = http.get(f"/v1/files/{stored['id']}/content", headers={"range": wanted})
    status, content = RANGES[wanted]
    assert answer.status_code == status
    assert_clean(answer.status_code, answer.headers, answer.content)
    if content is None:
        assert answer.headers["content-range"] == "bytes */10"
    else:
        assert answer.content == content


ITSELF = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}, "$ref": "#/$defs/a"}
TWICE = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)}
TENFOLD = {f"d{i}": {"type": "array", "minItems": 10, "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(12)}
SCHEMAS: dict[str, dict[str, Any]] = {
    "all of itself": {"allOf": [{"$ref": "#"}]},
    "any of itself": ITSELF,
    "itself twice, 60 times over": {"$ref": "#/$defs/d0", "$defs": TWICE},
    "10^12 strings": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/d0"}},
        "required": ["a"],
        "$defs": {**TENFOLD, "d12": {"type": "string"}},
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("model", ["scripted", "backtalk/extractive"])
def test_a_schema_without_end(http: httpx2.Client, model: str, name: str) -> None:
    """It is the client's mistake, told soon: nobody else waits for it."""
    form = {"type": "json_schema", "name": "x", "schema": SCHEMAS[name]}
    answer = http.post("/v1/responses", content=json.dumps(TURN | {"model": model, "text": {"format": form}}).encode(), headers={"content-type": "application/json"})  # fmt: skip
    assert_clean(answer.status_code, answer.headers, answer.content)
    assert answer.status_code == 400 and "schema" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings"])
def test_an_error_does_not_send_a_megabyte_back(http: httpx2.Client, path: str) -> None:
    answer = http.post(path, json={"model": "x" * 2**20, "input": "x"})
    assert (answer.status_code, len(answer.content) < 2000) == (404, True)
