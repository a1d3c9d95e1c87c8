"""The validator of streams: good ones of every kind of item pass, and each rule catches the breach of it."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent

from backtalk import Backtalk
from backtalk.core.settings import Settings
from backtalk.testing import ScriptedModel, TranscriptError, check_transcript, read_transcript, serve
from backtalk.testing.transcript import _EVENTS, _KINDS, _WHOLE

Events = list[dict[str, Any]]
Change = Callable[[Events], Events]

# ── good transcripts, by hand ────────────────────────────────────────────────────────────────────────────────────────

CITATION = {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 5}


def copied(events: Events) -> Events:
    copy: Events = json.loads(json.dumps(events))
    return copy


class Stream:
    """Builds a transcript event by event."""

    def __init__(self, first: str = "in_progress") -> None:
        self.events: Events = []
        self.output: list[dict[str, Any]] = []
        self.say("response.created", response=self.response(first))
        if first == "queued":
            self.say("response.queued", response=self.response("queued"))
        self.say("response.in_progress", response=self.response("in_progress"))

    def say(self, kind: str, **fields: Any) -> None:
        self.events.append({"type": kind, "sequence_number": len(self.events), **fields})

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        empty = dict.fromkeys(_WHOLE) | {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}
        return empty | {"status": status, "output": [], "tools": [], "tool_choice": "auto"} | more

    def end(self, status: str = "completed", **more: Any) -> Events:
        self.say(f"response.{status}", response=self.response(status, output=self.output, **more))
        return copied(self.events)

    @contextlib.contextmanager
    def item(self, kind: str, first: dict[str, Any], last: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Adds an item and, when the block has filled it, ends it. Gives its place."""
        index = len(self.output)
        item = {"id": f"item_{index}", "type": kind}
        self.output.append({**item, **first, **last})
        self.say("response.output_item.added", output_index=index, item={**item, **first})
        yield {"item_id": item["id"], "output_index": index}
        self.say("response.output_item.done", output_index=index, item=self.output[index])

    def steps(self, kind: str, *steps: str, first: dict[str, Any] | None = None, **last: Any) -> None:
        """An item that goes through steps; its last status, if it has one, is completed."""
        opening = {"status": "in_progress"} | (first or {})
        with self.item(kind, opening, {"status": "completed"} | last) as place:
            for step in steps:
                self.say(f"response.{kind}.{step}", **place)

    def part(
        self, place: dict[str, Any], kind: str, index: int, *texts: str, name: str = "text", cite: bool = False
    ) -> dict[str, Any]:
        """A part with its text; gives it as it is at the end."""
        summary = kind == "summary_text"
        event = "reasoning_summary_text" if summary else kind
        place = {**place, "summary_index" if summary else "content_index": index}
        more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
        scored = {"logprobs": []} if kind == "output_text" else {}
        opened = "reasoning_summary_part" if summary else "content_part"
        self.say(f"response.{opened}.added", **place, part={"type": kind, name: "", **more})
        for text in texts:
            self.say(f"response.{event}.delta", **place, delta=text, **scored)
        for number in range(2 if cite else 0):
            self.say("response.output_text.annotation.added", **place, annotation_index=number, annotation=CITATION)
            more = {**more, "annotations": [*more["annotations"], CITATION]}
        part = {"type": kind, name: "".join(texts), **more}
        self.say(f"response.{event}.done", **place, **{name: part[name]}, **scored)
        self.say(f"response.{opened}.done", **place, part=part)
        return part

    def message(self, *texts: str, status: str = "completed") -> None:
        first = {"status": "in_progress", "role": "assistant", "content": []}
        last: dict[str, Any] = {"status": status}
        with self.item("message", first, last) as place:
            content = [self.part(place, "output_text", 0, *texts, cite=True)]
            content.append(self.part(place, "refusal", 1, "No", ".", name="refusal"))
            self.output[-1]["content"] = content

    def reasoning(self) -> None:
        with self.item("reasoning", {"summary": []}, {}) as place:
            summary = [self.part(place, "summary_text", number, "In ", "short.") for number in range(2)]
            content = [self.part(place, "reasoning_text", 0, "Let me ", "think.")]
            self.output[-1] |= {"summary": summary, "content": content}

    def written(
        self, kind: str, writer: str, field: str, *pieces: str, before: str = "", after: str = "", **same: Any
    ) -> None:
        """A call whose arguments, input or code stream."""
        text = "".join(pieces)
        with self.item(
            kind, {"status": "in_progress", field: "", **same}, {"status": "completed", field: text}
        ) as place:
            for step in before.split():
                self.say(f"response.{kind}.{step}", **place)
            for piece in pieces:
                self.say(f"response.{writer}.delta", **place, delta=piece)
            self.say(f"response.{writer}.done", **place, **{field: text})
            for step in after.split():
                self.say(f"response.{kind}.{step}", **place)


