"""Bodies that no client of good will sends."""

import json
from typing import Any

import httpx2
import pytest
from shape import assert_clean, things

HUGE = "9" * 20_000
SURROGATE = '"\\ud800"'

RAW = {
    "nothing": b"",
    "white": b"  \n ",
    "null": b"null",
    "number": b"17",
    "text": b'"input"',
    "list": b'[{"input": "x"}]',
    "not a number": b'{"model": "scripted", "input": "x", "temperature": NaN}',
    "infinity": b'{"model": "scripted", "input": "x", "temperature": Infinity}',
    "1e400": b'{"model": "scripted", "input": "x", "temperature": 1e400}',
    "20,000 digits": b'{"model": "scripted", "input": "x", "max_output_tokens": ' + HUGE.encode() + b"}",
    "20,000 digits in a list": b'{"model": "scripted", "input": [' + HUGE.encode() + b"]}",
    "20,000 decimals": b'{"model": "scripted", "input": "x", "temperature": 0.' + HUGE.encode() + b"x}",
    "surrogate": b'{"model": "scripted", "input": ' + SURROGATE.encode() + b"}",
    "surrogate as a key": b'{"model": "scripted", "input": "x", ' + SURROGATE.encode() + b": 1}",
    "broken UTF-8": b'{"model": "scripted", "input": "\xff\xfe"}',
    "overlong UTF-8": b'{"model": "scripted", "input": "\xc0\xaf"}',
    "UTF-16": '{"input": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"input": "x"',
    "cut": b'{"model": "scripted", "input": "x',
    "two values": b'{"input": "x"}{"input": "y"}',
    "trailing comma": b'{"input": "x",}',
    "single quotes": b"{'input': 'x'}",
    "comment": b'{"input": "x" /* y */}',
    "100,000 lists": b'{"input": ' + b"[" * 100_000,
    "100,000 closed lists": b'{"model": "scripted", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
    "65 levels": b'{"model": "scripted", "input": "x", "metadata": ' + b"[" * 64 + b"]" * 64 + b"}",
    "control characters": b'{"input": "\x00\x01"}',
    "form": b"input=x&model=scripted",
    "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}
MAY_BE_EMPTY = {"nothing", "null"}
"""A conversation and a vector store can be made of nothing."""
POSTS = ["/v1/responses", "/v1/chat/completions", "/v1/conversations", "/v1/embeddings", "/v1/vector_stores"]


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_proper_json(http: httpx2.Client, name: str) -> None:
    headers = {"content-type": "application/json"}
    for path in POSTS:
        answer = http.post(path, content=RAW[name], headers=headers)
        assert_clean(answer.status_code, answer.headers, answer.content, (name, path))
        assert answer.status_code >= 400 or name in MAY_BE_EMPTY, (name, path, answer.text[:200])


def test_duplicate_keys_are_the_last_ones(http: httpx2.Client) -> None:
    body = b'{"model": "nobody", "model": "scripted", "input": "x"}'
    answer = http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["model"]) == (200, "scripted")


def test_the_deepest_body_that_is_allowed(http: httpx2.Client) -> None:
    deep: Any = "x"
    for _ in range(60):
        deep = {"a": deep}
    body = {"model": "scripted", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": deep}]}
    assert http.post("/v1/responses", json=body).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "multipart/form-data", "multipart/form-data; boundary=", "application/xml", "x" * 5000, "json"],
)
def test_a_content_type_that_is_not_json(http: httpx2.Client, kind: str) -> None:
    for path in POSTS:
        answer = http.post(path, content=b'{"input": "x"}', headers={"content-type": kind})
        assert_clean(answer.status_code, answer.headers, answer.content, path)
        assert answer.status_code in (400, 415), (path, answer.text)


