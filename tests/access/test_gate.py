"""The gate, case by case: who is let in, who is refused, and with what answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from fastapi import Depends, FastAPI, WebSocket
from starlette.types import Message, Receive, Scope, Send

from backtalk.access.gate import Gate
from backtalk.access.service import Access
from backtalk.domain.caller import Caller
from backtalk.http import errors
from backtalk.http.caller import caller
from backtalk.storage import Storage
from running import served

Answer = tuple[int, dict[str, str], Any]


async def project_of(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the caller's project."""
    who = scope["state"].get("caller")
    body = json.dumps({"project": who.project if who else None}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"r")]})
    await send({"type": "http.response.body", "body": body})


def gate(access: Access, app: Any = project_of) -> Gate:
    return Gate(
        app,
        access,
        hosts=["api.example", "2001:db8::1"],
        origins=["https://app.example"],
        is_ours=lambda path: path.startswith("/v1") or path in ("/", "/healthz"),
        is_public=lambda path: path == "/healthz",
    )


async def ask(guarded: Any, path: str = "/v1/models", **changes: Any) -> Answer:
    """One request, put together by hand: clients and servers would not let us send some of these."""
    headers = {"host": "127.0.0.1:8000", **changes.pop("headers", {})}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value is not None],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the gate must not read the body")

    async def send(message: Message) -> None:
        sent.append(message)

    await guarded(scope, receive, send)
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], head, json.loads(body) if body else None


@pytest.fixture
def access(storage: Storage) -> Access:
    return Access(storage)


async def test_local_mode_serves_this_machine(access: Access) -> None:
    guarded = gate(access)
    assert (await ask(guarded))[2] == {"project": "default"}
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:8000", "api.example:443", "[2001:db8::1]:8000"):
        assert (await ask(guarded, headers={"host": host}))[0] == 200, host
    for client in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert (await ask(guarded, client=(client, 1)))[0] == 200, client
    assert (await ask(guarded, headers={"authorization": "Bearer sk-anything"}))[2] == {"project": "default"}
    assert (await ask(guarded, headers={"x-api-key": "sk-anything"}))[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"client": ("192.168.1.7", 1)},
        {"client": ("::ffff:10.0.0.1", 1)},
        {"client": None},
        {"client": ("", 0)},
        {"http_version": "1.0"},
        *(
            {"headers": {name: "10.0.0.1"}}
            for name in ("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-real-ip")
        ),
    ],
    ids=str,
)
async def test_local_mode_serves_nobody_else(access: Access, changes: dict[str, Any]) -> None:
    status, headers, body = await ask(gate(access), **changes)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "backtalk keys create" in body["error"]["message"]
    assert headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", None, "localhost.evil", "127.0.0.2"])
async def test_a_foreign_host_is_misdirected(access: Access, host: str | None) -> None:
    for path in ("/v1/models", "/healthz"):
        status, _, body = await ask(gate(access), path, headers={"host": host})
        assert (status, set(body["error"])) == (421, {"message", "type", "param", "code"})
    _, secret = await access.create()
    status, *_ = await ask(gate(access), headers={"host": host, "authorization": f"Bearer {secret}"})
    assert status == 421


async def test_the_address_that_was_connected_to_is_a_host_of_ours(access: Access) -> None:
    status, *_ = await ask(gate(access), headers={"host": "192.168.1.5:8000"}, server=("192.168.1.5", 8000))
    assert status == 200
    status, *_ = await ask(gate(access), headers={"host": "[fe80::5]:8000"}, server=("fe80::5", 8000))
    assert status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:8000", 200),
        ("https://app.example", 200),
        ("https://APP.example", 200),
        ("https://evil.example", 403),
        ("http://app.example", 403),
        ("http://127.0.0.1:9000", 403),
        ("http://localhost:8000", 403),
        ("https://app.example.evil.example", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
async def test_origins(access: Access, origin: str | None, status: int) -> None:
    assert (await ask(gate(access), headers={"origin": origin}))[0] == status
    _, secret = await access.create()
    assert (await ask(gate(access), headers={"origin": origin, "x-api-key": secret}))[0] == status


async def test_the_first_key_ends_local_mode(access: Access) -> None:
    guarded = gate(access)
    _, secret = await access.create("acme")
    status, _, body = await ask(guarded)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "Authorization: Bearer" in body["error"]["message"]
    status, _, body = await ask(guarded, headers={"authorization": "Bearer sk-anything"})
    assert status == 401
    assert "Incorrect" in body["error"]["message"]
    for headers in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer  {secret}"},
        {"x-api-key": secret},
    ):
        for client in ("127.0.0.1", "203.0.113.9"):
            status, _, body = await ask(guarded, headers={**headers, "via": "proxy"}, client=(client, 1))
            assert (status, body) == (200, {"project": "acme"})
    assert (await ask(guarded, headers={"authorization": f"Basic {secret}"}))[0] == 401


