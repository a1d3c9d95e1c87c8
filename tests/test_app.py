"""`Backtalk` is a FastAPI application that a developer extends as any other."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from backtalk import Backtalk, Settings, caller
from backtalk.domain.caller import Caller
from backtalk.domain.turn import Piece, TurnRequest
from backtalk.testing import ScriptedModel, client, serve


class Note(BaseModel):
    text: str


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, discover=False)


def test_a_users_routes_and_lifespan_live_beside_ours(settings: Settings) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lived.append("up")
        yield
        lived.append("down")

    app = Backtalk(settings, lifespan=lifespan)

    @app.get("/")
    def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.post("/notes")
    def add(note: Note) -> Note:
        return note

    @app.get("/me")
    async def me(who: Annotated[Caller, Depends(caller)]) -> str:
        return who.project

    with serve(app) as url:
        assert lived == ["up"]
        assert httpx2.get(url + "/").json() == {"hello": "world"}
        assert httpx2.get(url + "/me").json() == "default"
        mistake = httpx2.post(url + "/notes", json={})
        assert mistake.status_code == 422  # theirs stays FastAPI's
        assert mistake.json()["detail"][0]["loc"] == ["body", "text"]
        assert httpx2.get(url + "/nowhere").json() == {"detail": "Not Found"}
        assert "x-request-id" not in httpx2.get(url + "/").headers
        assert httpx2.get(url + "/v1/nowhere").json()["error"]["code"] == "unknown_url"
        paths = httpx2.get(url + "/openapi.json").json()["paths"]
        assert {
            "/notes",
            "/v1/responses",
            "/v1/chat/completions",
            "/v1/files",
            "/v1/vector_stores",
        } <= set(paths)
        assert "swagger" in httpx2.get(url + "/docs").text.lower()
        assert httpx2.get(url + "/healthz").json()["status"] == "ok"
        assert httpx2.get(url + "/readyz").json()["status"] == "ok"
    assert lived == ["up", "down"]


def test_a_context_source_feeds_the_prompt_and_the_receipt(settings: Settings) -> None:
    class Diary:
        name = "diary"

        async def pieces(self, turn: TurnRequest) -> Sequence[Piece]:
            return [Piece(source="diary", id="d1", text="My name is Ada.", score=0.9)]

    class Broken:
        name = "broken"

        async def pieces(self, turn: TurnRequest) -> Sequence[Piece]:
            raise RuntimeError("it never works")

    app = Backtalk(settings, models=[ScriptedModel()])
    app.add_source(Diary())
    app.add_source(Broken())
    with serve(app) as url:
        answer = client(url).responses.create(model="scripted", input="What is my name?")
        assert "Ada" in answer.output_text
        receipt = httpx2.get(f"{url}/v1/responses/{answer.id}/context").json()
        assert [(piece["source"], piece["id"]) for piece in receipt["pieces"]] == [("diary", "d1")]


def test_a_talk_that_is_too_long_is_refused_or_cut(settings: Settings) -> None:
    settings.context_tokens = 200
    with serve(Backtalk(settings, models=[ScriptedModel()])) as url:
        sdk = client(url)
        first = sdk.responses.create(model="scripted", input="My name is Ada.")
        second = sdk.responses.create(model="scripted", previous_response_id=first.id, input="word " * 120)
        refused = httpx2.post(
            f"{url}/v1/responses",
            json={"model": "scripted", "previous_response_id": second.id, "input": "What is my name?"},
        )
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        cut = sdk.responses.create(
            model="scripted", previous_response_id=second.id, input="What is my name?", truncation="auto"
        )
        assert "Ada" not in cut.output_text
        assert httpx2.get(f"{url}/v1/responses/{cut.id}/context").json()["cut"]


def test_strict_refuses_what_it_does_not_know(settings: Settings) -> None:
    settings.strict = True
    with serve(Backtalk(settings, models=[ScriptedModel()])) as url:
        for path, body in (
            ("/v1/responses", {"input": "Hello", "temprature": 1}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "temprature": 1}),
            ("/v1/vector_stores", {"nome": "x"}),
            ("/v1/conversations", {"itmes": []}),
        ):
            reply = httpx2.post(url + path, json=body)
            assert reply.status_code == 400, path
            assert reply.json()["error"]["code"] == "unknown_parameter"
            assert reply.json()["error"]["param"] in body
        assert client(url).responses.create(input="Hello").output_text == "You said: Hello"


def test_a_mistake_of_ours_is_told_without_its_words(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    app = Backtalk(settings)

    async def broken(*_: object) -> None:
        raise RuntimeError("the secret is heliotrope")

    app.conversations.list = broken  # type: ignore[assignment,method-assign]
    with serve(app) as url:
        reply = httpx2.get(f"{url}/v1/conversations")
        assert reply.status_code == 500
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert "heliotrope" not in reply.text
        assert reply.headers["x-request-id"].startswith("req_")
        assert httpx2.get(f"{url}/v1/models").status_code == 200
    assert "heliotrope" in caplog.text