def everything() -> Events:
    """An item of every kind that streams."""
    stream = Stream()
    stream.reasoning()
    stream.steps("file_search_call", "in_progress", "searching", "completed", queries=["a"])
    stream.steps("web_search_call", "in_progress", "searching", "completed", action={})
    stream.written(
        "code_interpreter_call", "code_interpreter_call_code", "code", "1", "+1",
        before="in_progress", after="interpreting completed", container_id="c",
    )  # fmt: skip
    stream.steps("mcp_list_tools", "in_progress", "completed", first={"server_label": "s"}, tools=[])
    stream.written(
        "mcp_call", "mcp_call_arguments", "arguments", "{}",
        before="in_progress", after="completed", server_label="s", name="n",
    )  # fmt: skip
    with stream.item("image_generation_call", {"status": "in_progress"}, {"status": "completed"}) as place:
        stream.say("response.image_generation_call.in_progress", **place)
        stream.say("response.image_generation_call.generating", **place)
        for number in range(2):
            fields = {"partial_image_index": number, "partial_image_b64": "eA=="}
            stream.say("response.image_generation_call.partial_image", **place, **fields)
        stream.say("response.image_generation_call.completed", **place)
    with stream.item("compaction", {"encrypted_content": "x"}, {}) as place:
        stream.say("response.compaction.compacting", **place)
    with stream.item("mcp_approval_request", {"name": "n", "arguments": "{}", "server_label": "s"}, {}):
        pass
    with stream.item("acme:note", {"words": 3}, {}) as place:
        stream.say("acme:note.written", **place)
    stream.message("Hello", "", " there")
    stream.written("custom_tool_call", "custom_tool_call_input", "input", "ls", call_id="call_1", name="sh")
    parallel(stream)
    return stream.end()


def parallel(stream: Stream) -> None:
    """Two function calls, open at once."""
    call = {"status": "in_progress", "arguments": "", "name": "f"}
    last = {"status": "completed", "arguments": '{"a":1}'}
    writer = "response.function_call_arguments"
    with (
        stream.item("function_call", {**call, "call_id": "call_2"}, last) as one,
        stream.item("function_call", {**call, "call_id": "call_3"}, last) as two,
    ):
        for piece in ('{"a"', ":1}"):
            for place in (one, two):
                stream.say(f"{writer}.delta", **place, delta=piece)
        for place in (one, two):
            stream.say(f"{writer}.done", **place, arguments='{"a":1}')


def background() -> Events:
    stream = Stream("queued")
    stream.message("Hi")
    return stream.end()


def failed() -> Events:
    stream = Stream()
    stream.steps("file_search_call", "in_progress", "searching", status="failed", queries=[])
    stream.steps("mcp_list_tools", "in_progress", "failed", first={"server_label": "s"}, status="failed", tools=[])
    stream.message("Hi", status="incomplete")
    stream.say("error", code="server_error", message="Oh", param=None, error={"code": None, "message": "Oh"})
    return stream.end("failed", error={"code": "server_error", "message": "Oh"})


def cut_off() -> Events:
    stream = Stream()
    stream.message("Hi", status="incomplete")
    return stream.end("incomplete", incomplete_details={"reason": "max_output_tokens"})


GOOD = {make.__name__: make() for make in (everything, background, failed, cut_off)}


