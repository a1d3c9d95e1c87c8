"""Faults between this server and a model server (rows 1, 5, 8, 9, 12, 13), made by a proxy that breaks connections."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fault_house import House, Line, delta, fake_upstream, house, memory, open_files, said, tokens

from backtalk.http import sse
from backtalk.testing import Server
from backtalk.testing.proxy import FaultProxy, blackhole, cut_after, half_open
from support import lacking

TOKENS = [f"t{number:02d} " for number in range(60)]


async def talks(line: Line) -> None:
    """One token after the other, each in as many bytes."""
    await line.head()
    for token in TOKENS:
        await line.event(delta(content=token))
        await asyncio.sleep(0.001)
    await asyncio.sleep(60)


async def for_ever(line: Line) -> None:
    await line.head()
    while True:
        await line.event(delta(content="word "))
        await asyncio.sleep(0.02)


async def eventually(check: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not check():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it never came true: {what}") from None


# ── row 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def leave_early(h: House) -> str:
    """Asks for a stream and goes after the first words. The response's id."""
    body = {"model": "a/m", "input": "hi", "stream": True}
    async with h.http.stream("POST", "/v1/responses", json=body) as reply:
        seen = ""
        async for piece in reply.aiter_text():
            seen += piece
            if "output_text.delta" in seen:
                break
    return seen.split('"id":"', 1)[1].split('"', 1)[0]


async def test_row_01_a_hundred_clients_that_leave_leave_nothing_open(tmp_path: Path) -> None:
    async with house(tmp_path, for_ever) as h:
        await leave_early(h)
        await eventually(lambda: not (h.app.runner.running or h.proxy.open), "the first one is at rest")
        tasks, files = len(asyncio.all_tasks()), open_files()
        ids: list[str] = []
        for _ in range(5):
            ids += await asyncio.gather(*(leave_early(h) for _ in range(20)))
        await eventually(lambda: not h.proxy.open, "no connection to the model server is open")
        await eventually(lambda: not h.app.runner.running, "no run goes on")
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 2, "all tasks have ended")
        await eventually(lambda: open_files() <= files + 4, "all files are closed")  # but for connections that wait
        assert len(h.fake.requests) == len(set(ids)) + 1 == 101
        for response_id in ids[::10]:
            left = await h.stored(response_id)
            assert (left["status"], left["backtalk"]) == ("incomplete", {"reason": "client_disconnected"})
            assert said(left).startswith("word ")


# ── row 5 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def unknown_certificate(folder: Path) -> Any:
    """A TLS server whose certificate nobody has signed; yields its URL."""
    if not shutil.which("openssl"):
        lacking("no openssl: install it (apt-get install openssl)")
    cert, key = folder / "cert.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(["openssl", *options.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


def check_unavailable(reply: httpx2.Response) -> None:
    assert reply.status_code == 503, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert int(reply.headers["retry-after"]) >= 1


async def test_row_05_a_closed_port_is_unavailable_and_the_key_is_free_for_the_retry(tmp_path: Path) -> None:
    async with house(tmp_path, tokens("Here ", "again.")) as h:
        h.proxy.refuse()
        headers = {"idempotency-key": "once"}
        check_unavailable(await h.ask(headers=headers))
        h.proxy.accept()
        again = await h.ask(headers=headers)
        assert (again.status_code, said(again.json())) == (200, "Here again.")
        assert len(h.fake.requests) == 1


