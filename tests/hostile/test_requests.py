"""Lines, headers, paths and parameters that no client library would let through: over a bare socket where need be."""

import asyncio
import json
import time
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from shape import KEYS, assert_clean, things

EVIL_IDS = [
    "..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "a%00b", "%ff", "%ed%a0%80", "a" * 5000, "'; DROP TABLE logs;--",
    "resp_", "resp_%", "*", "null", "undefined", "0", "-1", str(2**63), "{}", "[]", "é", "\u202e", "%0d%0ax-evil: 1", "resp_1/../..",
]  # fmt: skip
QUERIES = [
    "limit=0", "limit=-1", "limit=101", f"limit={2**63}", f"limit={'9' * 5000}", "limit=1.5", "limit=x", "limit=", "limit=%00",
    "after=x", "after=%00", "after=" + "a" * 5000, "after=file-1", "after=%ff", "order=x", "order=DESC;--", "order=",
    "starting_after=1", "stream=maybe", "stream=true&starting_after=-2", f"stream=true&starting_after={2**63}", "include=x&include[]=%00",
]  # fmt: skip
KINDS = {
    "response_id": "/v1/responses/",
    "conversation_id": "/v1/conversations/",
    "file_id": "/v1/files/",
    "store_id": "/v1/vector_stores/",
}
FTS = [
    '"', '""', "a AND", "NOT", "NEAR(", "a*b", "-a", "^", "col:x", "{a b}:c", "(((", "*", "a OR OR b", "\x00", "'", "--", "/*",
    "\u202e", "😀" * 500, "x" * 20_000, " ", "\ufffe", "a" + "\u0301" * 1000, "%", "_", "\\",
]  # fmt: skip


async def bare(url: str, data: bytes, *, more: bytes = b"", pause: float = 0) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes as they are, then `more` until the server answers. Returns the first answer's status, headers, body."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        writer.write(data)
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        while more and not answer.done():
            writer.write(more)
            await asyncio.sleep(pause)
            if not pause:
                await asyncio.wait_for(writer.drain(), 10)
        head = (await asyncio.wait_for(answer, 30)).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), 10)
        return int(head[0].split(" ")[1]), headers, body
    finally:
        writer.transport.abort()


def head(path: str = "/v1/responses", *lines: str, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {host}", *lines, "", ""]).encode("latin-1")


JSON = "content-type: application/json"


@pytest.mark.parametrize("evil", EVIL_IDS)
def test_an_id_that_is_none(http: httpx2.Client, evil: str) -> None:
    name = evil if "%" in evil else quote(evil, safe="")
    for path in ("/v1/responses/", "/v1/conversations/", "/v1/files/", "/v1/vector_stores/", "/v1/models/"):
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("POST", "/cancel")):
            answer = http.request(method, f"{path}{name}{tail}")
            assert_clean(answer.status_code, answer.headers, answer.content, (method, path, evil))
            assert answer.status_code >= 400 or answer.json()["object"] == "list", (method, path, evil, answer.text)


def test_an_id_of_another_kind_is_as_unknown_as_any(http: httpx2.Client, ids: dict[str, str]) -> None:
    for kind, path in KINDS.items():
        for other, value in ids.items():
            if other != kind:
                answer = http.get(f"{path}{value}")
                assert answer.status_code in (400, 404), (path, value)
                assert_clean(answer.status_code, answer.headers, answer.content, (path, value))


@pytest.mark.parametrize("query", QUERIES)
def test_a_list_that_is_asked_for_badly(http: httpx2.Client, ids: dict[str, str], query: str) -> None:
    paths = [
        "/v1/files", "/v1/vector_stores", f"/v1/vector_stores/{ids['store_id']}/files", f"/v1/responses/{ids['response_id']}",
        f"/v1/responses/{ids['response_id']}/input_items", f"/v1/conversations/{ids['conversation_id']}/items",
    ]  # fmt: skip
    for path in paths:
        answer = http.get(f"{path}?{query}")
        assert_clean(answer.status_code, answer.headers, answer.content, (path, query))


@pytest.mark.parametrize("query", FTS)
def test_a_question_is_text_and_never_syntax(http: httpx2.Client, ids: dict[str, str], query: str) -> None:
    answer = http.post(f"/v1/vector_stores/{ids['store_id']}/search", json={"query": query})
    assert_clean(answer.status_code, answer.headers, answer.content, query)
    assert answer.status_code in (200, 400)


def test_odd_text_in_addresses_and_questions_on_each_database(on_each: str) -> None:
    """What a statement is given: NUL, halves of characters and 2^63 are other things to each of them."""
    ids = things(on_each)
    with httpx2.Client(base_url=on_each, timeout=30) as http:
        for evil in EVIL_IDS:
            test_an_id_that_is_none(http, evil)
        for query in QUERIES:
            test_a_list_that_is_asked_for_badly(http, ids, query)
        for query in FTS:
            test_a_question_is_text_and_never_syntax(http, ids, query)
        for kind, path in KINDS.items():  # collations that do not tell A from a would find it
            assert http.get(path + ids[kind]).status_code == 200
            assert http.get(path + ids[kind][:10] + ids[kind][10:].upper()).status_code == 404


def test_every_path_with_every_method(http: httpx2.Client, ids: dict[str, str]) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            if method.lower() in operations:
                continue
            answer = http.request(method, path.format(**ids))
            assert answer.status_code in (404, 405), (method, path, answer.status_code)
            assert_clean(answer.status_code, answer.headers, answer.content, (method, path))