@pytest.mark.parametrize("events", GOOD.values(), ids=GOOD)
def test_a_good_transcript_passes_whole_and_resumed_anywhere(events: Events) -> None:
    check_transcript(events)
    for after in range(len(events)):
        check_transcript(events[after + 1 :], after=after)
    for end in range(1, len(events)):
        check_transcript(events[:end], complete=False)
        with pytest.raises(TranscriptError, match="this one is cut"):
            check_transcript(events[:end])


# ── breaches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def place_of(events: Events, kind: str, which: int = 0) -> int:
    """Of an event; `kind` may go on with a word that its item or part has for a type."""
    name, _, typed = kind.partition(" ")
    found = [
        place
        for place, event in enumerate(events)
        if event["type"] in (name, f"response.{name}")
        and typed in ("", event.get("item", event.get("part", {})).get("type"))
    ]
    return found[which]


def numbered(events: Events) -> Events:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def drop(kind: str, which: int = 0) -> Change:
    def change(events: Events) -> Events:
        del events[place_of(events, kind, which)]
        return numbered(events)

    return change


def twice(kind: str, which: int = 0) -> Change:
    def change(events: Events) -> Events:
        place = place_of(events, kind, which)
        return numbered([*events[: place + 1], *events[place:]])

    return change


def move(kind: str, before: str) -> Change:
    def change(events: Events) -> Events:
        event = events.pop(place_of(events, kind))
        events.insert(place_of(events, before), event)
        return numbered(events)

    return change


def put(kind: str, path: str, value: Any, which: int = 0) -> Change:
    """Changes a field of an event: `item.status`."""

    def change(events: Events) -> Events:
        *way, last = path.split(".")
        at: Any = events[place_of(events, kind, which)]
        for key in way:
            at = at[int(key)] if key.lstrip("-").isdigit() else at[key]
        at[last] = value
        return events

    return change


def lose(kind: str, path: str) -> Change:
    """As `put`, without the field."""

    def change(events: Events) -> Events:
        *way, last = path.split(".")
        at: Any = events[place_of(events, kind)]
        for key in way:
            at = at[key]
        del at[last]
        return events

    return change


def add(kind: str, before: str, **fields: Any) -> Change:
    def change(events: Events) -> Events:
        events.insert(place_of(events, before), {"type": kind, **fields})
        return numbered(events)

    return change


def cut(events: Events) -> Events:
    return events[:-1]


def behind(kind: str, **fields: Any) -> Change:
    return lambda events: numbered([*events, {"type": kind, **fields}])


def all_of(*changes: Change) -> Change:
    def change(events: Events) -> Events:
        for one in changes:
            events = one(events)
        return events

    return change


ITEM_ADDED, ITEM_DONE = "output_item.added", "output_item.done"
TEXT = "output_text.delta"
FCA, MCP, CODE = "function_call_arguments", "mcp_call_arguments", "code_interpreter_call_code"