@pytest.mark.parametrize("how", ["a name that there is not", "an unknown certificate", "no TLS at all"])
async def test_row_05_names_and_certificates_that_are_wrong(how: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if how == "an unknown certificate":
            url = await stack.enter_async_context(unknown_certificate(tmp_path))
        elif how == "no TLS at all":
            url = (await stack.enter_async_context(fake_upstream(talks))).url.replace("http:", "https:")
        else:
            url = "http://nowhere.invalid/v1"
        h = await stack.enter_async_context(house(tmp_path, talks, upstream={"url": url}, connect_timeout=0.5))
        check_unavailable(await h.ask())


# ── row 8 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_08_cut_after_any_token_the_response_fails_with_what_was_said(tmp_path: Path) -> None:
    async with house(tmp_path, talks) as h:
        head, one = await sizes()
        for count in (*range(1, 6), 9, 17, 30, 50):
            h.proxy.to_client = cut_after(head + count * one + one // 2)
            asked = len(h.fake.requests)
            _, found = await h.stream()
            end = found[-1]
            assert (end["type"], end["response"]["error"]["code"]) == ("response.failed", "server_error")
            assert end["response"]["backtalk"]["reason"] == "upstream_error"
            assert said(end["response"]) == "".join(TOKENS[:count])
            assert await h.stored(end["response"]["id"]) == end["response"]
            assert len(h.fake.requests) == asked + 1, "it was asked again after its first token"


async def sizes() -> tuple[int, int]:
    """Bytes of the fake's head, and of one token."""
    async with fake_upstream(talks) as fake:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(fake.url).port)
        writer.write(b"POST / HTTP/1.1\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readuntil(b"\n\n\r\n")
        writer.close()
        return len(head), len(first)


# ── row 9 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_09_a_half_open_upstream_is_told_after_keep_alives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.2)
    head, one = await sizes()
    async with house(tmp_path, talks, idle_timeout=1.0) as h:
        h.proxy.to_client = blackhole(head + 5 * one)
        wire, found = await h.stream()
        assert wire.index(b"output_text.delta") < wire.index(b"\n\n: ") < wire.index(b"event: response.failed")
        end = found[-1]["response"]
        assert (end["status"], end["backtalk"]["reason"]) == ("failed", "upstream_timeout")
        assert said(end) == "".join(TOKENS[:5])
        await eventually(lambda: not (h.proxy.open or h.app.runner.running), "socket and slot are free")


async def test_row_09_an_upstream_that_accepts_and_never_answers(tmp_path: Path) -> None:
    async with house(tmp_path, talks, idle_timeout=0.5) as h:
        h.proxy.to_server = half_open()
        reply = await h.ask()
        assert reply.status_code in (502, 503, 504), reply.text
        assert "silent" in reply.json()["error"]["message"]
        await eventually(lambda: not (h.proxy.open or h.app.runner.running), "socket and slot are free")


# ── row 12 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_12_what_says_gzip_and_is_not_is_a_protocol_error(tmp_path: Path) -> None:
    async def lies(line: Line) -> None:
        await line.head(content_encoding="gzip")
        await line.event(delta(content="no gzip"))
        await line.end()

    async with house(tmp_path, lies) as h:
        _, found = await h.stream()
        assert found[-1]["response"]["backtalk"]["reason"] == "upstream_protocol_error"


# ── row 13 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_row_13_a_line_of_a_hundred_megabytes_costs_little_memory(tmp_path: Path) -> None:
    async def huge(line: Line) -> None:
        await line.head()
        await line.event(delta(content="Well "))
        await line.chunk(b"data: ")
        for _ in range(100):
            await line.chunk(b"x" * 2**20)
        await line.end()

    async with fake_upstream(huge) as fake:
        server = Server(tmp_path, {"BACKTALK_UPSTREAM": fake.url})
        await asyncio.to_thread(server.start().wait_ready)
        try:
            async with httpx2.AsyncClient(base_url=server.url, timeout=60) as http:
                body = {"model": "upstream/m", "input": "hi"}
                await http.post("/v1/responses", json={**body, "model": "backtalk/extractive"})  # everything is loaded
                before = memory(server.pid, "VmHWM")
                failed = (await http.post("/v1/responses", json={**body, "background": True})).json()
                while failed["status"] in ("queued", "in_progress"):
                    await asyncio.sleep(0.05)
                    failed = (await http.get(f"/v1/responses/{failed['id']}")).json()
            assert (failed["status"], failed["backtalk"]["reason"]) == ("failed", "upstream_too_large")
            assert said(failed) == "Well "
            assert memory(server.pid, "VmHWM") - before < 64 * 2**20
        finally:
            await asyncio.to_thread(server.stop)


@pytest.mark.parametrize("demand", [{}, {"text": {"format": {"type": "json_object"}}}])
async def test_row_13_a_server_that_heeds_no_limit_is_left(tmp_path: Path, demand: dict[str, Any]) -> None:
    async with house(tmp_path, for_ever) as h:
        body = {"model": "a/m", "input": "hi", "max_output_tokens": 16, **demand}
        answer = (await h.http.post("/v1/responses", json=body)).json()
        assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert len(said(answer).split()) < 200
        await eventually(lambda: h.proxy.open == 0, "the server was left")


# ── the proxy itself ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_proxy_passes_counts_and_notices_who_leaves(tmp_path: Path) -> None:
    async with fake_upstream(tokens("Hello")) as fake:
        port = urlsplit(fake.url).port
        assert port
        with FaultProxy("127.0.0.1", port).running() as proxy:
            async with httpx2.AsyncClient() as http:
                reply = await http.post(proxy.url_for("/v1/chat/completions"), json={})
                assert "Hello" in reply.text
                (link,) = proxy.links
                assert link.to_server > 0 and link.to_client > len(reply.content)
                assert (link.client_closed, link.server_closed, proxy.open) == (None, None, 1)
            await eventually(lambda: link.client_closed and not proxy.open, "the client was seen to leave")
            await eventually(lambda: link.server_closed, "the server has closed too")
