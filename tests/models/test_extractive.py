import json
from typing import Any

import pytest

from backtalk.domain.model import CitationDelta, Delta, Finish, Prompt, TextDelta, Tool, ToolCallDelta
from backtalk.models.extractive import INTRODUCTION, ExtractiveReader
from backtalk.models.reading import sentences, terms

SEARCH = Tool("file_search", "Search.", {"type": "object", "properties": {"queries": {"type": "array"}}})
SEA = "The ship left port in 1831. Captain FitzRoy commanded it. It returned five years later."
BIRDS = "Finches of the islands differ in their beaks. Each island has its own kind. Darwin collected 31 finches there."


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def found(*passages: tuple[str, float]) -> dict[str, Any]:
    results = [
        {"file_id": f"file-{n}", "filename": f"{n}.txt", "score": score, "text": text, "attributes": {}}
        for n, (text, score) in enumerate(passages)
    ]
    return {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"], "results": results}


async def answer(*items: dict[str, Any], **settings: Any) -> list[Delta]:
    prompt = Prompt(model="backtalk/extractive", items=list(items), **settings)
    return [delta async for read in ExtractiveReader().stream(prompt) for delta in read]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def cited(deltas: list[Delta]) -> list[str]:
    return [delta.file_id for delta in deltas if isinstance(delta, CitationDelta)]


def arguments(deltas: list[Delta]) -> Any:
    return json.loads("".join(delta.arguments for delta in deltas if isinstance(delta, ToolCallDelta)))


def finish(deltas: list[Delta]) -> Finish:
    assert isinstance(deltas[-1], Finish)
    return deltas[-1]


async def test_it_searches_the_files_first() -> None:
    deltas = await answer(user("Who commanded the ship?"), tools=[SEARCH])
    call = deltas[0]
    assert isinstance(call, ToolCallDelta) and (call.index, call.name) == (0, "file_search") and call.call_id
    assert arguments(deltas) == {"queries": ["Who commanded the ship?"]}
    assert finish(deltas).reason == "tool_calls"


async def test_a_follow_up_is_searched_with_the_question_before() -> None:
    earlier = [user("Who commanded the Beagle?"), {"type": "message", "role": "assistant", "content": "FitzRoy."}]
    deltas = await answer(*earlier, user("When was he born?"), tools=[SEARCH])
    assert arguments(deltas) == {"queries": ["When was he born?", "Who commanded the Beagle? When was he born?"]}
    deltas = await answer(*earlier, user("How many finches did Darwin collect on the Galapagos?"), tools=[SEARCH])
    assert len(arguments(deltas)["queries"]) == 1


async def test_it_searches_once_in_a_turn() -> None:
    question = user("Who commanded the ship?")
    assert cited(await answer(question, found((SEA, 0.9)), tools=[SEARCH]))[0] == "file-0"
    deltas = await answer(question, found((SEA, 0.9)), question, tools=[SEARCH])
    assert finish(deltas).reason == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "calls"), [("auto", True), ("required", True), ("file_search", True), ("none", False)]
)
async def test_the_choice_of_tools_is_obeyed(choice: str, calls: bool) -> None:
    deltas = await answer(user("Who commanded the ship?"), tools=[SEARCH], tool_choice=choice)
    assert (finish(deltas).reason == "tool_calls") is calls


async def test_other_tools_are_called_only_when_demanded() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = Tool("get_weather", "Weather.", schema)
    assert finish(await answer(user("Rome?"), tools=[tool])).reason == "stop"
    for choice in ("required", "get_weather"):
        assert arguments(await answer(user("Rome?"), tools=[tool], tool_choice=choice)) == {"city": "Rome?"}
    outputs = [
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "sunny"},
    ]
    assert text_of(await answer(user("Rome?"), *outputs, tools=[tool], tool_choice="required")) == "sunny"


async def test_it_quotes_the_sentence_that_answers_and_cites_it_there() -> None:
    deltas = await answer(user("Who commanded the ship?"), found((BIRDS, 0.8), (SEA, 0.8)))
    first = next(place for place, delta in enumerate(deltas) if isinstance(delta, CitationDelta))
    assert text_of(deltas[:first]) == "“Captain FitzRoy commanded it.”"
    assert deltas[first] == CitationDelta("file-1", "1.txt")


