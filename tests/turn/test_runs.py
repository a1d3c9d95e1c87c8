"""Runs that do not go as planned: calls that make no sense, and a log that is taken away."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.domain.model import Delta, Finish, Prompt, TextDelta, ToolCallDelta
from backtalk.testing import ScriptedModel, check_transcript, read_transcript, serve


def search(arguments: str, index: int = 0) -> list[Delta]:
    return [ToolCallDelta(index, call_id=f"call_{index}", name="file_search"), ToolCallDelta(index, arguments)]


def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, discover=False, model="scripted")


def client_of(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=f"{url}/v1", timeout=30)


def run(tmp_path: Path, script: list[Any], **more: Any) -> tuple[list[dict[str, Any]], ScriptedModel]:
    """The events of a streamed response that may search an empty vector store and call `f`."""
    model = ScriptedModel(script)
    with serve(Backtalk(settings(tmp_path), models=[model])) as url, client_of(url) as http:
        return streamed(http, [{"type": "function", "name": "f"}], **more), model


def streamed(http: httpx2.Client, functions: list[Any], **more: Any) -> list[dict[str, Any]]:
    """The events of a turn with an empty vector store to search, checked against the grammar and against GET."""
    store = http.post("/vector_stores", json={}).json()["id"]
    tools = [{"type": "file_search", "vector_store_ids": [store]}, *functions]
    reply = http.post("/responses", json={"input": "Which?", "stream": True, "tools": tools, **more})
    assert reply.status_code == 200, reply.text
    events = read_transcript(reply.content)
    check_transcript(events)
    assert events[-1]["response"] == http.get(f"/responses/{events[0]['response']['id']}").json()
    return events


@pytest.mark.parametrize("arguments", ['{"queries": 5}', "[]", '{"queries": [{}]}', "{", '{"queries": null}'])
def test_a_call_with_senseless_arguments_searches_for_the_question(tmp_path: Path, arguments: str) -> None:
    events, _ = run(tmp_path, [[*search(arguments), Finish("tool_calls")], "Done."])
    call, message = events[-1]["response"]["output"]
    assert call["queries"] == ["Which?"]
    assert message["content"][0]["text"] == "Done."


def test_a_model_that_never_stops_calling_is_stopped(tmp_path: Path) -> None:
    events, model = run(tmp_path, [[*search("{}"), Finish("tool_calls")] for _ in range(50)])
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["backtalk"] == {"reason": "max_steps"}
    assert model.prompts[-1].tool_choice == "none"
    assert len(model.prompts) == 9


def test_what_was_said_before_a_call_too_many_is_in_the_next_prompt(tmp_path: Path) -> None:
    script = [[TextDelta(word), *search("{}"), Finish("tool_calls")] for word in ("One. ", "Two. ")]
    events, model = run(tmp_path, [*script, "Three."], max_tool_calls=1)
    assert [item["type"] for item in model.prompts[-1].items] == ["message", "message", "file_search_call", "message"]
    assert model.prompts[-1].items[-1]["content"][0]["text"] == "Two. "
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == "Three."


def test_searches_and_functions_in_one_step(tmp_path: Path) -> None:
    function: list[Delta] = [ToolCallDelta(1, call_id="call_f", name="f"), ToolCallDelta(1, "{}")]
    events, model = run(tmp_path, [[*search("{}"), *function, *search("{}", 2), Finish("tool_calls")]])
    kinds = [item["type"] for item in events[-1]["response"]["output"]]
    assert sorted(kinds) == ["file_search_call", "file_search_call", "function_call"]
    assert len(model.prompts) == 1


class Saboteur:
    """Deletes the vector store before it asks to search it."""

    id = "scripted"
    url = ""

    async def stream(self, prompt: Prompt) -> AsyncIterator[list[Delta]]:
        async with httpx2.AsyncClient(base_url=self.url) as http:
            (store,) = (await http.get("/vector_stores")).json()["data"]
            await http.delete(f"/vector_stores/{store['id']}")
        yield [*search("{}"), Finish("tool_calls")]


def test_a_search_of_a_store_that_is_gone_fails_with_its_item_closed(tmp_path: Path) -> None:
    model = Saboteur()
    with serve(Backtalk(settings(tmp_path), models=[model])) as url, client_of(url) as http:
        model.url = f"{url}/v1"
        events = streamed(http, [])
    assert events[-1]["type"] == "response.failed"
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["incomplete"]


def test_calls_beyond_the_budget_are_left_and_the_answer_comes(tmp_path: Path) -> None:
    script: list[Any] = [[*search("{}"), *search("{}", 1), Finish("tool_calls")], "Done."]
    events, model = run(tmp_path, script, max_tool_calls=1)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["file_search_call", "message"]
    assert model.prompts[-1].tool_choice == "none"


def test_what_is_said_in_a_conversation_belongs_to_it_also_when_it_is_not_stored(tmp_path: Path) -> None:
    model = ScriptedModel()
    with serve(Backtalk(settings(tmp_path), models=[model])) as url, client_of(url) as http:
        conversation = http.post("/conversations", json={}).json()["id"]
        body = {"input": "My name is Ada.", "conversation": conversation, "store": False}
        first = http.post("/responses", json=body).json()
        assert http.get(f"/responses/{first['id']}").status_code == 404
        for stream in (False, True):
            again = http.post("/responses", json={**body, "input": "What is my name?", "stream": stream})
            assert "Your name is Ada" in again.text
        failed = http.post("/responses", json={**body, "input": "[[fail:before]]"})
        assert failed.status_code == 502
        items = http.get(f"/conversations/{conversation}/items", params={"order": "asc"}).json()["data"]
    assert [item["role"] for item in items] == ["user", "assistant"] * 3
    assert len({item["id"] for item in items}) == 6


def test_a_search_is_echoed_with_its_defaults_and_a_bad_filter_is_named(tmp_path: Path) -> None:
    with serve(Backtalk(settings(tmp_path), models=[ScriptedModel()])) as url, client_of(url) as http:
        store = http.post("/vector_stores", json={}).json()["id"]
        tool = {"type": "file_search", "vector_store_ids": [store]}
        (echoed,) = http.post("/responses", json={"input": "x", "tools": [tool]}).json()["tools"]
        ranking = {"ranker": "auto", "score_threshold": 0.0}
        assert echoed == {**tool, "filters": None, "max_num_results": 10, "ranking_options": ranking}
        for filters, param in (
            ({"type": "eq", "key": 1, "value": 1}, "filters.key"),
            ({"type": "and", "filters": [{"type": "near", "key": "a", "value": 1}]}, "filters.filters[0].type"),
            ({"type": "or", "filters": 5}, "filters.filters"),
            ([], "filters"),
        ):
            reply = http.post("/responses", json={"input": "x", "tools": [{**tool, "filters": filters}]})
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, f"tools[0].{param}")