MULTIPART = {
    "nothing": b"",
    "no end": b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nabc',
    "no head": b"--b\r\n\r\nabc\r\n--b--\r\n",
    "no name": b"--b\r\ncontent-disposition: form-data\r\n\r\nabc\r\n--b--\r\n",
    "another boundary": b'--c\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--c--\r\n',
    "a file as text": b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc\r\n--b--\r\n',
    "no purpose": b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nabc\r\n--b--\r\n',
    "broken disposition": b"--b\r\ncontent-disposition: form-data; name=\xff\xfe; filename*=utf-8''%zz\r\n\r\na\r\n--b--\r\n",
    "10,000 fields": b"".join(
        b'--b\r\ncontent-disposition: form-data; name="f%d"\r\n\r\nx\r\n' % i for i in range(10_000)
    )
    + b"--b--\r\n",
    "10,000 headers": b"--b\r\n" + b"x: y\r\n" * 10_000 + b"\r\nabc\r\n--b--\r\n",
    "200 files": b"".join(
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="%d"\r\n\r\nx\r\n' % i for i in range(200)
    )
    + b"--b--\r\n",
}


# Starlette leaves the temporary file of a part without an end to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", MULTIPART)
def test_a_broken_upload(http: httpx2.Client, name: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = http.post("/v1/files", content=MULTIPART[name], headers=headers)
    assert_clean(answer.status_code, answer.headers, answer.content, name)
    assert answer.status_code == 400, answer.text


FILENAMES = ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a\x00b.txt", "con", "a" * 3000, "é\u202etxt.exe", "a\nb", "%2e%2e%2f", "C:\\x", "'; DROP TABLE files;--"]  # fmt: skip


@pytest.mark.parametrize("name", FILENAMES)
def test_a_filename_is_a_name_and_never_a_path(http: httpx2.Client, name: str) -> None:
    answer = http.post("/v1/files", files={"file": (name, b"x")}, data={"purpose": "assistants"})
    assert_clean(answer.status_code, answer.headers, answer.content, name)
    if answer.status_code == 200:
        content = http.get(f"/v1/files/{answer.json()['id']}/content")
        assert content.content == b"x"
        assert content.headers["content-disposition"].startswith("attachment")
        assert "/" not in answer.json()["filename"] and "\x00" not in answer.json()["filename"]


NASTY: list[Any] = [
    None, True, -1, 0, 2**63, 2**64, -(2**63) - 1, 1e300, 0.5, "", "x", "\x00", "a\x00b", "\ud800", "'; --", "%s", "x" * 70_000,
    [], [None], ["x"], [[]], {}, {"a": None}, {"type": None}, [{"type": "x"}], {"id": {}}, [{"role": []}],
]  # fmt: skip


def test_every_field_of_every_body_with_every_wrong_type(on_each: str) -> None:
    server, ids = on_each, things(on_each)
    schema = httpx2.get(f"{server}/openapi.json").json()
    sent = 0
    with httpx2.Client(timeout=60) as http:
        for path, operations in schema["paths"].items():
            for method in operations.keys() & {"post", "put", "patch"}:
                content = operations[method].get("requestBody", {}).get("content", {}).get("application/json")
                if not content:
                    continue
                url = server + path.format(**ids) if "{" in path else server + path
                for field in fields_of(schema, content["schema"]):
                    for value in NASTY:
                        body = {**BASE.get(path, {}), field: value}
                        raw = json.dumps(body).encode()
                        answer = http.request(method, url, content=raw, headers={"content-type": "application/json"})
                        assert_clean(answer.status_code, answer.headers, answer.content, (path, field, str(value)[:50]))
                        sent += 1
    assert sent > 1000


BASE: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "scripted", "input": "x", "store": False},
    "/v1/chat/completions": {"model": "scripted", "messages": [{"role": "user", "content": "x"}]},
    "/v1/embeddings": {"model": "wordllama", "input": "x"},
    "/v1/vector_stores/{store_id}/search": {"query": "x"},
}


def fields_of(schema: dict[str, Any], body: dict[str, Any]) -> list[str]:
    """The names of a body's fields."""
    if "$ref" in body:
        return fields_of(schema, schema["components"]["schemas"][body["$ref"].rpartition("/")[2]])
    if "properties" in body:
        return list(body["properties"])
    return [name for part in body.get("anyOf", body.get("allOf", [])) for name in fields_of(schema, part)]