async def test_the_best_ranked_passage_wins_a_tie() -> None:
    assert cited(await answer(user("Who commanded it?"), found((SEA, 0.9), (SEA + " More.", 0.5))))[0] == "file-0"


async def test_another_sentence_follows_only_when_it_adds_something() -> None:
    both = await answer(
        user("Who commanded the ship and how do the beaks of finches differ?"), found((SEA, 0.9), (BIRDS, 0.8))
    )
    assert set(cited(both)) == {"file-0", "file-1"}
    assert len(cited(await answer(user("Who commanded the ship?"), found((SEA, 0.9), (BIRDS, 0.1))))) <= 2


async def test_chinese_is_read_and_quoted_in_chinese() -> None:
    passage = "黄河是中国第二长河。长江全长约6300公里，是亚洲最长的河流。"
    deltas = await answer(user("长江有多长？"), found(("北京是首都。", 0.9), (passage, 0.9)))
    assert text_of(deltas).startswith("「长江全长约6300公里")
    assert cited(deltas)[0] == "file-1"


@pytest.mark.parametrize(
    ("question", "said"),
    [("Who was it?", "nothing"), ("谁是船长？", "没有"), ("船長は誰ですか", "ません"), ("선장은 누구", "못했")],
)
async def test_nothing_found_is_said_in_the_questions_script(question: str, said: str) -> None:
    deltas = await answer(user(question), found())
    assert said in text_of(deltas)
    assert not cited(deltas)


async def test_without_files_it_says_what_it_is_and_how_to_connect_a_model() -> None:
    deltas = await answer(user("What is the capital of Peru?"))
    assert text_of(deltas) == INTRODUCTION
    for word in ("BACKTALK_UPSTREAM", "OPENAI_API_KEY", "Ollama", "file_search"):
        assert word in INTRODUCTION
    assert text_of(await answer()) == INTRODUCTION


async def test_it_answers_from_the_conversation() -> None:
    talk = [user("My dog is called Rex. I live in Oslo."), {"type": "message", "role": "assistant", "content": "Nice."}]
    assert "“My dog is called Rex.”" in text_of(await answer(*talk, user("What is my dog called?")))
    assert "FitzRoy" in text_of(await answer(user("?"), found((SEA, 0.9)), user("Which captain commanded?")))


async def test_the_limit_of_tokens_ends_the_answer() -> None:
    deltas = await answer(user("Hello?"), max_output_tokens=5)
    end = finish(deltas)
    assert end.reason == "length" and end.usage and 0 < end.usage.output_tokens <= 5
    assert INTRODUCTION.startswith(text_of(deltas))


async def test_usage_is_estimated_and_stop_obeyed() -> None:
    end = finish(await answer(user("Hello?"), instructions="Be kind."))
    assert end.reason == "stop" and end.usage and end.usage.input_tokens > 0 and end.usage.output_tokens > 20
    assert text_of(await answer(user("Hello?"), stop=["Backtalk"])) == "I am "


async def test_json_is_filled_from_its_schema() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "name": "n", "schema": schema}
    deltas = await answer(user("Who commanded the ship?"), found((SEA, 0.9)), text_format=wanted)
    value = json.loads(text_of(deltas))
    assert "FitzRoy" in value["answer"] and isinstance(value["sure"], bool)
    assert "answer" in json.loads(text_of(await answer(user("Hi"), text_format={"type": "json_object"})))


async def test_words_come_one_by_one_and_lose_nothing() -> None:
    deltas = await answer(user("Hello?"))
    assert sum(isinstance(delta, TextDelta) for delta in deltas) == len(INTRODUCTION.split())


def test_sentences_end_where_they_end() -> None:
    text = "Dr. J. Smith came. He said “Go.” Then 3.5 km.\n\n# Title\n- one\n- two\nU.S. law is law! 他来了。她走了。"
    assert list(sentences(text)) == [
        "Dr. J. Smith came.", "He said “Go.”", "Then 3.5 km.", "# Title", "- one", "- two U.S. law is law!", "他来了。", "她走了。",
    ]  # fmt: skip


def test_terms_are_stems_without_stopwords() -> None:
    assert terms("The ships were sailing") == terms("ship sails")
    assert terms("Café") == terms("cafe")
    assert terms("北京大学") == ["北京", "京大", "大学"]


def test_it_says_what_it_can() -> None:
    assert (ExtractiveReader.structured, ExtractiveReader.writes) == (True, False)
