"""Files, vector stores, `file_search`, models and embeddings, through the official SDK."""

import base64
import struct
from typing import Any

import httpx2
import openai
import pytest
from openai.types import FileObject, VectorStore
from openai.types.responses import Response
from wire import Wire

PANTHERS = b"The Panthers defense gave up just 308 points, ranking sixth in the league."
BAKERY = b"The bakery sells rye bread on Saturdays.\r\nOn Mondays it is closed."


def filled(sdk: openai.OpenAI) -> tuple[str, dict[str, str]]:
    """(store id, file ids by name) of a store with two files of different attributes."""
    store = sdk.vector_stores.create(name="Two", metadata={"kind": "test"})
    ids = {}
    for name, data, attributes in (("panthers.txt", PANTHERS, {"year": 2016}), ("bakery.txt", BAKERY, {"year": 2020})):
        file = sdk.files.create(file=(name, data), purpose="assistants")
        attached = sdk.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, attributes=attributes, poll_interval_ms=50
        )
        assert attached.status == "completed", attached.last_error
        ids[name] = file.id
    return store.id, ids


@pytest.mark.wire("F1")
def test_a_file_comes_back_as_it_was(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    data = bytes(range(256)) * 1000
    made = sdk.files.create(file=("../../x y\u00e9.bin", data), purpose="user_data")
    body = http.get(f"/files/{made.id}").json()
    assert FileObject.model_validate(body, strict=True) == made
    assert (made.bytes, made.filename, made.status) == (len(data), "x y\u00e9.bin", "processed")
    assert sdk.files.content(made.id).read() == data
    assert made.id in [file.id for file in sdk.files.list()]
    assert sdk.files.delete(made.id).deleted is True
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)


@pytest.mark.wire("F2")
def test_a_store_is_filled_and_searched(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    store_id, ids = filled(sdk)
    store = VectorStore.model_validate(http.get(f"/vector_stores/{store_id}").json(), strict=True)
    assert (store.status, store.file_counts.completed, store.file_counts.total) == ("completed", 2, 2)
    assert store.metadata == {"kind": "test"}
    hits = sdk.vector_stores.search(store_id, query="How many points did the defense give up?").data
    assert (hits[0].file_id, hits[0].filename) == (ids["panthers.txt"], "panthers.txt")
    assert hits[0].content[0].text == PANTHERS.decode()
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(0 <= hit.score <= 1 for hit in hits)
    later: Any = {"type": "gt", "key": "year", "value": 2018}
    filtered = sdk.vector_stores.search(store_id, query="points of the defense", filters=later).data
    assert {hit.filename for hit in filtered} <= {"bakery.txt"}
    both: Any = {"type": "and", "filters": [later, {"type": "eq", "key": "year", "value": 2016}]}
    assert sdk.vector_stores.search(store_id, query="points", filters=both).data == []
    for query in ('"', "AND OR NOT", "a* NEAR(b)", "scope : x", "(", "'; DROP TABLE chunks; --", "\u0000", "的"):
        sdk.vector_stores.search(store_id, query=query)
    wrong: Any = {"type": "near", "key": "year", "value": 1}
    with pytest.raises(openai.BadRequestError):
        sdk.vector_stores.search(store_id, query="points", filters=wrong)


@pytest.mark.wire("F2")
def test_a_batch_goes_on_past_a_bad_file(sdk: openai.OpenAI) -> None:
    store = sdk.vector_stores.create()
    good = sdk.files.create(file=("good.md", b"# Good\n\nA good file."), purpose="assistants")
    bad = sdk.files.create(file=("bad.pdf", b"this is no pdf"), purpose="assistants")
    batch = sdk.vector_stores.file_batches.create_and_poll(store.id, file_ids=[good.id, bad.id], poll_interval_ms=50)
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 1)
    failed = sdk.vector_stores.files.retrieve(bad.id, vector_store_id=store.id)
    assert failed.last_error is not None
    assert failed.last_error.code in ("invalid_file", "unsupported_file")