BREACHES: list[tuple[str, Change, str]] = [
    # the stream
    ("everything", put(TEXT, "sequence_number", 7), "sequence_number counts without a gap"),
    ("everything", put("created", "sequence_number", False), "sequence_number counts"),
    ("everything", put("created", "sequence_number", 0.0), "sequence_number counts"),
    ("everything", lambda events: [{**e, "sequence_number": e["sequence_number"] + 1} for e in events], "a gap: 0, not 1"),
    ("everything", drop("created"), "the first event is response.created"),
    ("everything", cut, "a stream ends with completed, incomplete or failed"),
    ("everything", lambda _: [], "this one is cut"),
    ("everything", twice("completed"), "the terminal event is the last one, and the only one"),
    ("everything", behind("acme:note"), "the terminal event is the last one"),
    ("everything", add("response.reasoning.delta", TEXT), "an event of OpenAI's, or one called slug:name"),
    ("background", add("response.cancelled", "completed"), "an event of OpenAI's"),
    ("failed", behind("error", message="Oh", code=None), "the terminal event is the last one"),
    ("failed", twice("error"), "an error is followed by response.failed"),
    ("failed", put("error", "code", 500), "a code that is a word or null, not a number"),
    ("failed", put("error", "error.code", 500), "a code that is a word or null"),
    ("failed", all_of(lose("error", "message"), lose("error", "error")), "an error event tells its message"),
    # the response
    ("everything", twice("created"), "come once each and in this order"),
    ("background", move("in_progress", "queued"), "come once each and in this order"),
    ("everything", all_of(put("created", "response.status", "in_progress"),
                          add("response.queued", "in_progress", response=Stream().response("queued"))),
     "does not go back into the queue"),
    ("everything", move("in_progress", TEXT), "comes before the first item"),
    ("background", move("output_item.added", "in_progress"), "no items before response.in_progress"),
    ("everything", put("created", "response.status", "completed"), "status is queued or in_progress"),
    ("everything", put("in_progress", "response.status", "queued"), "status is in_progress"),
    ("everything", put("in_progress", "response.output", None), "output is [] before the first item"),
    ("everything", lose("created", "response.tools"), "carries the whole response: tools missing"),
    ("everything", put("created", "response", "resp_1"), "carries the whole response"),
    ("everything", put("created", "response.id", ""), "a response has an id"),
    ("everything", put("in_progress", "response.id", "resp_2"), "keeps its id"),
    ("everything", put("completed", "response.id", "resp_2"), "keeps its id"),
    ("everything", put("completed", "response.status", "in_progress"), "status is completed"),
    ("cut_off", put("incomplete", "response.status", "completed"), "status is incomplete"),
    ("failed", put("failed", "response.error", None), "a failed response's error is an object with a message"),
    ("failed", put("failed", "response.error.code", 500), "a code that is a word or null"),
    ("everything", put("completed", "response.error", {"message": "Oh"}), "only a failed response has an error"),
    ("everything", put("completed", "response.output", []), "the final output equals the done items"),
    ("everything", put("completed", "response.output", {}), "output is a list of items"),
    ("everything", put("completed", "response.output.0.id", "rs_2"), "the final output equals the done items"),
    ("everything", lambda events: put("completed", "response.output", events[-1]["response"]["output"][::-1])(events),
     "the done items in their order"),
    ("cut_off", all_of(put(ITEM_DONE, "item.status", "completed"),
                       put("incomplete", "response.output.-1.status", "completed")),
     "the last item is incomplete where max_output_tokens"),
    # items
    ("everything", drop(ITEM_ADDED), "an item is added before it is filled"),
    ("background", move(TEXT, ITEM_ADDED), "an item is added before it is filled"),
    ("everything", twice(ITEM_ADDED), "output_index counts 0, 1, 2 … and is used once"),
    ("everything", put(ITEM_ADDED, "output_index", 0, 1), "output_index counts 0, 1, 2 … and is used once"),
    ("everything", put(ITEM_ADDED, "output_index", 5), "output_index counts"),
    ("everything", put(ITEM_ADDED, "output_index", "0"), "output_index is a number"),
    ("everything", put(ITEM_ADDED, "item.id", "item_0", 1), "an item is added once: its id is another item's"),
    ("everything", put(ITEM_ADDED, "item.type", "telepathy_call"), "an item of OpenAI's, or one called slug:name"),
    ("everything", lose(ITEM_ADDED, "item.id"), "item is an object with id and type"),
    ("everything", put(ITEM_ADDED + " message", "item.status", "completed"), "status is in_progress when it is added"),
    ("everything", lose(ITEM_ADDED + " function_call", "item.status"), "status is in_progress when it is added"),
    ("everything", put(ITEM_ADDED + " message", "item.content", [{}]), "content is empty when it is added"),
    ("everything", put(ITEM_ADDED + " reasoning", "item.summary", None), "summary is empty when it is added"),
    ("everything", put(ITEM_ADDED + " function_call", "item.arguments", "{"), "arguments is empty when it is added"),
    ("everything", put(ITEM_ADDED + " custom_tool_call", "item.input", "ls"), "input is empty when it is added"),
    ("everything", lose(ITEM_ADDED + " function_call", "item.name"), "an item has its name when it is added"),
    ("everything", drop(ITEM_DONE), "every item is done before the end"),
    ("everything", twice(ITEM_DONE), "an item is done once"),
    ("everything", put(ITEM_DONE, "item.id", "rs_2"), "an item keeps its id from added to done"),
    ("everything", put(ITEM_DONE, "item.type", "message"), "an item keeps its type from added to done"),
    ("everything", put(ITEM_DONE + " function_call", "item.call_id", "x"), "an item keeps its call_id"),
    ("everything", put(ITEM_DONE + " function_call", "item.name", "x"), "an item keeps its name"),
    ("everything", put(ITEM_DONE + " message", "item.status", "in_progress"), "a done item's status is one of"),
    ("everything", put(TEXT, "item_id", "item_0"), "item_id is the id of the item"),
    ("background", move(ITEM_DONE, "content_part.done"), "an item is done after its parts are done"),
    ("everything", move(ITEM_DONE, "reasoning_text.delta"), "an item is done after its parts are done"),
    ("cut_off", move("content_part.done refusal", "incomplete"), "an item is done after its parts are done"),
    ("everything", add("response.output_text.delta", ITEM_DONE,
                       output_index=0, content_index=0, item_id="item_0", delta="x", logprobs=[]),
     "is a reasoning, and the event belongs to a message"),
    ("everything", add("response.output_text.delta", ITEM_ADDED + " file_search_call",
                       output_index=1, content_index=0, item_id="x", delta="x", logprobs=[]),
     "an item is added before it is filled: there is none at output_index 1"),
    ("everything", add("response.reasoning_text.delta", "completed",
                       output_index=0, content_index=0, item_id="item_0", delta="x"),
     "an item is not filled after it is done"),
    # parts
    ("background", drop("content_part.added"), "a part is filled after it was added: content_index 0"),
    ("everything", drop("reasoning_summary_part.added"), "a part is filled after it was added: summary_index 0"),
    ("background", drop("content_part.done"), "a part is added when the one before it is done"),
    ("everything", put("content_part.added output_text", "content_index", 1), "content_index counts from 0 within"),
    ("everything", put("reasoning_summary_part.added", "summary_index", 0, 1), "summary_index counts from 0 within"),
    ("everything", put("content_part.added output_text", "part.text", "Hello"), "added with an empty text"),
    ("everything", put("content_part.added output_text", "part.annotations", [CITATION]), "annotations is []"),
    ("everything", put("content_part.added output_text", "part.logprobs", [{}]), "added without logprobs"),
    ("everything", put("content_part.added output_text", "part.type", "summary_text"), "part is one of output_text"),
    ("everything", put("content_part.added output_text", "part", {"type": "refusal", "refusal": ""}),
     "the part is a refusal, and such an event fills a output_text"),
    ("everything", put(TEXT, "delta", None), "delta is a string"),
    ("everything", put(TEXT, "content_index", 1), "content_index 1 was not"),
    ("everything", put(TEXT, "delta", "Goodbye"), "the text's done event equals the deltas before it put together"),
    ("everything", put("output_text.done", "text", "Hello"), "the text's done event equals the deltas"),
    ("everything", put("refusal.done", "refusal", "Yes."), "the text's done event equals the deltas"),
    ("everything", put("reasoning_text.done", "text", "."), "the text's done event equals the deltas"),
    ("everything", put("reasoning_summary_text.done", "text", "."), "the text's done event equals the deltas"),
    ("everything", drop("output_text.done"), "a part is done after the done event of its text"),
    ("everything", twice("output_text.done"), "a text's done event comes once"),
    ("everything", move(TEXT, "content_part.done output_text"), "the text's done event equals the deltas"),
    ("everything", add("response.output_text.delta", "content_part.done output_text",
                       output_index=10, content_index=0, item_id="item_10", delta="", logprobs=[]),
     "no delta comes after the text's done event"),
    ("everything", twice("content_part.done output_text"), "a part is done once"),
    ("everything", put("content_part.done output_text", "part.text", "Bye"), "the done part equals the deltas"),
    ("everything", put("content_part.done output_text", "part", {"type": "refusal", "refusal": "Hello there"}),
     "a part keeps its type"),
    ("everything", put(ITEM_DONE + " message", "item.content.0.text", "Bye"), "content equals its done parts"),
    ("everything", put(ITEM_DONE + " message", "item.content", []), "content equals its done parts"),
    ("everything", put(ITEM_DONE + " message", "item.content", 5), "content is a list of parts"),
    ("everything", put(ITEM_DONE + " reasoning", "item.summary", []), "summary equals its done parts"),
    ("everything", lose(TEXT, "logprobs"), "logprobs is a list on every event of an output_text"),
    ("everything", lose("output_text.done", "logprobs"), "logprobs is a list on every event of an output_text"),
    ("everything", put("output_text.annotation.added", "annotation_index", 0, 1), "annotation_index counts from 0"),
    ("everything", move("output_text.annotation.added", "content_part.done output_text"), "annotation"),
    ("everything", all_of(drop("output_text.annotation.added", 1),
                          put("output_text.annotation.added", "annotation_index", 0)),
     "annotations equal those of the annotation events"),
    ("everything", add("response.output_text.annotation.added", "content_part.done output_text", annotation={},
                       output_index=10, content_index=0, item_id="item_10", annotation_index=2),
     "an annotation comes before the text's done event"),
    ("everything", put("output_text.annotation.added", "annotation", None), "annotation is an object"),
    ("everything", lose("content_part.done output_text", "part.annotations"), "annotations is a list"),
    # calls and their steps
    ("everything", all_of(drop(FCA + ".delta"), drop(FCA + ".delta", 1)), "equals the deltas before it put together"),
    ("everything", put(FCA + ".done", "arguments", "{}"), "the text's done event equals the deltas"),
    ("everything", put(ITEM_DONE + " function_call", "item.arguments", "{}"), "the item's arguments equals the deltas"),
    ("everything", drop(FCA + ".done"), "goes on with delta or done after delta, not with the end"),
    ("everything", twice(FCA + ".done"), "goes on with the end after done"),
    ("everything", put("custom_tool_call_input.done", "input", "rm"), "the text's done event equals the deltas"),
    ("everything", put(ITEM_DONE + " custom_tool_call", "item.input", "rm"), "the item's input equals the deltas"),
    ("everything", drop("custom_tool_call_input.done"), "not with the end"),
    ("everything", drop("file_search_call.in_progress"), "goes on with in_progress after its opening, not with searching"),
    ("everything", move("file_search_call.completed", "file_search_call.searching"), "goes on with searching"),
    ("everything", drop("file_search_call.completed"), "goes on with completed after searching, not with the end"),
    ("everything", put(ITEM_DONE + " file_search_call", "item.status", "failed"), "completed is not done as failed"),
    ("everything", drop("web_search_call.searching"), "goes on with searching after in_progress, not with completed"),
    ("everything", drop("code_interpreter_call.interpreting"), "goes on with interpreting after done, not with completed"),
    ("everything", put(CODE + ".done", "code", "2"), "the text's done event equals the deltas"),
    ("everything", put(ITEM_DONE + " code_interpreter_call", "item.code", "2"), "the item's code equals the deltas"),
    ("everything", drop(MCP + ".done"), "goes on with delta or done after delta, not with completed"),
    ("everything", move("mcp_call.completed", MCP + ".done"), "not with completed"),
    ("failed", put(ITEM_DONE + " mcp_list_tools", "item.status", "completed"), "that failed is not done as completed"),
    ("everything", drop("mcp_list_tools.completed"), "goes on with completed or failed after in_progress"),
    ("everything", drop("image_generation_call.generating"), "goes on with generating after in_progress"),
    ("everything", put("image_generation_call.partial_image", "partial_image_index", 0, 1), "partial_image_index counts"),
    ("everything", put("compaction.compacting", "item_id", "item_0"), "item_id is the id of the item"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "change", "rule"), BREACHES)
