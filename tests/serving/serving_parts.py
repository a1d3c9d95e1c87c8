"""The serving room alone on a port, and an upstream that embeds, reranks and moderates."""

import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import openai
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from backtalk.domain.caller import Caller
from backtalk.http import errors
from backtalk.http.egress import Egress
from backtalk.models.base import Upstream
from backtalk.models.registry import Models
from backtalk.search.base import Embedder
from backtalk.search.wordllama import WordLlama
from backtalk.serving.routes import routes
from backtalk.testing import ScriptedModel

NAME = "backtalk/static"
EMBEDDER = WordLlama()
DIMENSION = EMBEDDER.dimension
RANKING = b'{"id": "r-1",  "model":"org/rank:1", "results":[{"index":1,"relevance_score":0.75}]}'
CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic")  # fmt: skip


class LocalCaller:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = Caller()
        await self.app(scope, receive, send)


class UpstreamHandler(BaseHTTPRequestHandler):
    """An upstream with one model of each kind. A model `gone` is not there; nothing else is at other paths."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "org/embed:1", "object": "model", "created": 7}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"path": self.path, "authorization": self.headers["authorization"], **body})
        answer = {"/v1/embeddings": _vectors, "/v1/rerank": _ranking, "/v1/moderations": _judgements}.get(self.path)
        if answer is None:
            self._send(404, {"detail": "Not Found"})
        elif body.get("model") == "gone":
            self._send(404, {"error": {"message": "no such model", "code": "model_not_found"}})
        elif body.get("model") == "busy":
            self._send(429, {"error": {"message": "slower, please"}})
        else:
            self._send(200, answer(body))

    def _send(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _vectors(body: Any) -> Any:
    vector = base64.b64encode(np.array([0.5, -0.5], "<f4").tobytes()).decode()
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def _ranking(_: Any) -> bytes:
    return RANKING


def _judgements(body: Any) -> Any:
    given = [body["input"]] if isinstance(body["input"], str) else body["input"]
    return {"id": "modr-1", "model": body.get("model", "moderator"), "results": [_judged(str(one)) for one in given]}


def _judged(text: str) -> Any:
    bad = "kill" in text
    categories = dict.fromkeys(CATEGORIES, False) | {"violence": bad}
    scores = dict.fromkeys(CATEGORIES, 0.0) | {"violence": 0.9 if bad else 0.1}
    applied = {category: ["text"] for category in CATEGORIES}
    return {
        "flagged": bad, "categories": categories, "category_scores": scores, "category_applied_input_types": applied,
    }  # fmt: skip


@contextlib.contextmanager
def upstream_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), UpstreamHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def application(*upstreams: Upstream, embedder: Embedder = EMBEDDER) -> FastAPI:
    egress = Egress(connect_timeout=2.0, idle_timeout=5.0)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await egress.close()

    app = FastAPI(lifespan=lifespan)
    app.include_router(routes(Models(egress, upstreams, [ScriptedModel]), egress, embedder))
    errors.install(app, lambda path: path.startswith("/v1"))
    app.add_middleware(LocalCaller)
    return app


def refused(call: Any) -> tuple[int, Any, Any, str]:
    with pytest.raises(openai.APIStatusError) as failure:
        call()
    body: Any = failure.value.body
    return failure.value.status_code, body["param"], body["code"], body["message"]