@pytest.mark.wire("F3")
def test_a_deleted_file_is_found_no_more(sdk: openai.OpenAI) -> None:
    store_id, ids = filled(sdk)
    sdk.files.delete(ids["panthers.txt"])
    hits = sdk.vector_stores.search(store_id, query="How many points did the defense give up?").data
    assert "panthers.txt" not in [hit.filename for hit in hits]
    sdk.vector_stores.files.delete(ids["bakery.txt"], vector_store_id=store_id)
    assert sdk.vector_stores.search(store_id, query="rye bread").data == []
    assert sdk.files.retrieve(ids["bakery.txt"]).filename == "bakery.txt"


@pytest.mark.wire("R15", "R16", "S1")
@pytest.mark.parametrize("model", ["scripted", "backtalk/extractive"])
def test_answers_cite_their_files(sdk: openai.OpenAI, wire: Wire, model: str) -> None:
    store_id, ids = filled(sdk)
    tools = [{"type": "file_search", "vector_store_ids": [store_id]}]
    question = "What do the documents say: how many points did the Panthers defense give up?"
    events = wire.stream({"model": model, "input": question, "tools": tools})
    kinds = [event["type"] for event in events]
    steps = ["response.file_search_call." + step for step in ("in_progress", "searching", "completed")]
    assert [kind for kind in kinds if "file_search" in kind] == steps
    response = events[-1]["response"]
    search, message = response["output"]
    assert (search["type"], search["status"], search["results"]) == ("file_search_call", "completed", None)
    text, notes = message["content"][0]["text"], message["content"][0]["annotations"]
    assert "308 points" in text
    assert notes[0]["type"] == "file_citation"
    assert notes[0]["file_id"] == ids["panthers.txt"]
    assert 0 < notes[0]["index"] <= len(text)
    added = [event["annotation"] for event in events if event["type"] == "response.output_text.annotation.added"]
    assert added == notes
    body = wire.http.get(f"/responses/{response['id']}", params={"include[]": "file_search_call.results"}).json()
    Response.model_validate(body, strict=True)
    assert body["output"][0]["results"][0]["filename"] == "panthers.txt"
    receipt = wire.http.get(f"/responses/{response['id']}/context").json()
    passage = receipt["searches"][0]["passages"][0]
    assert passage["file_id"] == ids["panthers.txt"]
    assert PANTHERS.decode()[passage["start"] : passage["end"]]
    unknown = [{"type": "file_search", "vector_store_ids": ["vs_none"]}]
    refused = wire.http.post("/responses", json={"model": model, "input": question, "tools": unknown})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "tools[0].vector_store_ids")
    assert "vs_none" in refused.json()["error"]["message"]
    assert wire.http.post("/responses", json={"model": model, "input": question, "tools": unknown}).status_code == 404


@pytest.mark.wire("M1")
def test_models_are_listed(sdk: openai.OpenAI) -> None:
    ids = [model.id for model in sdk.models.list()]
    assert {"scripted", "backtalk/extractive"} <= set(ids)
    assert sdk.models.retrieve("backtalk/extractive").id == "backtalk/extractive"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("no/such/model")


@pytest.mark.wire("M2")
def test_embeddings_in_both_encodings(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    texts = ["a cat on a mat", "a kitten on a rug", "the price of steel"]
    body = {"model": "backtalk/static", "input": texts}
    floats = [entry["embedding"] for entry in http.post("/embeddings", json=body).json()["data"]]
    coded = http.post("/embeddings", json={**body, "encoding_format": "base64"}).json()["data"]
    for vector, entry in zip(floats, coded, strict=True):
        raw = base64.b64decode(entry["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(vector, abs=1e-6)
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
    cat, kitten, steel = [entry.embedding for entry in sdk.embeddings.create(model="backtalk/static", input=texts).data]
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    assert dot(cat, kitten) > dot(cat, steel)
    short = sdk.embeddings.create(model="backtalk/static", input=texts[0], dimensions=64).data[0].embedding
    assert len(short) == 64
    assert sum(x * x for x in short) == pytest.approx(1, abs=1e-3)
    tokens = http.post("/embeddings", json={"model": "backtalk/static", "input": [1, 2, 3]})
    assert tokens.status_code == 400
    assert "check_embedding_ctx_length" in tokens.json()["error"]["message"]
