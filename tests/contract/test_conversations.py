"""`/v1/conversations` through the official SDK."""

from typing import Any

import httpx2
import openai
import pytest
from openai.types.conversations import Conversation


def message(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


@pytest.mark.wire("V1")
def test_a_conversation_lives_and_goes(sdk: openai.OpenAI, http: httpx2.Client) -> None:
    made = sdk.conversations.create(metadata={"topic": "birds"})
    body = http.get(f"/conversations/{made.id}").json()
    assert Conversation.model_validate(body, strict=True) == made
    assert isinstance(body["created_at"], int)
    assert sdk.conversations.update(made.id, metadata={"topic": "bees"}).metadata == {"topic": "bees"}
    assert made.id in [entry["id"] for entry in http.get("/conversations").json()["data"]]
    gone = sdk.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    for call in (sdk.conversations.retrieve, sdk.conversations.delete, sdk.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert http.get("/conversations/nonsense").status_code == 400


@pytest.mark.wire("V2")
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_items_are_paged_to_the_end(sdk: openai.OpenAI, order: Any) -> None:
    conversation = sdk.conversations.create(items=[message(f"line {i}") for i in range(15)])
    added = sdk.conversations.items.create(conversation.id, items=[message(f"line {i}") for i in range(15, 25)])
    assert len(added.data) == 10
    listed = sdk.conversations.items.list(conversation.id, limit=10, order=order)
    texts = [item.content[0].text for item in listed]  # type: ignore[union-attr]
    expected = [f"line {i}" for i in range(25)]
    assert texts == (expected if order == "asc" else expected[::-1])
    empty = sdk.conversations.items.list(sdk.conversations.create().id)
    assert list(empty) == []
    assert empty.has_more is False


@pytest.mark.wire("V2", "E2")
def test_limits_are_kept(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create()
    assert http.get(f"/conversations/{conversation.id}/items", params={"limit": 0}).status_code == 400
    assert http.get(f"/conversations/{conversation.id}/items", params={"limit": 101}).status_code == 400
    too_many = http.post(f"/conversations/{conversation.id}/items", json={"items": [message("x")] * 21})
    assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "items")


@pytest.mark.wire("V3")
def test_an_item_is_read_and_deleted(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[message("one"), message("two")])
    two, one = list(sdk.conversations.items.list(conversation.id))
    assert one.id and two.id
    assert sdk.conversations.items.retrieve(one.id, conversation_id=conversation.id) == one
    assert sdk.conversations.items.delete(one.id, conversation_id=conversation.id).id == conversation.id
    assert [item.id for item in sdk.conversations.items.list(conversation.id)] == [two.id]
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.retrieve(one.id, conversation_id=conversation.id)


@pytest.mark.wire("V3", "R3")
def test_what_is_deleted_from_a_conversation_stays_with_its_response(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create()
    first = sdk.responses.create(conversation=conversation.id, input="My name is Ada.")
    newest = next(iter(sdk.conversations.items.list(conversation.id)))
    assert newest.id
    sdk.conversations.items.delete(newest.id, conversation_id=conversation.id)
    assert len(list(sdk.conversations.items.list(conversation.id))) == 1
    answer = sdk.responses.create(previous_response_id=first.id, input="What is my name?")
    assert "Ada" in answer.output_text
