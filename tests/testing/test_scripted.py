import asyncio
import json
from typing import Any

import pytest

from backtalk.core.errors import RateLimited, UpstreamError
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Model,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    Tool,
    ToolCallDelta,
)
from backtalk.models.extractive import ExtractiveReader
from backtalk.testing import ModelSuite, ScriptedModel

WEATHER = Tool(
    "get_weather", "Current weather.",
    {"type": "object", "properties": {"location": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}}},
)  # fmt: skip
CALCULATOR = Tool("calculator", "Does sums.", {"type": "object", "properties": {"expression": {"type": "string"}}})
SEARCH = Tool("file_search", "Search.", {"type": "object", "properties": {"queries": {"type": "array"}}})
ASK = "What's the weather like in San Francisco?"


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


async def answer(*items: dict[str, Any] | str, model: Model | None = None, **settings: Any) -> list[Delta]:
    prompt = Prompt(
        model="scripted", items=[user(item) if isinstance(item, str) else item for item in items], **settings
    )
    return [delta async for read in (model or ScriptedModel()).stream(prompt) for delta in read]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def calls_of(deltas: list[Delta]) -> list[tuple[str | None, Any]]:
    calls: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            calls.setdefault(delta.index, []).append(delta)
    return [(parts[0].name, json.loads("".join(part.arguments for part in parts))) for parts in calls.values()]


class TestScripted(ModelSuite):
    def make_model(self) -> Model:
        return ScriptedModel()


class TestExtractive(ModelSuite):
    def make_model(self) -> Model:
        return ExtractiveReader()


async def test_it_calls_the_tool_that_fits() -> None:
    tools = [CALCULATOR, WEATHER, SEARCH]
    assert calls_of(await answer(ASK, tools=tools)) == [
        ("get_weather", {"location": "San Francisco", "unit": "celsius"})
    ]
    assert calls_of(await answer("calculator please: 2 + 3 * 4", tools=tools)) == [
        ("calculator", {"expression": "2 + 3 * 4"})
    ]
    question = "Who commanded the ship?"
    assert calls_of(await answer(question, tools=tools)) == [("file_search", {"queries": [question]})]
    assert calls_of(await answer("Hello there", tools=tools)) == []
    unit = await answer("Weather in Rome in fahrenheit?", tools=tools)
    assert calls_of(unit) == [("get_weather", {"location": "Rome", "unit": "fahrenheit"})]


async def test_parallel_calls() -> None:
    ask = "What's the weather in Paris, Rome and San Francisco?"
    places = [arguments["location"] for _, arguments in calls_of(await answer(ask, tools=[WEATHER]))]
    assert places == ["Paris", "Rome", "San Francisco"]
    assert len(calls_of(await answer(ask, tools=[WEATHER], parallel_tool_calls=False))) == 1


@pytest.mark.parametrize(
    ("choice", "name"), [("none", None), ("auto", None), ("required", "get_weather"), ("calculator", "calculator")]
)
async def test_tool_choice(choice: str, name: str | None) -> None:
    deltas = await answer("Hello", tools=[WEATHER, CALCULATOR], tool_choice=choice)
    assert [called for called, _ in calls_of(deltas)] == ([name] if name else [])
    assert deltas[-1].reason == ("tool_calls" if name else "stop")  # type: ignore[union-attr]


async def test_it_quotes_what_the_tool_said() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "18 degrees"}
    assert text_of(await answer(ASK, call, output, tools=[WEATHER])) == "get_weather says: 18 degrees"


@pytest.mark.parametrize("model", [ScriptedModel(), ExtractiveReader()])
async def test_it_takes_what_a_custom_tool_said(model: Model) -> None:
    run = Tool("run_code", "Runs.", {"type": "object", "properties": {"input": {"type": "string"}}})
    (called,) = calls_of(await answer("Run code: 6 * 7", tools=[run], tool_choice="run_code", model=model))
    assert called == ("run_code", {"input": "Run code: 6 * 7"})
    call = {"type": "custom_tool_call", "call_id": "c", "name": "run_code", "input": "6 * 7"}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "42"}
    deltas = await answer("Run code: 6 * 7", call, output, tools=[run], model=model)
    assert "42" in text_of(deltas) and not calls_of(deltas)


async def test_it_cites_the_best_passage() -> None:
    results = [{"file_id": f"f{n}", "filename": f"{n}.txt", "score": n / 2, "text": f"Text {n}."} for n in (0, 1)]
    search = {"type": "file_search_call", "id": "fs", "results": results}
    for choice in ("auto", "required", "file_search"):
        deltas = await answer("Who?", search, tools=[SEARCH], tool_choice=choice)
        assert text_of(deltas) == "According to 1.txt: Text 1."
        assert CitationDelta("f1", "1.txt") in deltas
    assert "nothing" in text_of(await answer("Who?", search | {"results": []}, tools=[SEARCH]))


async def test_json_output() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "person", "schema": schema, "strict": True}
    assert json.loads(text_of(await answer("Here comes Anna, she is 31.", text_format=wanted))) == {
        "name": "Anna",
        "age": 31,
    }
    assert json.loads(text_of(await answer("Hi", text_format={"type": "json_object"}))) == {"answer": "Hi"}


