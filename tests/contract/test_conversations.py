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


def error(reply: httpx2.Response) -> tuple[int, str, str]:
    return reply.status_code, reply.json()["error"]["param"], reply.json()["error"]["code"]


@pytest.mark.wire("V4", "V1")
def test_a_title_is_set_and_changed(http: httpx2.Client) -> None:
    made = http.post("/conversations", json={"title": "  Birds  ", "items": [message("Which bees?")]}).json()
    Conversation.model_validate(made, strict=True)
    path = f"/conversations/{made['id']}"
    assert (made["title"], http.get(path).json()) == ("Birds", made)
    changed = http.post(path, json={"title": "x" * 512}).json()
    assert (changed["title"], changed["metadata"]) == ("x" * 512, {})
    assert http.post(path, json={"metadata": {"a": "b"}}).json() == {**changed, "metadata": {"a": "b"}}
    assert http.post(path, json={"title": None}).json()["title"] is None
    http.post(path + "/items", json={"items": [message("Not the first")]})
    assert http.get(path).json()["title"] == "Which bees?"
    assert http.get("/conversations").json()["data"][0]["title"] == "Which bees?"


@pytest.mark.wire("V4", "E2")
def test_a_title_is_checked(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    path = f"/conversations/{sdk.conversations.create().id}"
    for wrong, code in (
        (5, "invalid_type"),
        (["a"], "invalid_type"),
        ("x" * 513, "invalid_value"),
        ("\0", "invalid_value"),
    ):
        for where in (path, "/conversations"):
            assert error(http.post(where, json={"title": wrong})) == (400, "title", code)
    assert error(http.post(path, json={})) == (400, "metadata", "missing_required_parameter")
    assert error(http.post(path, json={"metadata": 5})) == (400, "metadata", "invalid_type")
    assert http.post(path, json={"title": "  "}).json()["title"] is None


@pytest.mark.wire("V4", "R6")
def test_a_response_gives_its_conversation_a_title(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create()
    question = "What is a conversation that has no title until somebody asks something called?"
    sdk.responses.create(conversation=conversation.id, input=question)
    sdk.responses.create(conversation=conversation.id, input="And then?")
    title = http.get(f"/conversations/{conversation.id}").json()["title"]
    assert title == "What is a conversation that has no title until somebody asks…"


@pytest.mark.wire("V5")
def test_conversations_are_found_by_words(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    def found(query: str, **params: Any) -> list[str]:
        reply = http.get("/conversations", params={"query": query, **params})
        assert reply.status_code == 200, reply.text
        return [one["id"] for one in reply.json()["data"]]

    asked = sdk.conversations.create()
    sdk.responses.create(conversation=asked.id, input="Say exactly: Zwölf Boxkämpfer jagen Viktor")
    named = http.post("/conversations", json={"title": "ZWÖLF 拳擊手, 100%"}).json()
    assert found("zwölf") == [named["id"], asked.id]
    assert found("zwölf", limit=1) == [named["id"]]
    assert found("zwölf", after=named["id"]) == [asked.id]
    assert found("BOXKÄMPFER zwölf") == [asked.id]
    assert found("擊手 100%") == [named["id"]]
    assert found("zwölf 1%0") == []
    assert len(found(" ")) > 2
    assert error(http.get("/conversations", params={"query": "x" * 513})) == (400, "query", "invalid_value")
    sdk.conversations.delete(asked.id)
    assert found("zwölf") == [named["id"]]


@pytest.mark.wire("V6")
def test_an_edited_message_begins_a_branch(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    def said(**params: Any) -> list[str]:
        listed = http.get(path, params={"order": "asc", **params}).json()["data"]
        return [item["content"][0]["text"] for item in listed]

    conversation = sdk.conversations.create(items=[message("My name is Ada.")])
    path = f"/conversations/{conversation.id}/items"
    sdk.responses.create(conversation=conversation.id, input="Hello")
    first, hello, reply = http.get(path, params={"order": "asc", "include": "backtalk.parent_id"}).json()["data"]
    assert [hello["parent_id"], reply["parent_id"]] == [first["id"], hello["id"]]
    edited = {"items": [{**message("Good evening"), "parent_id": "x"}], "parent_id": hello["parent_id"]}
    (made,) = http.post(path, params={"include[]": "backtalk.parent_id"}, json=edited).json()["data"]
    assert made["parent_id"] == first["id"]
    assert "parent_id" not in http.get(f"{path}/{made['id']}").json()
    assert said() == ["My name is Ada.", "Good evening"]
    answer = sdk.responses.create(conversation=conversation.id, input="What is my name?")
    assert "Ada" in answer.output_text
    assert said()[:3] == ["My name is Ada.", "Good evening", "What is my name?"]
    assert said(branch=hello["id"]) == ["My name is Ada.", "Hello", "You said: Hello"]
    assert said(branch=made["id"]) == said() == said(branch=first["id"])
    assert len(said(branch="all")) == 6
    assert said(branch=reply["id"], after=first["id"], limit=1) == ["Hello"]
    http.post(path, json={"items": [message("I am Bo.")], "parent_id": first["parent_id"]})
    assert said() == ["I am Bo."]
    assert http.get(path, params={"branch": "msg_none"}).status_code == 404
    for wrong, code in (("msg_none", "invalid_value"), ("", "invalid_value"), (5, "invalid_type")):
        assert error(http.post(path, json={"items": [], "parent_id": wrong})) == (400, "parent_id", code)


@pytest.mark.wire("V7", "R16")
def test_items_show_what_include_asks_for(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    result = {"file_id": "file_1", "filename": "a.txt", "text": "t", "score": 0.5, "attributes": {}}
    call: Any = {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["q"], "results": [result]}
    conversation = sdk.conversations.create()
    items = sdk.conversations.items
    (added,) = items.create(conversation.id, items=[call]).data
    assert (added.type, added.results) == ("file_search_call", None)
    (added,) = items.create(conversation.id, items=[call], include=["file_search_call.results"]).data
    assert added.type == "file_search_call" and added.results and added.id
    assert added.results[0].text == "t"
    shown = items.retrieve(added.id, conversation_id=conversation.id, include=["file_search_call.results"])
    assert shown == added == next(iter(items.list(conversation.id, include=["file_search_call.results"])))
    path = f"/conversations/{conversation.id}/items"
    assert [item["results"] for item in http.get(path).json()["data"]] == [None, None]
    assert http.get(f"{path}/{added.id}").json()["results"] is None
    assert http.get(f"{path}?include=file_search_call.results").json()["data"][0]["results"] == [result]
    for reply in (
        http.get(path, params={"include": ["backtalk.parent_id", "x"]}),
        http.get(f"{path}/{added.id}?include=file_search_call.results&include[]=x"),
        http.post(f"{path}?include[]=backtalk.parent_id&include[]=x", json={"items": []}),
    ):
        assert error(reply) == (400, "include[1]", "invalid_value")


@pytest.mark.wire("V7", "V1")
def test_what_is_unknown_is_named(http: httpx2.Client, sdk: openai.OpenAI) -> None:
    conversation, other = (sdk.conversations.create(items=[message(text)]) for text in ("a", "b"))
    stranger = sdk.conversations.items.list(other.id).data[0].id
    for path, after in (("", "conv_none"), ("", stranger), (f"/{conversation.id}/items", stranger)):
        reply = http.get(f"/conversations{path}", params={"after": after})
        assert error(reply) == (400, "after", "invalid_value")
    for reply in (http.get("/conversations/conv_none"), http.get("/conversations/conv_none/items")):
        assert (reply.status_code, reply.json()["error"]["param"]) == (404, "conversation_id")