# Local mode serves this machine whatever key it shows; test_gate tries these keys on a server that has some.
HEADS = {
    "evil host": (head("/v1/models", method="GET", host="evil.example"), 421),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 421),
    "host of many kilobytes": (head("/v1/models", method="GET", host="a" * 9000), 421),
    "origin that is no URL": (head("/v1/responses", "origin: http://[::1", JSON, "content-length: 2") + b"{}", 403),
    "two hosts": (head("/v1/models", "host: 127.0.0.1", method="GET", host="evil.example"), 421),
    "host that is no text": (head("/v1/models", method="GET", host="127.0.0.1\xff"), 421),
    "host with a user": (head("/v1/models", method="GET", host="evil@127.0.0.1"), 421),
    "compressed body": (head("/v1/responses", JSON, "content-encoding: gzip", "content-length: 2") + b"\x1f\x8b", 400),
    "unknown transfer encoding": (head("/v1/responses", JSON, "transfer-encoding: gzip") + b"\x1f\x8b", 400),
    "chunk of 2^72 bytes": (head("/v1/responses", JSON, "transfer-encoding: chunked") + b"F" * 18 + b"\r\n", 400),
    "tunnel": (head("evil.example:80", method="CONNECT"), 400),
    "NUL in the path": (head("/v1/models\x00", method="GET"), 400),
    "bytes in the path": (head("/v1/files/\xff", method="GET"), 400),
    "path of 100 KB": (head("/v1/files/" + "a" * 100_000, method="GET"), 400),
    "space before a colon": (b"GET /v1/models HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n", 400),
    "line feeds only": (b"GET /v1/models HTTP/1.1\nhost: 127.0.0.1\n\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "foreign origin": (head("/v1/responses", "origin: https://evil.example", JSON, "content-length: 2") + b"{}", 403),
    "origin null": (head("/v1/responses", "origin: null", JSON, "content-length: 2") + b"{}", 403),
    "forwarded": (head("/v1/models", "x-forwarded-for: 10.0.0.1", method="GET"), 401),
    "40 KB of headers": (head("/v1/models", *[f"x-h{i}: {'y' * 90}" for i in range(400)], method="GET"), 431),
    "one header of 40 KB": (head("/v1/models", f"x-h: {'y' * 40_000}", method="GET"), 431),
    "key of 20 KB": (head("/v1/models", f"authorization: Bearer {'k' * 20_000}", method="GET"), 200),
    "key that is no text": (head("/v1/models", "authorization: Bearer \xff\xfe", method="GET"), 200),
    "length of a body that is too large": (head("/v1/responses", JSON, "content-length: 100000000"), 413),
    "length that is no number": (head("/v1/responses", JSON, "content-length: x"), 400),
    "negative length": (head("/v1/responses", JSON, "content-length: -1"), 400),
    "two lengths": (head("/v1/responses", JSON, "content-length: 2", "content-length: 3") + b"{}", 400),
    "length and chunks": (
        head("/v1/responses", JSON, "content-length: 2", "transfer-encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "broken chunk": (head("/v1/responses", JSON, "transfer-encoding: chunked") + b"zz\r\n", 400),
    "line break in a header": (head("/v1/models", "x: a\r\n b\x00", method="GET"), 400),
    "header without a name": (head("/v1/models", ": x", method="GET"), 400),
    "unknown method": (head("/v1/responses", method="BREW"), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/9": (b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_no_library_sends(server: str, name: str) -> None:
    data, expected = HEADS[name]
    status, headers, body = await bare(server, data)
    assert status == expected, (status, body)
    assert_clean(status, headers, body, name)


async def test_a_body_of_100_megabytes_is_cut_off_early(server: str) -> None:
    start = head("/v1/responses", JSON, "transfer-encoding: chunked")
    megabyte = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    sent = 0

    at = urlsplit(server)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(start)
    answer = asyncio.ensure_future(reader.readline())
    while sent < 100 and not answer.done():
        writer.write(megabyte)
        sent += 1
        try:
            await asyncio.wait_for(writer.drain(), 0.5)
        except (TimeoutError, ConnectionError):
            break
    assert b" 413 " in await asyncio.wait_for(answer, 10)
    assert sent < 30
    writer.transport.abort()


async def test_a_body_that_comes_a_byte_at_a_time_is_given_up(server: str) -> None:
    """`body_timeout` is 2 seconds here, and 120 where nothing is said."""
    started = time.monotonic()
    data = head("/v1/responses", JSON, "content-length: 1000") + b'{"input":'
    status, headers, body = await bare(server, data, more=b" ", pause=0.1)
    assert (status, json.loads(body)["error"].keys()) == (408, KEYS)
    assert time.monotonic() - started < 30
    assert "x-request-id" in headers


async def test_a_body_that_ends_too_soon(server: str) -> None:
    """The client goes away in the middle of its own request: nobody is left to answer, and nothing is left behind."""
    at = urlsplit(server)
    for _ in range(20):
        _, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(head("/v1/responses", JSON, "content-length: 1000") + b'{"input": "x"')
        await writer.drain()
        writer.transport.abort()
    async with httpx2.AsyncClient() as http:
        assert (await http.get(f"{server}/healthz")).status_code == 200


def test_what_a_header_says_never_comes_back_as_a_header(http: httpx2.Client) -> None:
    answer = http.get("/v1/models", headers={"x-request-id": "a", "x-client-request-id": "é".encode()})
    assert answer.headers["x-request-id"].startswith("req_")
    for path in ("/v1/files/%0d%0ax-evil:%201", "/v1/responses/a%0d%0aset-cookie:%20a=b"):
        answer = http.get(path)
        assert "x-evil" not in answer.headers and "set-cookie" not in answer.headers