async def test_one_that_is_not_structured_answers_in_prose() -> None:
    model = ScriptedModel(['{"a": 1}'], structured=False)
    assert (ScriptedModel().structured, model.structured, model.files) == (True, False, True)
    for said in ('{"a": 1}', "You said: Hi"):
        assert text_of(await answer("Hi", model=model, text_format={"type": "json_object"})) == said
    assert [prompt.text_format for prompt in model.prompts] == [{"type": "json_object"}] * 2


async def test_it_sees_what_came_with_the_question() -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}
    text = {"type": "input_text", "text": "Look"}

    async def said(*parts: dict[str, Any]) -> str:
        return text_of(await answer({"type": "message", "role": "user", "content": [text, *parts]}))

    assert await said(image) == "You said: Look You sent 1 image."
    assert await said(image, image, file) == "You said: Look You sent 2 images. You sent the file a.pdf."
    assert await said({"type": "input_file", "file_id": "file-1"}) == "You said: Look"


async def test_it_is_certain_of_every_token() -> None:
    token: dict[str, Any] = {"token": " é", "bytes": [32, 195, 169], "logprob": 0.0}
    for asked, alternatives in ((0, []), (1, [token]), (5, [token])):
        deltas = await answer("Say exactly: a é", logprobs=asked)
        assert deltas[1] == ScoredTextDelta(" é", ({**token, "top_logprobs": alternatives},))
    assert text_of(deltas) == "a é"
    scripted = await answer("Hi", model=ScriptedModel(["b"]), logprobs=0)
    assert isinstance(scripted[0], ScoredTextDelta)
    assert not any(isinstance(delta, ScoredTextDelta) for delta in await answer("Say exactly: a b"))


async def test_it_remembers_the_conversation() -> None:
    talk = ["My name is Maria.", "My favourite colour is deep blue.", "I'm Eva"]
    assert text_of(await answer(*talk[:2], "What is my name?")) == "Your name is Maria."
    assert text_of(await answer(*talk, "What's my name?")) == "Your name is Eva."
    assert text_of(await answer(*talk, "what is my favourite colour?")) == "Your favourite colour is deep blue."
    assert text_of(await answer("What is my age?")) == "You have not told me your age."
    assert text_of(await answer("What are your instructions?", instructions="Be brief.")) == "Be brief."


async def test_it_does_as_told() -> None:
    assert text_of(await answer("Say exactly: pong  ping")) == "pong  ping"
    assert text_of(await answer("Repeat after me: 你好 world")) == "你好 world"
    assert text_of(await answer("Hello")) == "You said: Hello"
    assert text_of(await answer("Say exactly: one two three", stop=[" two"])) == "one"


async def test_directives() -> None:
    deltas = await answer("[[tokens:200]]")
    assert (
        len(deltas) == 201
        and isinstance(deltas[-1], Finish)
        and deltas[-1].usage
        and deltas[-1].usage.output_tokens == 200
    )
    assert isinstance((await answer("[[refuse]]"))[0], RefusalDelta)
    thought = await answer("[[think]] Hello")
    assert isinstance(thought[0], ReasoningDelta) and text_of(thought) == "You said: Hello"
    parts: dict[int, str] = {}
    summed = await answer("[[summarise]] Hello")
    for delta in summed:
        if isinstance(delta, SummaryDelta):
            parts[delta.part] = parts.get(delta.part, "") + delta.text
    assert list(parts) == [0, 1] and all(len(text.split()) > 2 for text in parts.values())
    sealed = summed.index(SealedReasoning("sealed"))
    assert all(isinstance(delta, SummaryDelta) for delta in summed[:sealed])
    assert text_of(summed[sealed:]) == "You said: Hello"
    cut = await answer("[[tokens:50]]", max_output_tokens=7)
    assert len(cut) == 8 and cut[-1].reason == "length"  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "error", "before"), [
    ("[[fail:before]]", UpstreamError, 0), ("[[tokens:9]] [[fail:after:5]]", UpstreamError, 5), ("[[fail:429]]", RateLimited, 0),
])  # fmt: skip
async def test_it_fails_on_demand(text: str, error: type[Exception], before: int) -> None:
    got = []
    with pytest.raises(error):
        async for read in ScriptedModel().stream(Prompt(model="scripted", items=[user(text)])):
            got += read
    assert len(got) == before


@pytest.mark.parametrize(("text", "before"), [("[[stall]]", 0), ("[[tokens:9]] [[stall:3]]", 3)])
async def test_it_stalls_on_demand(text: str, before: int) -> None:
    got: list[Delta] = []

    async def read() -> None:
        async for deltas in ScriptedModel().stream(Prompt(model="scripted", items=[user(text)])):
            got.extend(deltas)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.2)
    assert len(got) == before


async def test_a_script_is_followed_then_left() -> None:
    model = ScriptedModel(["one two", [TextDelta("three"), Finish("length")], UpstreamError("no")])
    assert text_of(await answer("a", model=model)) == "one two"
    assert await answer("b", model=model) == [TextDelta("three"), Finish("length")]
    with pytest.raises(UpstreamError):
        await answer("c", model=model)
    assert text_of(await answer("d", model=model)) == "You said: d"
    assert [prompt.items[0]["content"] for prompt in model.prompts] == ["a", "b", "c", "d"]


async def test_it_is_deterministic() -> None:
    first, second = [await answer(ASK), await answer(ASK)]
    assert first == second
