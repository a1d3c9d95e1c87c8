"""Embeddings under load, reranking, and moderations."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import ModerationCreateResponse

from backtalk.testing import Server, async_client, client

DOCUMENTS = ["The garage closes at 22:00.", "Every employee has 28 days of paid leave a year."]
CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic")  # fmt: skip


@pytest.mark.wire("M3")
async def test_embeddings_of_many_clients_at_once(server: Server) -> None:
    texts = [f"Sentence number {number} of the harvest." for number in range(100)]
    async with async_client(server.url) as sdk:
        whole = await sdk.embeddings.create(model="backtalk/static", input=texts)
        alone = await asyncio.gather(*(sdk.embeddings.create(model="backtalk/static", input=text) for text in texts))
    for one, answer in zip(whole.data, alone, strict=True):
        assert answer.data[0].embedding == pytest.approx(one.embedding, abs=1e-6)
    assert whole.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone)


@pytest.mark.wire("M4")
def test_documents_are_ranked(http: httpx2.Client) -> None:
    body = {"model": "backtalk/static", "query": "How many days of paid leave?", "documents": DOCUMENTS}
    answer = http.post("/rerank", json=body).json()
    assert answer.keys() == {"id", "model", "results", "usage"}
    first, second = answer["results"]
    assert (first["index"], second["index"]) == (1, 0)
    assert 1 >= first["relevance_score"] > second["relevance_score"] >= 0
    objects = [{"text": text} for text in DOCUMENTS]
    chosen = {**body, "documents": objects, "top_n": 1, "return_documents": True}
    [best] = http.post("/rerank", json=chosen).json()["results"]
    assert best["document"] == {"text": DOCUMENTS[1]}
    error = http.post("/rerank", json={**body, "documents": ["a", {"title": "b"}]})
    assert (error.status_code, error.json()["error"]["param"]) == (400, "documents[1].text")


@pytest.mark.wire("M5")
def test_moderations_are_an_upstreams(tmp_path: Path) -> None:
    with judge() as upstream, Server(tmp_path, {"BACKTALK_UPSTREAM": upstream}) as server:
        answer = client(server.url).moderations.create(model="upstream/omni-moderation-latest", input="a kill")
        with httpx2.Client() as http:
            raw = http.post(f"{server.url}/v1/moderations", json={"input": "a hug"})
    assert answer.results[0].flagged
    assert answer.model == "omni-moderation-latest"
    assert raw.content == judged({"input": "a hug"}), "handed on byte for byte"
    ModerationCreateResponse.model_validate_json(raw.content, strict=True)


@pytest.mark.wire("M5")
def test_no_moderation_model_is_pretended(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as failure:
        sdk.moderations.create(input="a hug")
    assert (failure.value.code, failure.value.param) == ("model_not_found", "model")
    assert "OPENAI_API_KEY" in failure.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.moderations.create(input=[{"type": "image_url", "image_url": {}}])  # type: ignore[typeddict-item]
    assert refused.value.param == "input[0].image_url.url"


@contextlib.contextmanager
def judge() -> Iterator[str]:
    """A model server that moderates."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


class Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        data = judged(body) if self.path == "/v1/moderations" else b"{}"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def judged(body: Any) -> bytes:
    bad = "kill" in body["input"]
    result = {
        "flagged": bad,
        "categories": dict.fromkeys(CATEGORIES, False) | {"violence": bad},
        "category_scores": dict.fromkeys(CATEGORIES, 0.0) | {"violence": 0.9 if bad else 0.1},
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
    }
    return json.dumps({"id": "modr-1", "model": body.get("model", "m"), "results": [result]}).encode()
