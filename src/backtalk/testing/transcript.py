"""A transcript of a Responses stream, of any server, checked against the grammar that OpenAI's clients rely on.

    check_transcript(read_transcript(reply.content))

Or from a shell: `curl … | python -m backtalk.testing.transcript`. Nothing but Python is needed.

`_KINDS` tells what each kind of item may emit, `_TEXTS` which parts have texts; the rest follows from these two tables.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

_Object: TypeAlias = dict[str, Any]

_LINE_END = re.compile(r"\r\n|\n|\r")
_EXTENSION = re.compile(r"[\w.-]+:[\w.:-]+")
_END = "the end"
_ENDED = ("completed", "incomplete", "failed")


class TranscriptError(ValueError):
    """The first breach of the grammar: which event, and the rule that it breaks."""


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_transcript(data: bytes | str) -> list[_Object]:
    """The events of server-sent events, or of JSON lines (the frames of a WebSocket).

    Raises `TranscriptError` for what is no JSON object with a type, for a frame whose name is not that type, and for
    anything behind `[DONE]`.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        raise TranscriptError("the transcript is not UTF-8") from None
    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("{"):
        return [_parsed(line, number) for number, line in enumerate(filter(str.strip, lines))]
    return list(_events(_frames(lines)))


def _frames(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each frame; the last may lack its blank line."""
    name, data = "", []
    for line in [*lines, ""]:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif not line and (name or data):
            yield name, "\n".join(data)
            name, data = "", []


def _events(frames: Iterator[tuple[str, str]]) -> Iterator[_Object]:
    done = False
    for number, (name, data) in enumerate(frames):
        if done:
            raise TranscriptError(f"frame {number}: nothing comes behind [DONE]")
        done = data == "[DONE]"
        if not done:
            event = _parsed(data, number)
            if name != event["type"]:
                raise TranscriptError(f"frame {number}: its event name {name!r} is not its type {event['type']!r}")
            yield event


def _parsed(data: str, number: int) -> _Object:
    try:
        event = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TranscriptError(f"frame {number}: not JSON: {error}") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise TranscriptError(f"frame {number}: not a JSON object with a type")
    return event


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# ── what may happen ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Kind:
    """What a kind of item may emit between its opening and its end.

    `steps` says what may follow each step, "" being the opening; `delta` and `done` write the field `text` by events
    called `writer`. `empty` are fields as they must be at first, `same` those that stay, `lists` hold its parts.
    """

    steps: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"": (_END,)})
    writer: str = ""
    text: str = ""
    empty: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    same: tuple[str, ...] = ("id", "type")
    lists: tuple[str, ...] = ()
    status: bool = True
    ended: tuple[str, ...] = _ENDED


@dataclass(frozen=True)
class _Text:
    """A text that streams into a part: the item's kind, its list of parts, the part's type and field."""

    item: str
    list: str
    part: str
    field: str = "text"

    @property
    def index(self) -> str:
        return f"{self.list}_index"


def _chain(*steps: str) -> dict[str, tuple[str, ...]]:
    return {step: (following,) for step, following in zip(("", *steps), (*steps, _END), strict=True)}


_WRITING = {"delta": ("delta", "done")}
_CALL = ("id", "type", "call_id", "name")

_BORN_WHOLE = (
    *("function_call_output", "computer_call_output", "local_shell_call_output", "shell_call_output"),
    *("apply_patch_call_output", "custom_tool_call_output", "tool_search_output", "program", "program_output"),
    *("additional_tools", "mcp_approval_request", "mcp_approval_response"),
)
"""Items that are added as they will be."""

_KINDS = {
    "message": _Kind(empty={"content": ([],)}, same=("id", "type", "role"), lists=("content",)),
    "reasoning": _Kind(empty={"summary": ([],), "content": ([], None)}, lists=("summary", "content"), status=False),
    "function_call": _Kind(
        {"": ("delta", "done"), **_WRITING, "done": (_END,)},
        "function_call_arguments",
        "arguments",
        {"arguments": ("",)},
        _CALL,
    ),
    "custom_tool_call": _Kind(
        {"": ("delta", "done"), **_WRITING, "done": (_END,)},
        "custom_tool_call_input",
        "input",
        {"input": ("",)},
        _CALL,
        status=False,
    ),
    "file_search_call": _Kind(_chain("in_progress", "searching", "completed")),
    "web_search_call": _Kind(_chain("in_progress", "searching", "completed")),
    "code_interpreter_call": _Kind(
        _chain("in_progress", "done", "interpreting", "completed") | {"in_progress": ("delta", "done"), **_WRITING},
        "code_interpreter_call_code",
        "code",
        {"code": ("", None)},
    ),
    "mcp_call": _Kind(
        {"": ("in_progress",), "in_progress": ("delta", "done"), **_WRITING, "done": ("completed", "failed")}
        | {"completed": (_END,), "failed": (_END,)},
        "mcp_call_arguments",
        "arguments",
        {"arguments": ("",)},
        ("id", "type", "server_label", "name"),
        status=False,
    ),
    "mcp_list_tools": _Kind(
        {"": ("in_progress",), "in_progress": ("completed", "failed"), "completed": (_END,), "failed": (_END,)},
        same=("id", "type", "server_label"),
        status=False,
    ),
    "image_generation_call": _Kind(
        _chain("in_progress", "generating", "completed")
        | {"generating": ("partial_image", "completed"), "partial_image": ("partial_image", "completed")},
        ended=("generating", *_ENDED),  # OpenAI's own is done so
    ),
    "compaction": _Kind({"": ("compacting", _END), "compacting": ("compacting", _END)}, status=False),
    **dict.fromkeys(
        ("computer_call", "local_shell_call", "shell_call", "apply_patch_call"),
        _Kind(same=("id", "type", "call_id")),
    ),
    "tool_search_call": _Kind(),
    **dict.fromkeys(_BORN_WHOLE, _Kind(status=False)),
}

_MODELS_OWN = ("message", "reasoning", "function_call", "custom_tool_call")
"""Items that a model writes, so that they can be cut off. A search before that was whole."""

_TEXTS = {
    "output_text": _Text("message", "content", "output_text"),
    "refusal": _Text("message", "content", "refusal", "refusal"),
    "reasoning_text": _Text("reasoning", "content", "reasoning_text"),
    "reasoning_summary_text": _Text("reasoning", "summary", "summary_text"),
}
_PARTS = {text.part: text for text in _TEXTS.values()}
_PART_EVENTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}

_STAGES = {"response.created": 0, "response.queued": 1, "response.in_progress": 2}
_TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
_STATUS = {
    "response.created": ("queued", "in_progress"),
    "response.queued": ("queued",),
    "response.in_progress": ("in_progress",),
    **{name: (status,) for name, status in _TERMINAL.items()},
}
_WHOLE = (
    *("id", "object", "created_at", "status", "error", "incomplete_details", "instructions", "metadata", "model"),
    *("output", "parallel_tool_calls", "tool_choice", "tools"),
)
"""What the SDK's type of a response cannot do without, and what tells how it stands."""


# ── what has happened ────────────────────────────────────────────────────────────────────────────────────────────────


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise TranscriptError(rule)


@dataclass
class _Writing:
    """A text as its deltas write it. Of one that began before the transcript only the end is known."""

    known: bool
    said: str = ""
    written: bool | None = False
    """Whether its `.done` has come; None when that may have been before the transcript."""

    def add(self, delta: Any) -> None:
        _must(isinstance(delta, str), "delta is a string")
        _must(self.written is not True, "no delta comes after the text's done event")
        self.said += delta
        self.written = False

    def finish(self, text: Any) -> None:
        _must(self.written is not True, "a text's done event comes once")
        self.match(text, "the text's done event")
        self.said, self.known, self.written = text, True, True

    def match(self, text: Any, where: str) -> None:
        fits = isinstance(text, str) and (text == self.said if self.known else text.endswith(self.said))
        _must(fits, f"the text of {where} equals the deltas before it put together")


@dataclass
class _Part:
    type: str
    text: _Writing
    annotations: list[Any] = field(default_factory=list)
    annotations_known: int | None = 0
    closed: _Object | None = None

    def annotate(self, event: _Object) -> None:
        _must(self.text.written is not True, "an annotation comes before the text's done event")
        number, expected = event.get("annotation_index"), self.annotations_known
        _must(_is_index(number), "annotation_index is a number from 0 on")
        _must(expected in (None, number), f"annotation_index counts from 0 within the part: {expected}")
        self.annotations_known = int(event["annotation_index"]) + 1
        self.annotations.append(event.get("annotation"))
        self.text.written = False

    def close(self, part: _Object) -> None:
        _must(part["type"] == self.type, f"a part stays what it was added as: {self.type}")
        _must(self.text.written is not False, "a part is done after the done event of its text")
        self.text.match(part.get(_PARTS[self.type].field), "the done part")
        if self.type == "output_text":
            told, count = part.get("annotations"), len(self.annotations)
            if not isinstance(told, list):
                raise TranscriptError("annotations is a list")
            known = self.annotations_known == count  # else the first of them came before the transcript
            same = told == self.annotations if known else not count or told[-count:] == self.annotations
            _must(same, "the done part's annotations equal those of the annotation events")
        self.closed = part


@dataclass
class _Item:
    index: int
    type: str
    id: str | None
    added: _Object | None = None
    step: str | None = ""
    parts: dict[str, dict[int, _Part]] = field(default_factory=dict)
    text: _Writing = field(default_factory=lambda: _Writing(True))
    images: int = 0
    done: _Object | None = None

    @property
    def kind(self) -> _Kind:
        return _KINDS.get(self.type, _Kind(status=False))

    def go(self, step: str) -> None:
        """Takes a step; where an item that began before the transcript stands is known by its first one."""
        if self.step is not None:
            allowed = self.kind.steps.get(self.step, ())
            after = self.step or "its opening"
            _must(step in allowed, f"a {self.type} goes on with {' or '.join(allowed)} after {after}, not with {step}")
        self.step = step

    def open_part(self, listed: str, index: int, part: _Object) -> None:
        parts = self.parts.setdefault(listed, {})
        _must(all(other.closed for other in parts.values()), "a part is added when the one before it is done")
        expected = max(parts) + 1 if parts else 0
        unknown = not parts and self.added is None
        _must(unknown or index == expected, f"{listed}_index counts from 0 within the item: {expected}")
        text = _PARTS[part["type"]]
        _must(part.get(text.field) == "", "a part is added with an empty text")
        _must(text.part != "output_text" or part.get("annotations") == [], "annotations is [] when a part is added")
        _must(not part.get("logprobs"), "a part is added without logprobs")
        parts[index] = _Part(part["type"], _Writing(True))

    def part(self, text: _Text, index: int) -> _Part:
        """A part that is open."""
        parts = self.parts.setdefault(text.list, {})
        if index not in parts:
            _must(
                self.added is None and not parts, f"a part is filled after it was added: {text.index} {index} was not"
            )
            parts[index] = _Part(text.part, _Writing(False, written=None), annotations_known=None)
        part = parts[index]
        _must(part.closed is None, "a part is filled before it is done")
        _must(part.type == text.part, f"the part is a {part.type}, and such an event fills a {text.part}")
        return part

    def finish(self, item: _Object) -> None:
        before = {"id": self.id, "type": self.type} if self.added is None else self.added
        for name in self.kind.same:
            _must(name not in before or item.get(name) == before[name], f"an item keeps its {name} from added to done")
        status = item.get("status")
        if self.kind.status or status is not None:
            _must(status in self.kind.ended, f"a done item's status is one of {', '.join(self.kind.ended)}")
        if self.type == "function_call" and status == "completed":
            _must(item.get("arguments") != "", "a completed function_call has arguments, {} at the least")
        self._finish_steps(item)
        self._finish_text(item)
        for listed in self.kind.lists:
            content = item.get(listed) or []
            _must(isinstance(content, list), f"{listed} is a list of parts")
            self._finish_parts(listed, content)
        self.done = item

    def _finish_steps(self, item: _Object) -> None:
        status = item.get("status")
        _must((self.step, status) != ("failed", "completed"), "an item that failed is not done as completed")
        _must((self.step, status) != ("completed", "failed"), "an item that completed is not done as failed")
        if status not in ("failed", "incomplete") and not item.get("error"):
            self.go(_END)

    def _finish_text(self, item: _Object) -> None:
        if self.kind.text and self.text.written is not None:
            self.text.match(item.get(self.kind.text) or "", f"the item's {self.kind.text}")

    def _finish_parts(self, listed: str, content: list[Any]) -> None:
        parts = self.parts.get(listed, {})
        _must(all(part.closed for part in parts.values()), "an item is done after its parts are done")
        closed = {index: part.closed for index, part in parts.items()}
        first = min(parts, default=len(content)) if self.added is None else 0
        told = dict(enumerate(content[first:], first))
        _must(told == closed, f"the done item's {listed} equals its done parts")


@dataclass
class _State:
    """The stream so far. `resumed`: it began before the transcript, and so may items have."""

    resumed: bool
    stage: int = -1
    status: str = ""
    response_id: str | None = None
    items: dict[int, _Item] = field(default_factory=dict)
    first_added: int | None = None
    error: bool = False
    ended: bool = False

    def response(self, event: _Object) -> _Object:
        """The event's response: whole, the same one, with the status that the event speaks of."""
        response = event.get("response")
        if not isinstance(response, dict):
            raise TranscriptError("the event carries the whole response")
        missing = [name for name in _WHOLE if name not in response]
        _must(not missing, f"the event carries the whole response: {', '.join(missing)} missing")
        _must(isinstance(response["id"], str) and response["id"] != "", "a response has an id")
        _must(self.response_id in (None, response["id"]), "the response keeps its id through the stream")
        allowed = _STATUS[event["type"]]
        _must(response["status"] in allowed, f"the response's status is {' or '.join(allowed)}")
        self.response_id = response["id"]
        return response

    def item(self, event: _Object, kind: str) -> _Item:
        """The open item that an event is about."""
        index = _index(event, "output_index")
        if index not in self.items:
            before = self.resumed and (self.first_added is None or index < self.first_added)
            _must(before, f"an item is added before it is filled: there is none at output_index {index}")
            self.items[index] = _from_before(index, kind, event)
        item = self.items[index]
        _must(item.done is None, f"an item is not filled after it is done: that of output_index {index} is")
        _must(
            item.type == kind, f"the item at output_index {index} is a {item.type}, and the event belongs to a {kind}"
        )
        return item


def _from_before(index: int, kind: str, event: _Object) -> _Item:
    item = event.get("item")
    item_id = item["id"] if isinstance(item, dict) and "id" in item else event.get("item_id")
    return _Item(index, kind, item_id, step=None, text=_Writing(False, written=None))


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _index(event: _Object, name: str) -> int:
    _must(_is_index(event.get(name)), f"{name} is a number from 0 on")
    return int(event[name])


def _named(state: _State, event: _Object, kind: str) -> _Item:
    """As `_State.item`, for events that name its id, too."""
    item = state.item(event, kind)
    _must(event.get("item_id") == item.id, f"item_id is the id of the item at output_index {item.index}")
    return item


# ── the events ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _lifecycle(state: _State, event: _Object) -> None:
    stage, response = _STAGES[event["type"]], state.response(event)
    _must(stage > state.stage, "response.created, .queued and .in_progress come once each and in this order")
    _must(not state.items, f"{event['type']} comes before the first item")
    _must(response["output"] == [], "output is [] before the first item")
    back = state.status == "in_progress" and response["status"] == "queued"
    _must(not back, "a response in progress does not go back into the queue")
    state.stage, state.status = stage, response["status"]


def _terminal(state: _State, event: _Object) -> None:
    response = state.response(event)
    still = [item.index for item in state.items.values() if item.done is None]
    _must(not still, f"every item is done before the end: that of output_index {still[:1]} is not")
    if response["status"] == "failed":
        _check_error(response["error"], "a failed response's error")
    else:
        _must(response["error"] is None, "only a failed response has an error")
    _check_output(state, response["output"])
    details = response["incomplete_details"]
    if isinstance(details, dict) and details.get("reason") == "max_output_tokens" and response["output"]:
        last = response["output"][-1]
        whole = last.get("type") in _MODELS_OWN and last.get("status") not in (None, "incomplete")
        _must(not whole, "the last item is incomplete where max_output_tokens cut it off")
    state.ended = True


def _check_output(state: _State, output: Any) -> None:
    _must(isinstance(output, list) and all(isinstance(item, dict) for item in output), "output is a list of items")
    done = {index: item.done for index, item in state.items.items()}
    told = dict(enumerate(output))
    if state.resumed:
        first = len(told) if state.first_added is None else state.first_added
        told = {index: item for index, item in told.items() if index in done or index >= first}
    _must(told == done, "the final output equals the done items in their order")


def _error(state: _State, event: _Object) -> None:
    _must("message" in event or "error" in event, "an error event tells its message")
    for error in [event] * ("message" in event) + [event.get("error")] * ("error" in event):
        _check_error(error, "an error")
    state.error = True


def _check_error(error: Any, what: str) -> None:
    _must(isinstance(error, dict) and isinstance(error.get("message"), str), f"{what} is an object with a message")
    code = error.get("code")
    _must(code is None or isinstance(code, str), f"{what} has a code that is a word or null, not a number")


def _item_added(state: _State, event: _Object) -> None:
    index, item = _index(event, "output_index"), _item_of(event)
    known = not state.resumed or state.first_added is not None
    expected = len(state.items) if not state.resumed else max(state.items, default=-1) + 1
    fits = index == expected if known else index >= expected
    _must(fits, f"output_index counts 0, 1, 2 … and is used once: {expected} is next")
    _must(state.status != "queued", "a queued response has no items before response.in_progress")
    ids = [other.id for other in state.items.values()]
    _must(item["id"] not in ids, "an item is added once: its id is another item's")
    _check_empty(item)
    state.first_added = index if state.first_added is None else state.first_added
    state.items[index] = _Item(index, item["type"], item["id"], item)


def _check_empty(item: _Object) -> None:
    kind = _KINDS.get(item["type"], _Kind(status=False))
    status = item.get("status")
    if (kind.status or status is not None) and item["type"] in _KINDS and item["type"] not in _BORN_WHOLE:
        _must(status == "in_progress", "an item's status is in_progress when it is added")
    for name, values in kind.empty.items():
        _must(item.get(name) in values, f"an item's {name} is empty when it is added: {json.dumps(values[0])}")
    missing = [name for name in kind.same if not isinstance(item.get(name), str)]
    _must(not missing, f"an item has its {', '.join(missing)} when it is added")


def _item_done(state: _State, event: _Object) -> None:
    index, item = _index(event, "output_index"), _item_of(event)
    known = state.items.get(index)
    _must(known is None or known.done is None, f"an item is done once: that of output_index {index} is already")
    _must(known is None or item["type"] == known.type, "an item keeps its type from added to done")
    state.item(event, item["type"]).finish(item)


def _item_of(event: _Object) -> _Object:
    item = event.get("item")
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not isinstance(item.get("type"), str):
        raise TranscriptError("item is an object with id and type")
    known = item["type"] in _KINDS or bool(_EXTENSION.fullmatch(item["type"]))
    _must(known, f"an item of OpenAI's, or one called slug:name, not {item['type']!r}")
    return item


def _part_added(listed: str, state: _State, event: _Object) -> None:
    part, text = _part_of(event, listed)
    _named(state, event, text.item).open_part(listed, _index(event, text.index), part)


def _part_done(listed: str, state: _State, event: _Object) -> None:
    part, text = _part_of(event, listed)
    item, index = _named(state, event, text.item), _index(event, text.index)
    known = item.parts.get(listed, {}).get(index)
    _must(known is None or known.closed is None, "a part is done once")
    _must(known is None or known.type == part["type"], "a part keeps its type from added to done")
    item.part(text, index).close(part)


def _part_of(event: _Object, listed: str) -> tuple[_Object, _Text]:
    part = event.get("part")
    kinds = [text.part for text in _TEXTS.values() if text.list == listed]
    if not isinstance(part, dict) or part.get("type") not in kinds:
        raise TranscriptError(f"part is one of {', '.join(kinds)}")
    return part, _PARTS[part["type"]]


def _text_delta(text: _Text, state: _State, event: _Object) -> None:
    _part_for(text, state, event).text.add(event.get("delta"))


def _text_done(text: _Text, state: _State, event: _Object) -> None:
    _part_for(text, state, event).text.finish(event.get(text.field))


def _part_for(text: _Text, state: _State, event: _Object) -> _Part:
    if text.part == "output_text":
        _must(isinstance(event.get("logprobs"), list), "logprobs is a list on every event of an output_text")
    return _named(state, event, text.item).part(text, _index(event, text.index))


def _annotation(state: _State, event: _Object) -> None:
    text = _TEXTS["output_text"]
    _must(isinstance(event.get("annotation"), dict), "annotation is an object")
    _named(state, event, text.item).part(text, _index(event, text.index)).annotate(event)


def _step(kind: str, step: str, state: _State, event: _Object) -> None:
    item = _named(state, event, kind)
    item.go(step)
    if step == "delta":
        item.text.add(event.get("delta"))
    elif step == "done":
        item.text.finish(event.get(_KINDS[kind].text))
    elif step == "partial_image" and item.added is not None:
        _must(event.get("partial_image_index") == item.images, f"partial_image_index counts from 0: {item.images}")
        item.images += 1


def _inside(kind: str, state: _State, event: _Object) -> None:
    """Events of which only the item is checked: some lack its id."""
    state.item(event, kind)


def _anywhere(state: _State, event: _Object) -> None:
    """Events that belong to no item."""


_Check: TypeAlias = Callable[[_State, _Object], None]


def _step_events() -> Iterator[tuple[str, _Check]]:
    for name, kind in _KINDS.items():
        for step in kind.steps:
            if step:
                prefix = kind.writer if step in ("delta", "done") else name
                yield f"response.{prefix}.{step}", partial(_step, name, step)


_EVENTS: dict[str, _Check] = {
    **dict.fromkeys(_STAGES, _lifecycle),
    **dict.fromkeys(_TERMINAL, _terminal),
    "error": _error,
    "response.output_item.added": _item_added,
    "response.output_item.done": _item_done,
    **{f"{name}.added": partial(_part_added, listed) for name, listed in _PART_EVENTS.items()},
    **{f"{name}.done": partial(_part_done, listed) for name, listed in _PART_EVENTS.items()},
    **{f"response.{name}.delta": partial(_text_delta, text) for name, text in _TEXTS.items()},
    **{f"response.{name}.done": partial(_text_done, text) for name, text in _TEXTS.items()},
    "response.output_text.annotation.added": _annotation,
    **dict(_step_events()),
    **{f"response.shell_call_command.{step}": partial(_inside, "shell_call") for step in ("added", "delta", "done")},
    **{
        f"response.shell_call_output_content.{step}": partial(_inside, "shell_call_output")
        for step in ("delta", "done")
    },
    **{f"response.audio.{step}": _anywhere for step in ("delta", "done", "transcript.delta", "transcript.done")},
}


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_transcript(events: Sequence[_Object], *, after: int = -1, complete: bool = True) -> None:
    """Raises `TranscriptError` at the first event that breaks the grammar of a Responses stream.

    `after` is the `starting_after` of a resumed stream: what was opened before is not known then, and the rest is
    checked. `complete=False` lets it end without a terminal event, as the stream of a cancelled response does.
    """
    state = _State(resumed=after > -1, stage=0 if after > -1 else -1)
    for number, event in enumerate(events, after + 1):
        kind = event.get("type")
        try:
            _check_order(state, event, number)
            _EVENTS.get(str(kind), _anywhere)(state, event)
        except TranscriptError as breach:
            raise TranscriptError(f"event {number}, {kind}: {breach}") from None
    if complete and not state.ended and (events or after == -1):
        last = after + len(events)
        raise TranscriptError(
            f"after event {last}: a stream ends with completed, incomplete or failed; this one is cut"
        )


def _check_order(state: _State, event: _Object, number: int) -> None:
    kind, told = event.get("type"), event.get("sequence_number")
    _must(type(told) is int and told == number, f"sequence_number counts without a gap: {number}, not {told!r}")
    known = isinstance(kind, str) and (kind in _EVENTS or bool(_EXTENSION.fullmatch(kind)))
    _must(known, "an event of OpenAI's, or one called slug:name")
    _must(not state.ended, "the terminal event is the last one, and the only one")
    _must(state.stage > -1 or kind == "response.created", "the first event is response.created")
    _must(not state.error or kind == "response.failed", "an error is followed by response.failed")


def main(arguments: Sequence[str]) -> int:
    """`python -m backtalk.testing.transcript [FILE]`: what is wrong with a transcript, and 1; else 0."""
    try:
        events = read_transcript(Path(arguments[0]).read_bytes() if arguments else sys.stdin.buffer.read())
        check_transcript(events)
    except (TranscriptError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    items = sum(event["type"] == "response.output_item.added" for event in events)
    sys.stdout.write(f"ok: {len(events)} events, {items} items\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
