"""Talks that are made short: on request, at a threshold, and by truncation."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from talk import Talk, talking
from wire import Wire

from backtalk import Backtalk, Settings
from backtalk.core.text import estimate_tokens
from backtalk.domain.items import text_of
from backtalk.domain.model import Delta, Finish, Prompt, ReasoningDelta, RefusalDelta, TextDelta, Usage
from backtalk.domain.turn import Piece, TurnRequest
from backtalk.testing import ScriptedModel, serve
from backtalk.turn.budget import tokens_of
from support import until

LONG = "The harvest of the year was rich and everybody sang. " * 30


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def talk_of(turns: int) -> list[dict[str, Any]]:
    turn = [said("user", f"Tell me more. {LONG}"), said("assistant", f"Here is more. {LONG}")]
    return [said("user", "My name is Ada."), said("assistant", "Hello Ada!"), *(turn * turns)]


def above(tokens: int) -> list[dict[str, Any]]:
    return [{"type": "compaction", "compact_threshold": tokens}]


def receipt(talk: Talk, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = talk.http.get(f"/responses/{body['id']}/context").json()
    return found


def texts(model: ScriptedModel) -> str:
    return str([item.get("content") for item in model.prompts[-1].items])


@pytest.mark.wire("R27")
def test_a_talk_is_made_short_and_goes_on(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada wants to hear of the harvest.", "Nothing much.", "Your name is Ada."])
    with talking(tmp_path, model) as talk:
        reply = talk.post("/responses/compact", model="scripted", input=talk_of(2), instructions="Mind the harvest.")
        assert talk.sdk.responses.compact(model="scripted", input="Hi").object == "response.compaction"
        assert reply.json()["usage"]["total_tokens"] > 0
        *users, item = reply.json()["output"]
        assert [user["role"] for user in users] == ["user"] * 3
        assert item["type"] == "compaction"
        assert item["id"].startswith("cmp_")
        asked = model.prompts[0]
        assert "Mind the harvest." in (asked.instructions or "")
        assert "Hello Ada!" in str(asked.items)
        talk.post(input=[*reply.json()["output"], said("user", "What is my name?")])
    seen = texts(model)
    assert "Ada wants to hear of the harvest." in seen
    assert "My name is Ada." in seen  # users' messages stay
    assert "Hello Ada!" not in seen


@pytest.mark.wire("R27", "E2")
def test_what_cannot_be_made_short(wire: Wire) -> None:
    def param(path: str = "/responses/compact", **body: Any) -> tuple[int, str]:
        reply = wire.http.post(path, json=body)
        return reply.status_code, reply.json()["error"]["param"]

    assert param(input="Hello") == (400, "model")
    assert param(model="scripted") == (400, "input")
    assert param(model="nobody", input="Hello") == (404, "model")
    for content in ("gAAAA", "bt1.???", "bt1.e30=", None, 5):
        item = {"type": "compaction", "encrypted_content": content}
        assert param("/responses", input=[item]) == (400, "input[0].encrypted_content")


@pytest.mark.wire("R27")
def test_without_a_model_that_writes_excerpts_stand_in(sdk: openai.OpenAI, wire: Wire) -> None:
    body = {"model": "backtalk/extractive", "input": talk_of(20)}
    short = wire.http.post("/responses/compact", json=body).json()["output"]
    answer = sdk.responses.create(input=[*short, said("user", "What is my name?")])
    assert "Ada" in answer.output_text
    assert sdk.responses.input_tokens.count(model="scripted", input=short[-1:]).input_tokens < 3000


@pytest.mark.wire("R28")
def test_a_talk_over_the_threshold_is_made_short_within_the_turn(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada likes harvests.", "First answer.", "Second answer."])
    management = [{"type": "compaction", "compact_threshold": 500}]
    with talking(tmp_path, model) as talk:
        wire = Wire(talk.http)
        question = said("user", "What is my name?")
        events = wire.stream({"input": [*talk_of(3), question], "context_management": management})
        kinds = [event["type"] for event in events]
        assert kinds[2:5] == [
            "response.output_item.added",
            "response.compaction.compacting",
            "response.output_item.done",
        ]
        response = events[-1]["response"]
        assert [item["type"] for item in response["output"]] == ["compaction", "message"]
        assert "Ada likes harvests." in texts(model)
        assert "What is my name?" in texts(model)
        assert "Hello Ada!" not in texts(model)
        receipt = talk.http.get(f"/responses/{response['id']}/context").json()
        assert receipt["compaction"]["tokens_after"] < 500 < receipt["compaction"]["tokens_before"]
        assert receipt["compaction"]["by"] == "scripted"
        # the next turn begins from there, and is short enough by itself
        more = {"input": "And?", "previous_response_id": response["id"], "context_management": management}
        assert [item["type"] for item in wire.stream(more)[-1]["response"]["output"]] == ["message"]
        seen = texts(model)
        assert "Ada likes harvests." in seen and "First answer." in seen and "And?" in seen
        assert "Hello Ada!" not in seen


@pytest.mark.wire("R28")
def test_a_summary_that_fails_does_not_fail_the_turn(tmp_path: Path) -> None:
    model = ScriptedModel([openai_failure(), "An answer."])
    with talking(tmp_path, model, max_tool_rounds=2) as talk:
        body = talk.post(
            input=[*talk_of(3), said("user", "What?")],
            context_management=[{"type": "compaction", "compact_threshold": 100}],
        ).json()
    assert [item["type"] for item in body["output"]] == ["compaction", "message"]
    assert "My name is Ada." in texts(model)  # by excerpts


def openai_failure() -> Exception:
    from backtalk.core.errors import UpstreamError

    return UpstreamError("The model server is away.")


@pytest.mark.wire("R28")
def test_a_trigger_makes_short_and_says_nothing(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada likes harvests.", "Your name is Ada."])
    with talking(tmp_path, model) as talk:
        wire = Wire(talk.http)
        events = wire.stream({"input": [*talk_of(1), {"type": "compaction_trigger"}], "tools": []})
        response = events[-1]["response"]
        assert [item["type"] for item in response["output"]] == ["compaction"]
        listed = talk.http.get(f"/responses/{response['id']}/input_items").json()["data"]
        assert "compaction_trigger" not in [item["type"] for item in listed]
        talk.post(input="What is my name?", previous_response_id=response["id"])
        assert "Ada likes harvests." in texts(model)
        assert "Hello Ada!" not in texts(model)


@pytest.mark.wire("R28", "E2")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"type": "compaction_trigger"}, said("user", "x")]}, "input[0]"),
        ({"input": [{"type": "compaction_trigger"}]}, "input"),
        ({"context_management": {}}, "context_management"),
        ({"context_management": ["x"]}, "context_management[0]"),
        ({"context_management": [{"type": "magic"}]}, "context_management[0].type"),
        ({"context_management": [{"type": "compaction", "compact_threshold": 0}]}, "context_management[0].compact_threshold"),
    ],
)  # fmt: skip
def test_a_mistake_about_compaction_is_named(wire: Wire, body: dict[str, Any], param: str) -> None:
    reply = wire.http.post("/responses", json={"input": "Hello", **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.wire("R29")
def test_what_is_too_long_is_refused_or_cut_from_its_beginning(tmp_path: Path) -> None:
    model = ScriptedModel()
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": f"Sunny. {LONG}"}
    with talking(tmp_path, model, context_tokens=1200) as talk:
        whole = [said("system", "Be brief."), *talk_of(3), said("user", "And Rome?")]
        refused = talk.post(input=whole)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert talk.post(input=whole, truncation="auto").status_code == 200
        seen = texts(model)
        assert "Be brief." in seen and "And Rome?" in seen and "My name is Ada" not in seen
        # a call stays with its output, the question stays in any case
        calls = [
            said("user", "And Rome?"),
            call,
            output,
            {**call, "call_id": "call_2"},
            {**output, "call_id": "call_2"},
        ]
        calls += [{**call, "call_id": "call_3"}, {**output, "call_id": "call_3"}, {**call, "call_id": "call_4"}]
        body = talk.post(input=[*calls, {**output, "call_id": "call_4"}], truncation="auto")
        assert body.status_code == 200
        kinds = [item.get("call_id", item["type"]) for item in model.prompts[-1].items]
        assert kinds[0] == "message"
        assert kinds[-2:] == ["call_4", "call_4"]
        assert len(kinds) < len(calls) + 1
        assert all(kinds.count(kind) == 2 for kind in kinds[1:])
        cut = talk.http.get(f"/responses/{body.json()['id']}/context").json()["cut"]
        assert {entry["type"] for entry in cut} == {"function_call", "function_call_output"}
        assert talk.post(input=LONG * 5, truncation="auto").status_code == 400


@pytest.mark.wire("R27", "R28")
@pytest.mark.parametrize(
    "nothing", [[RefusalDelta("I will not.")], [ReasoningDelta("What is it about?")], [TextDelta(" \n")], []]
)
def test_an_empty_summary_takes_the_place_of_no_talk(tmp_path: Path, nothing: list[Delta]) -> None:
    model = ScriptedModel([[*nothing, Finish()], "An answer.", [*nothing, Finish()]])
    with talking(tmp_path, model) as talk:
        body = talk.post(input=[*talk_of(3), said("user", "What?")], context_management=above(500)).json()
        assert [item["type"] for item in body["output"]] == ["compaction", "message"]
        assert receipt(talk, body)["compaction"]["by"] == "excerpts"
        assert "My name is Ada." in texts(model)
        reply = talk.post("/responses/compact", model="scripted", input=talk_of(3))
        assert (reply.status_code, reply.json()["error"]["type"]) == (502, "server_error")


@pytest.mark.wire("R28", "R30", "R31")
def test_a_summary_costs_nothing_of_the_answers_limit(tmp_path: Path) -> None:
    summary: list[Delta] = [TextDelta("Ada likes harvests."), Finish("stop", Usage(700, 90))]
    model = ScriptedModel([summary, "Your name is Ada."])
    with talking(tmp_path, model) as talk:
        body = talk.post(
            input=[*talk_of(3), said("user", "Who am I?")], context_management=above(500), max_output_tokens=50
        ).json()
    assert (body["status"], model.prompts[-1].max_output_tokens) == ("completed", 50)
    assert body["usage"]["output_tokens"] > 90


@pytest.mark.wire("R27", "R28")
def test_what_system_and_developer_say_outlasts_a_compaction(tmp_path: Path) -> None:
    model = ScriptedModel(["Ada likes harvests.", "Ada.", "Ada still.", "Once more."])
    rules = [said("system", "Speak of Rome."), said("developer", "Be brief.")]
    whole = [rules[0], *talk_of(2), rules[1], *talk_of(1)]
    with talking(tmp_path, model) as talk:
        body = talk.post(input=[*whole, said("user", "Who am I?")], context_management=above(500)).json()
        for _ in range(2):
            seen = texts(model)
            assert "Speak of Rome." in seen and "Be brief." in seen and "Hello Ada!" not in seen
            body = talk.post(input="And now?", previous_response_id=body["id"]).json()
        short = talk.post("/responses/compact", model="scripted", input=whole).json()["output"]
    assert [item.get("role") for item in short] == ["system", *["user"] * 3, "developer", *["user"] * 2, None]


class Endless:
    """Writes until nobody listens any more."""

    id = "scripted"
    closed = False

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        try:
            while True:
                yield [TextDelta("more ")]
                await asyncio.sleep(0.01)
        finally:
            self.closed = True


@pytest.mark.wire("R27")
def test_who_leaves_a_compaction_stops_the_model(tmp_path: Path) -> None:
    model = Endless()
    with talking(tmp_path, model) as talk:
        with pytest.raises(httpx2.ReadTimeout):
            talk.http.post("/responses/compact", json={"model": "scripted", "input": talk_of(1)}, timeout=0.5)
        assert until(lambda: model.closed)


@pytest.mark.wire("R28")
def test_a_compaction_that_gains_nothing_is_not_done(tmp_path: Path) -> None:
    model = ScriptedModel()
    with talking(tmp_path, model) as talk:
        short = [said("user", "My name is Ada."), said("assistant", "Hello!"), said("user", f"What? {LONG}")]
        body = talk.post(input=short, context_management=above(100)).json()
        assert [item["type"] for item in body["output"]] == ["message"]
        again = talk.post(input="And?", previous_response_id=body["id"], context_management=above(100)).json()
        assert [item["type"] for item in again["output"]] == ["message"]


FACTS = [said(("user", "assistant")[i % 2], f"Fact {i}: in village {i} everybody sang all the day.") for i in range(90)]


@pytest.mark.wire("R28")
@pytest.mark.parametrize("name", ["scripted", "backtalk/extractive"])
def test_a_compaction_makes_shorter(tmp_path: Path, name: str) -> None:
    """Also by a model whose summary is longer than the talk."""
    model = ScriptedModel([[TextDelta("And so on and on. " * 1000), Finish()], "An answer."])
    with talking(tmp_path, model) as talk:
        body = talk.post(model=name, input=[*FACTS, said("user", "What?")], context_management=above(500)).json()
        done = receipt(talk, body)["compaction"]
    assert done["tokens_after"] < 0.8 * done["tokens_before"]


@pytest.mark.wire("R28")
def test_a_talk_of_one_question_and_many_calls_is_made_short(tmp_path: Path) -> None:
    model = ScriptedModel(["The first calls found little.", "Sunny."])
    talk_: list[dict[str, Any]] = [said("user", "How is the weather in all of Italy?")]
    for i in range(300):
        talk_.append({"type": "function_call", "call_id": f"call_{i}", "name": "f", "arguments": "{}"})
        talk_.append({"type": "function_call_output", "call_id": f"call_{i}", "output": f"Town {i}: sunny all day."})
    with talking(tmp_path, model) as talk:
        body = talk.post(input=talk_, context_management=above(2000)).json()
        assert [item["type"] for item in body["output"]] == ["compaction", "message"]
        done = receipt(talk, body)["compaction"]
        assert done["tokens_after"] < 2000 < done["tokens_before"]
        talk.post(input="And?", previous_response_id=body["id"])
    for prompt in list(model.prompts)[1:]:
        seen = str([text_of(item) for item in prompt.items])
        assert "weather in all of Italy" in seen and "The first calls found little." in seen
        calls = [item["call_id"] for item in prompt.items if item["type"] == "function_call"]
        outputs = [item["call_id"] for item in prompt.items if item["type"] == "function_call_output"]
        assert calls == outputs and 0 < len(calls) < 100 and calls[-1] == "call_299"


def cost(prompt: Prompt) -> int:
    return estimate_tokens(prompt.instructions or "") + sum(map(tokens_of, prompt.items))


SENTENCES = {"latin": "The harvest of the year was rich. ", "cjk": "今年的收成很好大家都在唱歌。", "emoji": "😀🎉🌾"}


@pytest.mark.wire("R28")
@pytest.mark.parametrize("instructions", [None, "Mind the harvest. " * 1000], ids=["bare", "instructed"])
@pytest.mark.parametrize("summary", ["They sang.", "blah blah blah blah " * 1600], ids=["short", "endless"])
@pytest.mark.parametrize("script", SENTENCES)
def test_summaries_fit_into_a_small_context(
    tmp_path: Path, script: str, summary: str, instructions: str | None
) -> None:
    """Also those of a model that writes more than it was asked to."""
    model = ScriptedModel([[TextDelta(summary), Finish()] for _ in range(100)])
    long = "".join(f"<{i}>{SENTENCES[script] * 40}" for i in range(60))
    whole = [said("user", "Hello"), said("assistant", long), said("user", "What?")]
    with talking(tmp_path, model, context_tokens=8000) as talk:
        reply = talk.post(input=whole, context_management=above(6000), instructions=instructions)
    assert reply.status_code == 200, reply.text
    *summaries, _ = model.prompts
    assert len(summaries) > 1
    for prompt in summaries:
        assert cost(prompt) + (prompt.max_output_tokens or 0) <= 8000
    given = [text_of(prompt.items[0]).removesuffix("\n</conversation>") for prompt in summaries]
    told = [text.rpartition("</summary_so_far>\n")[2].removeprefix("<conversation>\n") for text in given]
    assert long in "".join(told).replace("\n", "")  # nothing was cut off


class Library:
    """A context source that counts how often it is asked."""

    name = "library"
    asked = 0

    async def pieces(self, turn: TurnRequest) -> list[Piece]:
        self.asked += 1
        return [Piece(source="library", id="1", text="Harvests are in autumn.")]


@pytest.mark.wire("R28", "R21")
def test_what_is_wrong_is_told_before_a_summary_is_paid_and_sources_are_asked_once(tmp_path: Path) -> None:
    model, library = ScriptedModel(["Ada likes harvests.", "In autumn."]), Library()
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[model])
    app.add_source(library)
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        body: dict[str, Any] = {"context_management": above(500)}
        bad = {"role": "user", "content": [{"type": "input_file", "file_id": "file-none"}]}
        reply = http.post("/responses", json={**body, "input": [*talk_of(3), bad]})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[8].content[0].file_id")
        assert not model.prompts
        asked = library.asked
        assert http.post("/responses", json={**body, "input": [*talk_of(3), said("user", "When?")]}).status_code == 200
    assert library.asked == asked + 1
    assert "Harvests are in autumn." in texts(model)


@pytest.mark.wire("R18", "R28", "V6")
def test_a_compaction_leaves_the_receipt_where_the_branch_began(tmp_path: Path) -> None:
    model = ScriptedModel(["One.", "Ada likes harvests.", "Two.", "Three."])
    with talking(tmp_path, model) as talk:
        conversation = talk.sdk.conversations.create(items=talk_of(3)).id  # type: ignore[arg-type]
        items = talk.http.get(f"/conversations/{conversation}/items", params={"order": "asc"}).json()["data"]
        talk.post(input="And?", conversation=conversation)
        branch = {"id": conversation, "parent_id": items[-1]["id"]}
        body = talk.post(input="Or?", conversation=branch, context_management=above(500)).json()
        assert [item["type"] for item in body["output"]] == ["compaction", "message"]
        assert receipt(talk, body)["branch_from"] == items[-1]["id"]
        root = talk.post(input="From the start.", conversation={"id": conversation, "parent_id": None}).json()
        assert receipt(talk, root)["branch_from"] is None
        assert [text_of(item) for item in model.prompts[-1].items] == ["From the start."]
        branch = {"branch": root["output"][-1]["id"]}
        listed = talk.http.get(f"/conversations/{conversation}/items", params=branch).json()["data"]
        assert [text_of(item) for item in listed] == ["Three.", "From the start."]


@pytest.mark.wire("R24", "R28")
def test_tokens_are_counted_where_the_turn_would_be_made_short(tmp_path: Path) -> None:
    model = ScriptedModel()
    with talking(tmp_path, model, context_tokens=2000) as talk:
        body: dict[str, Any] = {"input": [*talk_of(6), said("user", "What?")], "context_management": above(1000)}
        reply = talk.post("/responses/input_tokens", **body)
        assert reply.status_code == 200
        assert reply.json()["input_tokens"] > 2000
        del body["context_management"]
        assert talk.post("/responses/input_tokens", **body).status_code == 400
    assert not model.prompts