def test_a_breach_is_told_by_its_rule(good: str, change: Change, rule: str) -> None:
    with pytest.raises(TranscriptError) as breach:
        check_transcript(change(copied(GOOD[good])))
    assert rule in str(breach.value)


RESUMED: list[tuple[Change, str]] = [
    (lambda events: numbered(events), "sequence_number counts without a gap"),
    (put("output_text.done", "text", "Bye"), "the text's done event equals the deltas"),
    (put("output_text.annotation.added", "annotation_index", 2, 1), "annotation_index counts from 0"),
    (put("content_part.done output_text", "part.annotations", []), "annotations equal those of the annotation events"),
    (put("content_part.added refusal", "content_index", 0), "content_index counts from 0"),
    (put(ITEM_DONE, "item.content.1.refusal", "Yes"), "content equals its done parts"),
    (put(ITEM_DONE, "item.id", "other"), "keeps its id"),
    (put(ITEM_ADDED, "output_index", 10), "output_index counts"),
    (put(FCA + ".delta", "output_index", 14), "an item is added before it is filled"),
    (put("completed", "response.output.11.name", "other"), "the final output equals the done items"),
    (lambda events: put("completed", "response.output", events[-1]["response"]["output"][:-1])(events), "final output"),
    (lambda events: [{**GOOD["everything"][0], "sequence_number": events[0]["sequence_number"]}], "come once each"),
    (cut, "this one is cut"),
]


