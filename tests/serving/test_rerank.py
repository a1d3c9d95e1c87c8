"""Documents in the order in which they answer a query."""

from typing import Any

import httpx2
import openai
import pytest
from serving_parts import EMBEDDER, NAME, RANKING, UpstreamHandler, refused

LEAVE = "Every employee has 28 days of paid leave a year."
DOCUMENTS = ["The garage closes at 22:00.", LEAVE, "Expenses are paid back within 30 days."]
QUERY = "How many days of paid leave?"


def rerank(sdk: openai.OpenAI, **body: Any) -> Any:
    return sdk.post("/rerank", body={"query": QUERY, "documents": DOCUMENTS, **body}, cast_to=object)


@pytest.mark.parametrize("model", [NAME, EMBEDDER.name, None])
def test_the_best_comes_first(behind: openai.OpenAI, model: str | None) -> None:
    answer = rerank(behind, **({"model": model} if model else {}))
    assert answer["id"].startswith("rerank_")
    assert answer["model"] == (model or NAME)
    assert [one["index"] for one in answer["results"]] == [1, 2, 0]
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert all(one.keys() == {"index", "relevance_score"} for one in answer["results"])
    assert answer["usage"] == {"total_tokens": sum(EMBEDDER.count_tokens([QUERY, *DOCUMENTS]))}
    assert UpstreamHandler.seen == []


def test_only_the_best_are_given_and_with_their_texts(alone: openai.OpenAI) -> None:
    documents = [{"text": text, "title": "ignored"} for text in DOCUMENTS]
    answer = rerank(alone, model=NAME, documents=documents, top_n=1, return_documents=True)
    [best] = answer["results"]
    assert (best["index"], best["document"]) == (1, {"text": LEAVE})
    assert len(rerank(alone, model=NAME, top_n=50)["results"]) == 3


def test_equals_keep_their_order(alone: openai.OpenAI) -> None:
    answer = rerank(alone, model=NAME, documents=["same", "same", LEAVE, "same"])
    assert [one["index"] for one in answer["results"]] == [2, 0, 1, 3]


@pytest.mark.parametrize("query", ["???", "the of and", "休暇は何日ですか", "\u202e", "x" * 32_768])
def test_queries_without_words_and_in_other_scripts(alone: openai.OpenAI, query: str) -> None:
    documents = ["有給休暇は28日です。", "駐車場は22時に閉まります。", "", "???", "the of and"]
    results = rerank(alone, model=NAME, query=query, documents=documents)["results"]
    assert sorted(one["index"] for one in results) == [*range(5)]
    if query[0] == "休":
        assert results[0]["index"] == 0


def test_most_documents_that_are_allowed(alone: openai.OpenAI) -> None:
    documents = [f"Room {number} is on floor {number // 100}." for number in range(999)] + [LEAVE]
    answer = rerank(alone, model=NAME, documents=documents, top_n=3)
    assert answer["results"][0]["index"] == 999
    assert len(answer["results"]) == 3


def test_without_an_upstream_another_model_is_not_there(alone: openai.OpenAI) -> None:
    assert refused(lambda: rerank(alone, model="jina-reranker-v3"))[:3] == (404, "model", "model_not_found")


@pytest.mark.parametrize("model", ["far/org/rank:1", "org/rank:1"])
def test_a_model_of_an_upstream_is_asked_there(behind: openai.OpenAI, model: str) -> None:
    body = {"model": model, "query": QUERY, "documents": [*DOCUMENTS, {"image": "https://a.example/x.png"}], "extra": 1}
    raw = httpx2.post(f"{behind.base_url}rerank", json=body)
    assert (raw.status_code, raw.content) == (200, RANKING), "handed on byte for byte"
    seen = {"path": "/v1/rerank", "authorization": "Bearer sk-far", **body, "model": "org/rank:1"}
    assert UpstreamHandler.seen == [seen]


def test_an_upstreams_refusals(behind: openai.OpenAI) -> None:
    status, param, code, message = refused(lambda: rerank(behind, model="far/gone"))
    assert (status, param, code) == (404, "model", "model_not_found")
    assert "far/gone" in message
    assert refused(lambda: rerank(behind, model="far/busy"))[0] == 429
    assert refused(lambda: rerank(behind, model="backtalk/none"))[:3] == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"documents": []}, "documents", "invalid_value"),
        ({"documents": ["x"] * 1001}, "documents", "invalid_value"),
        ({"documents": "x"}, "documents", "invalid_type"),
        ({"documents": None}, "documents", "invalid_type"),
        ({"documents": ["a", 5]}, "documents[1]", "invalid_type"),
        ({"documents": ["a", None]}, "documents[1]", "invalid_type"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1].text", "missing_required_parameter"),
        ({"documents": ["a", {"text": 5}]}, "documents[1].text", "invalid_type"),
        ({"query": ""}, "query", "invalid_value"),
        ({"query": "x" * 32_769}, "query", "invalid_value"),
        ({"query": 5}, "query", "invalid_type"),
        ({"query": None}, "query", "invalid_type"),
        ({"top_n": 0}, "top_n", "invalid_value"),
        ({"top_n": "3"}, "top_n", "invalid_type"),
        ({"return_documents": "yes"}, "return_documents", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
    ],
)
def test_what_cannot_be_ranked_is_refused(alone: openai.OpenAI, body: Any, param: str, code: str) -> None:
    assert refused(lambda: rerank(alone, **body))[:3] == (400, param, code)


@pytest.mark.parametrize("missing", ["query", "documents"])
def test_what_is_missing_is_named(alone: openai.OpenAI, missing: str) -> None:
    body = {name: value for name, value in {"query": "a", "documents": ["b"]}.items() if name != missing}
    answer = refused(lambda: alone.post("/rerank", body=body, cast_to=object))
    assert answer[:3] == (400, missing, "missing_required_parameter")
