"""Moderations are an upstream's to make: what is handed on, to whom, and what is said when there is nobody."""

from typing import Any

import httpx2
import msgspec
import openai
import pytest
from serving_parts import UpstreamHandler, application, refused

from backtalk.models.base import Upstream
from backtalk.serving.answers import ModerationResults
from backtalk.serving.relay import moderator
from backtalk.testing import client, serve

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_texts_are_judged_by_the_upstream(behind: openai.OpenAI) -> None:
    answer = behind.moderations.create(input=["a hug", "a kill"])
    assert [one.flagged for one in answer.results] == [False, True]
    assert answer.results[1].categories.violence
    assert answer.results[1].category_scores.violence == 0.9
    assert UpstreamHandler.seen == [
        {"path": "/v1/moderations", "authorization": "Bearer sk-far", "input": ["a hug", "a kill"]}
    ]


def test_the_answer_is_as_it_is_documented(behind: openai.OpenAI) -> None:
    raw = httpx2.post(f"{behind.base_url}moderations", json={"input": ["a hug", "a kill"]})
    assert msgspec.json.decode(raw.content, type=ModerationResults).results[1].flagged


@pytest.mark.parametrize("model", ["far/omni-moderation-latest", "omni-moderation-latest"])
def test_a_model_may_be_named(behind: openai.OpenAI, model: str) -> None:
    assert behind.moderations.create(input="a hug", model=model).model == "omni-moderation-latest"


def test_parts_are_handed_on(behind: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "a hug"}, IMAGE]
    assert behind.moderations.create(input=parts).results
    assert UpstreamHandler.seen[0]["input"] == parts


def test_nobody_to_ask(alone: openai.OpenAI) -> None:
    for body in ({}, {"model": "omni-moderation-latest"}):
        status, param, code, message = refused(lambda body=body: alone.moderations.create(input="a hug", **body))
        assert (status, param, code) == (404, "model", "model_not_found")
        assert "OPENAI_API_KEY" in message
        assert "BACKTALK_UPSTREAM" in message


def test_an_upstreams_refusals(behind: openai.OpenAI) -> None:
    status, param, code, message = refused(lambda: behind.moderations.create(input="a", model="far/gone"))
    assert (status, param, code) == (404, "model", "model_not_found")
    assert "far/gone" in message
    assert refused(lambda: behind.moderations.create(input="a", model="busy"))[0] == 429


def test_an_upstream_without_the_path_is_named(upstream: str) -> None:
    with serve(application(Upstream("bare", f"{upstream}/bare"))) as url, client(url) as sdk:
        status, param, code, message = refused(lambda: sdk.moderations.create(input="a"))
    assert (status, param, code) == (404, "model", "model_not_found")
    assert "'bare'" in message
    assert "/moderations" in message


def test_openais_own_is_asked_first() -> None:
    first, openais = Upstream("first", "http://127.0.0.1:1/v1"), Upstream("o", "https://api.openai.com/v1")
    assert moderator([first, openais]) is openais
    assert moderator([first]) is first
    assert moderator([]) is None


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (5, "input", "invalid_type"),
        (None, "input", "invalid_type"),
        ({}, "input", "invalid_type"),
        ([], "input", "invalid_value"),
        (["x"] * 2049, "input", "invalid_value"),
        (["a", 5], "input[1]", "invalid_type"),
        (["a", IMAGE], "input[1]", "invalid_type"),
        ([IMAGE, "a"], "input[1]", "invalid_type"),
        ([[1]], "input[0]", "invalid_type"),
        ([{"type": "audio"}], "input[0].type", "invalid_value"),
        ([{}], "input[0].type", "invalid_value"),
        ([IMAGE, {"type": "text"}], "input[1].text", "invalid_type"),
        ([{"type": "image_url", "image_url": "x"}], "input[0].image_url", "invalid_type"),
        ([{"type": "image_url", "image_url": {}}], "input[0].image_url.url", "invalid_type"),
    ],
)
def test_what_cannot_be_judged_is_refused(behind: openai.OpenAI, given: Any, param: str, code: str) -> None:
    call: Any = lambda: behind.post("/moderations", body={"input": given}, cast_to=object)  # noqa: E731
    assert refused(call)[:3] == (400, param, code)
    assert UpstreamHandler.seen == []


def test_the_input_must_be_there(behind: openai.OpenAI) -> None:
    answer = refused(lambda: behind.post("/moderations", body={}, cast_to=object))
    assert answer[:3] == (400, "input", "missing_required_parameter")