@pytest.mark.parametrize(("change", "rule"), RESUMED)
def test_a_breach_in_a_resumed_stream_is_told(change: Change, rule: str) -> None:
    events = copied(GOOD["everything"])
    after = place_of(events, TEXT)  # in the middle of a text
    with pytest.raises(TranscriptError) as breach:
        check_transcript(change(events[after + 1 :]), after=after)
    assert rule in str(breach.value)


def test_a_breach_names_the_event() -> None:
    events = put(TEXT, "delta", 5)(copied(GOOD["background"]))
    with pytest.raises(TranscriptError, match=r"^event 5, response.output_text.delta: delta is a string$"):
        check_transcript(events)


JUNK: list[Any] = [None, True, -1, 2.5, "x", [], {}, [[]], {"type": []}]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in an event that can be filled with something else."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("after", [-1, 70])
def test_whatever_stands_in_an_event_nothing_but_a_breach_is_raised(after: int) -> None:
    events = copied(GOOD["everything"])[after + 1 :]
    for event in events:
        for holder, key in list(places(event)):
            before = holder[key]
            for junk in JUNK:
                holder[key] = junk
                with contextlib.suppress(TranscriptError):
                    check_transcript(events, after=after)
            holder[key] = before
    check_transcript(events, after=after)


# ── what the SDK knows ───────────────────────────────────────────────────────────────────────────────────────────────


