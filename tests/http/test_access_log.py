"""Log lines of requests: what they tell, what they never tell, and that a server writes them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from backtalk import Backtalk, Settings
from backtalk.http.access_log import JSONLines, PrettyLines
from backtalk.testing import ScriptedModel, Server, client, serve
from support import until

SCRIPTED = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_MODEL": "scripted"}


def lines_of(server: Server, path: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [row for row in rows if row.get("path") == path]


def test_a_server_writes_a_line_for_each_request(tmp_path: Path) -> None:
    secret = "bt_" + "s" * 43
    with Server(tmp_path, SCRIPTED) as server:
        headers = {"authorization": f"Bearer {secret}"}
        body = {"input": "my hidden prompt", "stream": True}
        reply = httpx2.post(f"{server.url}/v1/responses", json=body, headers=headers)
        httpx2.get(f"{server.url}/v1/nonsense?key={secret}")
        (turn,) = until(lambda: lines_of(server, "/v1/responses"))
        (unknown,) = until(lambda: lines_of(server, "/v1/nonsense"))
        assert lines_of(server, "/healthz") == [], "what asks every second fills no log"
    assert turn["request_id"] == reply.headers["x-request-id"]
    expected = {"level": "info", "method": "POST", "status": 200, "project": "default", "model": "scripted"}
    assert turn.items() >= expected.items()
    assert turn["input_tokens"] > 0
    assert turn["output_tokens"] > 0
    assert 0 < turn["first_token_ms"] <= turn["duration_ms"]
    assert unknown["status"] == 404
    assert "model" not in unknown
    assert secret not in server.log
    assert "hidden" not in server.log


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    with Server(tmp_path, SCRIPTED, args=["--no-access-log"]) as server:
        client(server.url).responses.create(input="Hello")
        server.stop()
        assert lines_of(server, "/v1/responses") == []


def test_worker_processes_log_alike(tmp_path: Path) -> None:
    with Server(tmp_path, {**SCRIPTED, "BACKTALK_LOG_FORMAT": "pretty"}, args=["--workers", "2"]) as server:
        client(server.url).responses.create(input="Hello")
        until(lambda: "POST /v1/responses 200 in " in server.log)
    assert "scripted, 1 + 3 tokens" in server.log


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, "backtalk.access")
    return lambda: [record for record in caplog.records if record.name == "backtalk.access"]


def made(tmp_path: Path, **settings: Any) -> Backtalk:
    return Backtalk(Settings(home=tmp_path, discover=False, model="scripted", **settings), models=[ScriptedModel()])


def test_every_end_of_a_request_is_told(tmp_path: Path, logged: Callable[[], list[logging.LogRecord]]) -> None:
    app = made(tmp_path, max_body=1000)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a mistake of the user's")

    with serve(app) as url:
        assert httpx2.get(f"{url}/broken").status_code == 500
        assert httpx2.post(f"{url}/v1/responses", content=b" " * 2000).status_code == 413
        with pytest.raises(openai.InternalServerError):
            client(url).chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "[[fail:before]]"}]
            )
        httpx2.get(f"{url}/v1/a%0Ab%1B[31m")
        until(lambda: len(logged()) == 4)
    fields = [record.fields for record in logged()]  # type: ignore[attr-defined]
    assert [(entry["path"], entry["status"]) for entry in fields[:2]] == [("/broken", 500), ("/v1/responses", 413)]
    assert fields[2]["status"] >= 500
    assert fields[3]["path"] == r"/v1/a\nb\x1b[31m"
    for formatter in (JSONLines(), PrettyLines()):
        assert all("\n" not in formatter.format(record) for record in logged())


def test_a_traceback_stays_with_its_record() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("backtalk", logging.ERROR, "", 0, "a\nb", None, info)
    assert "ValueError: wrong" in json.loads(JSONLines().format(record))["exception"]
    first, *rest = PrettyLines().format(record).splitlines()
    assert first.endswith(r"error backtalk: a\nb")
    assert rest[-1] == "ValueError: wrong"


def test_request_ids_flow_to_model_servers(tmp_path: Path) -> None:
    upstream, seen = FastAPI(), []

    @upstream.post("/v1/chat/completions")
    async def complete(request: Request) -> StreamingResponse:
        seen.append(request.headers["x-request-id"])
        chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
        return StreamingResponse(
            iter([f"data: {json.dumps(chunk)}\n\n", "data: [DONE]\n\n"]), media_type="text/event-stream"
        )

    with serve(upstream) as there:
        settings = Settings(home=tmp_path, discover=False, upstream=f"{there}/v1", model="upstream/m")
        with serve(Backtalk(settings)) as url:
            reply = httpx2.post(f"{url}/v1/responses", json={"input": "Hello"})
    assert reply.json()["status"] == "completed"
    assert seen == [reply.headers["x-request-id"]]
