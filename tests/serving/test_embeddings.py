"""The list of models, and embeddings of one client."""

import base64
from typing import Any

import numpy as np
import openai
import pytest
from serving_parts import DIMENSION, EMBEDDER, NAME, UpstreamHandler, application, refused

from backtalk.models.base import Upstream
from backtalk.models.registry import BUILT_IN
from backtalk.testing import client, serve


def test_models_are_listed_and_shown(alone: openai.OpenAI, behind: openai.OpenAI) -> None:
    assert [model.id for model in alone.models.list()] == ["scripted", BUILT_IN, NAME]
    assert [model.id for model in behind.models.list()] == ["scripted", "far/org/embed:1", BUILT_IN, NAME]
    shown = behind.models.retrieve("far/org/embed:1")
    assert (shown.id, shown.object, shown.created, shown.owned_by) == ("far/org/embed:1", "model", 7, "far")
    assert behind.models.retrieve("org/embed:1").id == "org/embed:1"
    assert alone.models.retrieve(BUILT_IN).owned_by == "backtalk"


def test_an_unknown_model_is_not_found(alone: openai.OpenAI) -> None:
    status, param, code, message = refused(lambda: alone.models.retrieve("a/b:c"))
    assert (status, param, code) == (404, "model", "model_not_found")
    assert BUILT_IN in message
    status, param, code, _ = refused(lambda: alone.embeddings.create(model="text-embedding-3-small", input="x"))
    assert (status, param, code) == (404, "model", "model_not_found")


def test_embeddings_in_both_encodings_are_the_same(alone: openai.OpenAI) -> None:
    texts = ["the sea", "the sky", ""]
    expected = EMBEDDER.embed(texts)
    packed = alone.embeddings.create(model=NAME, input=texts)
    plain = alone.embeddings.create(model=NAME, input=texts, encoding_format="float")
    for answer in (packed, plain):
        assert [one.index for one in answer.data] == [0, 1, 2]
        assert np.allclose([one.embedding for one in answer.data], expected, atol=1e-6)
        assert answer.model == NAME
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(EMBEDDER.count_tokens(texts))
    own_name = alone.embeddings.create(model=EMBEDDER.name, input="the sea")
    assert own_name.data[0].embedding == packed.data[0].embedding
    single = alone.embeddings.create(model=NAME, input="the sea")
    assert np.allclose(single.data[0].embedding, expected[0], atol=1e-6)


def test_base64_is_little_endian_float32(alone: openai.OpenAI) -> None:
    body = {"model": NAME, "input": "the sea", "encoding_format": "base64"}
    raw = alone.post("/embeddings", body=body, cast_to=object)
    assert isinstance(raw, dict)
    packed = base64.b64decode(raw["data"][0]["embedding"])
    assert len(packed) == 4 * DIMENSION
    assert np.allclose(np.frombuffer(packed, "<f4"), EMBEDDER.embed(["the sea"])[0])


def test_fewer_dimensions_are_cut_and_of_unit_length(alone: openai.OpenAI) -> None:
    vector = np.array(alone.embeddings.create(model=NAME, input="the sea", dimensions=4).data[0].embedding)
    whole = EMBEDDER.embed(["the sea"])[0][:4]
    assert np.allclose(vector, whole / np.linalg.norm(whole), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": "x", "dimensions": 257}, "dimensions", "invalid_value"),
        ({"input": "x", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": ["a", {"b": 1}]}, "input", "invalid_type"),
        ({"input": ["x"] * 2049}, "input", "invalid_value"),
        ({}, "input", "missing_required_parameter"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ],
)
def test_what_cannot_be_embedded_is_refused(alone: openai.OpenAI, body: Any, param: str, code: str) -> None:
    answer = refused(lambda: alone.post("/embeddings", body={"model": NAME, **body}, cast_to=object))
    assert answer[:3] == (400, param, code)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_clients_switch(alone: openai.OpenAI, tokens: Any) -> None:
    status, param, _, message = refused(lambda: alone.embeddings.create(model=NAME, input=tokens))
    assert (status, param) == (400, "input")
    assert "check_embedding_ctx_length=False" in message


def test_most_inputs_that_are_allowed(alone: openai.OpenAI) -> None:
    assert len(alone.embeddings.create(model=NAME, input=["x"] * 2048).data) == 2048


@pytest.mark.parametrize("model", ["far/org/embed:1", "org/embed:1"])
def test_other_models_are_their_upstreams_business(behind: openai.OpenAI, model: str) -> None:
    answer = behind.embeddings.create(model=model, input=[[1, 2]], dimensions=2)
    assert answer.data[0].embedding == [0.5, -0.5]
    assert UpstreamHandler.seen == [
        {
            "path": "/v1/embeddings", "authorization": "Bearer sk-far", "model": "org/embed:1",
            "input": [[1, 2]], "dimensions": 2, "encoding_format": "base64",
        }
    ]  # fmt: skip


def test_an_upstreams_refusal_is_told_in_our_shape(behind: openai.OpenAI) -> None:
    status, param, code, message = refused(lambda: behind.embeddings.create(model="far/gone", input="x"))
    assert (status, param, code) == (404, "model", "model_not_found")
    assert "sk-far" not in message


def test_an_upstream_that_is_down_is_told(alone: openai.OpenAI) -> None:
    down = Upstream("down", "http://127.0.0.1:9/v1", models=("m",))
    with serve(application(down)) as url, client(url) as sdk:
        status, _, code, message = refused(lambda: sdk.embeddings.create(model="m", input="x"))
    assert (status, code) == (503, "server_error")
    assert "127.0.0.1:9" in message