def types_of(union: Any) -> set[str]:
    members = get_args(get_args(union)[0])
    return {get_args(member.model_fields["type"].annotation)[0] for member in members}


def test_it_knows_what_the_sdk_knows() -> None:
    assert set(_EVENTS) == types_of(ResponseStreamEvent)
    assert set(_KINDS) == types_of(ResponseOutputItem)
    required = {name for name, field in Response.model_fields.items() if field.is_required()}
    assert set(_WHOLE) == required | {"status", "error", "incomplete_details", "instructions", "metadata"}


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────

A, B = '{"type":"a","text":"\u2028"}', '{"type":"b"}'


@pytest.mark.parametrize(
    "data",
    [
        f"event: a\ndata: {A}\n\nevent: b\ndata: {B}\n\n",
        f"event: a\ndata: {A}\n\nevent: b\ndata: {B}\n\ndata: [DONE]\n\n",
        f"\ufeff: ping\r\n\r\nid: 1\r\nretry: 5\r\nevent:a\r\ndata:{A}\r\n\r\n: ping\r\nevent: b\r\ndata: {B}\r\n\r\ndata: [DONE]\r\n\r\n: bye\r\n",
        f"event: a\rdata: {A}\r\rdata: {B}\revent: b\r\r",
        f'event: a\ndata: {{"type":"a",\ndata: "text":"\u2028"}}\n\nevent: b\ndata: {B}',
        f"event: a\ndata: {A}\n\nevent: b\ndata: {B}\n\ndata: [DONE]",
        f"{A}\n{B}\n",
        f"\n{A}\r\n\r\n{B}",
    ],
)
def test_transcripts_are_read(data: str) -> None:
    assert read_transcript(data) == read_transcript(data.encode()) == [json.loads(A), json.loads(B)]