async def test_a_fresh_key_is_never_taken_for_local_mode(storage: Storage) -> None:
    """Another process made the first key a moment ago: its owner must not end up in the default project."""
    here = Access(storage)
    assert await here.has_keys() is False
    _, secret = await Access(storage).create("acme")
    assert (await ask(gate(here), headers={"authorization": f"Bearer {secret}"}))[2] == {"project": "acme"}


async def test_public_paths_need_no_key(access: Access) -> None:
    await access.create()
    assert (await ask(gate(access), "/healthz", client=("203.0.113.9", 1)))[0] == 200
    assert (await ask(gate(access), "/", method="HEAD", client=("203.0.113.9", 1)))[0] == 200
    assert (await ask(gate(access), "/", client=("203.0.113.9", 1)))[0] == 401


async def test_a_prefix_hides_nothing(access: Access) -> None:
    await access.create()
    assert (await ask(gate(access), "/api/v1/models", root_path="/api"))[0] == 401


async def test_cors_for_configured_origins(access: Access) -> None:
    _, secret = await access.create()
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    asked = {**preflight, "access-control-request-headers": "authorization,content-type"}
    status, headers, body = await ask(gate(access), method="OPTIONS", headers=asked, client=("203.0.113.9", 1))
    assert (status, body) == (204, None)
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in headers["access-control-allow-methods"]
    for key, expected in ((secret, 200), ("", 401)):
        status, headers, _ = await ask(gate(access), headers={"origin": "https://app.example", "x-api-key": key})
        assert status == expected
        assert headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in headers["access-control-expose-headers"]
        assert headers["vary"] == "origin"
    status, headers, _ = await ask(
        gate(access), method="OPTIONS", headers={**preflight, "origin": "https://evil.example"}
    )
    assert status == 403
    assert "access-control-allow-origin" not in headers
    assert "access-control-allow-origin" not in (await ask(gate(access), headers={"x-api-key": secret}))[1]


async def test_a_websocket_is_refused_without_the_extension_too(access: Access) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing to read")

    scope: Scope = {"type": "websocket", "path": "/v1/responses", "headers": [(b"host", b"evil.example")]}
    await gate(access)(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


# Over a real server, with real clients


@pytest_asyncio.fixture
async def url(access: Access) -> AsyncIterator[str]:
    app = FastAPI()

    @app.get("/v1/who")
    @app.get("/mine/who")
    async def who(who: Annotated[Caller, Depends(caller)]) -> str:
        return who.project

    @app.get("/mine/open")
    async def free() -> str:
        return "anyone"

    @app.websocket("/v1/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.scope["state"]["caller"].project)
        await socket.close()

    errors.install(app, lambda path: path.startswith("/v1"))
    async with served(gate(access, app), ws="websockets-sansio") as base:
        yield base


async def get(url: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_users_own_routes_pass_and_may_ask(url: str, access: Access) -> None:
    assert await get(f"{url}/mine/who") == (200, "default")
    _, secret = await access.create("acme")
    assert await get(f"{url}/mine/open", Host="evil.example", Origin="https://evil.example") == (200, "anyone")
    assert await get(f"{url}/mine/who", Authorization=f"Bearer {secret}") == (200, "acme")
    assert (await get(f"{url}/mine/who"))[0] == 401
    assert (await get(f"{url}/mine/who", Host="evil.example"))[0] == 421
    assert (await get(f"{url}/mine/who", Origin="https://evil.example"))[0] == 403
    assert await get(f"{url}/v1/who", Authorization=f"Bearer {secret}") == (200, "acme")


async def test_websockets(url: str, access: Access) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/v1/talk") as socket:
            assert (await socket.receive_str()) == "default"
        for headers, status in (({"Origin": "https://evil.example"}, 403), ({"Host": "evil.example"}, 421)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{url}/v1/talk", headers=headers)
            assert refused.value.status == status
        _, secret = await access.create("acme")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{url}/v1/talk")
        assert refused.value.status == 401
        async with http.ws_connect(f"{url}/v1/talk", headers={"Authorization": f"Bearer {secret}"}) as socket:
            assert (await socket.receive_str()) == "acme"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        ("GET /v1/who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        ("GET /v1/who HTTP/1.0\r\nHost: localhost\r\n\r\n", 401),
        ("GET /v1/who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", 401),
        ("GET /v1/who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nVia: 1.1 cache\r\n\r\n", 401),
        # nothing of this body ever comes: the answer must not wait for it
        ("POST /v1/who HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000\r\n\r\n", 421),
    ],
)
async def test_raw_requests(url: str, request_head: str, status: int) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request_head.encode())
    async with asyncio.timeout(20):
        line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert line.split()[1] == str(status).encode()