def test_nothing_is_no_event() -> None:
    assert read_transcript(b"") == read_transcript(": ping\n\n") == read_transcript("data: [DONE]\n\n") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (f"event: b\ndata: {A}\n\n", "frame 0: its event name 'b' is not its type 'a'"),
        (f"data: {A}\n\n", "frame 0: its event name '' is not its type 'a'"),
        ("event: a\n\n", "frame 0: not JSON"),
        ("event: a\ndata: {'type':'a'}\n\n", "frame 0: not JSON"),
        (f"{A}\n{{\n", "frame 1: not JSON"),
        (f"{A}\n[DONE]\n", "frame 1: not JSON"),
        ('event: a\ndata: {"type":"a","n":NaN}\n\n', "NaN is no JSON"),
        ("event: a\ndata: " + "[" * 100_000 + "\n\n", "frame 0: not JSON"),
        ("event: a\ndata: [1]\n\n", "not a JSON object with a type"),
        ('{"type":1}', "not a JSON object with a type"),
        (f"data: [DONE]\n\nevent: a\ndata: {A}\n\n", "frame 1: nothing comes behind [DONE]"),
        ("data: [DONE]\n\ndata: [DONE]\n\n", "frame 1: nothing comes behind [DONE]"),
        (b"event: \xff", "not UTF-8"),
    ],
)
def test_what_is_no_transcript_is_told(data: bytes | str, words: str) -> None:
    with pytest.raises(TranscriptError) as breach:
        read_transcript(data)
    assert words in str(breach.value)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    run = [sys.executable, "-m", "backtalk.testing.transcript", *arguments]
    result = subprocess.run(run, input=stdin, capture_output=True, timeout=60)
    assert result.stderr == b""
    return result.returncode, result.stdout.decode()


def test_the_command_tells_what_it_finds(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, GOOD["background"])).encode()
    assert command(stdin=lines) == (0, f"ok: {len(GOOD['background'])} events, 1 items\n")
    path = tmp_path / "stream.txt"
    path.write_bytes(lines[: lines.rindex(b"\n")])
    code, told = command(str(path))
    assert (code, "this one is cut" in told) == (1, True)
    code, told = command(str(tmp_path / "none"))
    assert (code, "No such file" in told) == (1, True)


def test_a_transcript_is_checked_without_other_packages() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pydantic', 'msgspec', 'openai', 'fastapi', 'uvicorn')));"
        "from backtalk.testing import check_transcript; check_transcript([], after=5)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


# ── a real server ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    app = Backtalk(Settings(home=tmp_path_factory.mktemp("transcripts"), discover=False), models=[ScriptedModel()])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as client:
        yield client


def stream(http: httpx2.Client, **body: Any) -> Events:
    return read_transcript(http.post("/responses", json={"stream": True, **body}).content)


def test_a_stream_of_a_server_and_what_is_resumed_of_it(http: httpx2.Client) -> None:
    for body in ({"input": "[[think]] Hello"}, {"input": "[[think]] Hello", "background": True}):
        events = stream(http, **body)
        check_transcript(events)
        url = f"/responses/{events[0]['response']['id']}"
        for after in range(len(events)):
            rest = http.get(url, params={"stream": "true", "starting_after": after}).content
            check_transcript(read_transcript(rest), after=after)


def test_the_stream_of_a_cancelled_response_is_good_but_not_complete(http: httpx2.Client) -> None:
    body = {"input": "[[pace:0.01]] [[tokens:5000]]", "background": True, "stream": True}
    data, cancelled = io.StringIO(), False
    with http.stream("POST", "/responses", json=body) as reply:
        for line in reply.iter_lines():
            data.write(f"{line}\n")
            if "output_text.delta" in line and not cancelled:
                created = read_transcript(data.getvalue().split("\n\n")[0])[0]
                http.post(f"/responses/{created['response']['id']}/cancel")
                cancelled = True
    events = read_transcript(data.getvalue())
    check_transcript(events, complete=False)
    with pytest.raises(TranscriptError, match="this one is cut"):
        check_transcript(events)
