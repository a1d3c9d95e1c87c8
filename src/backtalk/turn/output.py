"""A response's output as it grows: deltas of a model go in, numbered events come out. No I/O.

The grammar is the Responses stream's (one counter, items and parts opened before they are filled and closed after).
Items come one after another. A call ends when something else begins and its arguments are whole; where a server writes
several at once, the later ones wait for the first.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from backtalk.core.ids import new_id
from backtalk.domain.events import (
    AnnotationAdded,
    Deltas,
    Ended,
    Event,
    ItemAdded,
    ItemDone,
    Lifecycle,
    PartAdded,
    PartDone,
    Progress,
)
from backtalk.domain.items import CLIENT_CALLS, Item, Part, id_prefix, output_text, text_of
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
)

_SUMMARY = "reasoning_summary_text"
_KINDS: dict[type, tuple[str, str]] = {
    TextDelta: ("message", "output_text"),
    ScoredTextDelta: ("message", "output_text"),
    RefusalDelta: ("message", "refusal"),
    ReasoningDelta: ("reasoning", "reasoning_text"),
    SummaryDelta: ("reasoning", _SUMMARY),
}
_CALL_KINDS = {"function_call": "function_call_arguments", "custom_tool_call": "custom_tool_call_input"}


class ServerCall(msgspec.Struct):
    """A call of a tool that the server runs itself: gathered here, never shown as a function call."""

    call_id: str
    name: str
    arguments: str = ""


class _Open(msgspec.Struct):
    """An item that is being filled. `texts` are the pieces of the part that is open; without `kind` none is."""

    index: int
    item: Item
    kind: str = ""
    part_index: int = 0
    texts: list[str] = []
    annotations: list[dict[str, Any]] = []
    logprobs: list[list[dict[str, Any]]] = []
    length: int = 0
    summary: int = 0
    over: bool = False  # what the model says next is no part of it
    told: bool = False  # of a custom tool's call: its input went out

    @property
    def field(self) -> str:
        """Where its parts are kept."""
        return "summary" if self.kind == _SUMMARY else "content"

    def begin(self, kind: str) -> None:
        """Opens its next part of a kind."""
        self.kind, self.texts, self.annotations, self.logprobs, self.length = kind, [], [], [], 0
        self.part_index = len(self.item[self.field])


class Output:
    """The items of one response and the next sequence number.

    `server_tools` and `custom_tools` are names of tools that are no functions of the client's; `namespaces` gives
    (namespace, name) of functions by the name that the model calls them.
    """

    def __init__(
        self,
        *,
        server_tools: Collection[str] = (),
        custom_tools: Collection[str] = (),
        namespaces: Mapping[str, tuple[str, str]] | None = None,
        parallel: bool = True,
        seq: int = 0,
    ) -> None:
        self.items: list[Item] = []
        self.server_calls: dict[int, ServerCall] = {}
        self.finish: Finish | None = None
        self.seq = seq
        self.first_at: float | None = None  # when the model began to speak, by time.perf_counter()
        self._server_tools = server_tools
        self._custom_tools = custom_tools
        self._namespaces = namespaces or {}
        self._parallel = parallel
        self._text: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._called: set[int] = set()  # the model's indexes of calls that were opened in this step
        self._waiting: dict[int, list[ToolCallDelta]] = {}  # calls that are shown when the one that is open has ended
        self._later: list[Delta] = []  # what was said while a call was half written, shown when it has ended
        self._tools: list[int] = []  # output indexes of open items of tools that the server runs
        self._events: list[Event] = []

    # ── what the runner says ─────────────────────────────────────────────────────────────────────────────────────────

    def lifecycle(self, kind: str, status: str) -> list[Event]:
        """`response.created` and its like."""
        self._emit(Lifecycle(self.seq, kind, status))
        return self.take()

    def feed(self, deltas: Sequence[Delta]) -> list[Event]:
        """The events of what a model said in one read."""
        self._take_in(deltas)
        return self.take()

    def _take_in(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            kind = type(delta)
            if kind in _KINDS:
                self._add_text(delta, *_KINDS[kind])  # type: ignore[arg-type]  # they all have a text
            elif isinstance(delta, ToolCallDelta):
                self._add_call(delta)
            elif isinstance(delta, CitationDelta):
                self._cite(delta)
            elif isinstance(delta, SealedReasoning):
                self._seal(delta)
            elif isinstance(delta, Finish):
                self.finish = delta

    def close(self, status: str = "completed") -> list[Event]:
        """Ends whatever is open. Where the answer was cut off, what is last is `incomplete`, and what is not whole."""
        self._end_all_calls(status)
        later, self._later = self._later, []
        self._take_in(later)
        if self._text:
            self._close_text(status)
        for index in self._tools:
            self._finish_item(index, {**self.items[index], "status": status})
        self._tools.clear()
        return self.take()

    def _end_all_calls(self, status: str) -> None:
        self._end_calls(status)
        while self._waiting:
            self._open_waiting()
            self._end_calls(status)

    def _end_calls(self, status: str) -> None:
        for call in self._calls.values():
            last = self._is_last(call.index) and not (self._waiting or self._later)
            whole = not last and bool(call.texts) and _is_json("".join(call.texts))
            self._close_call(call, "completed" if whole else status)
        self._calls.clear()

    def _is_last(self, index: int) -> bool:
        return index == len(self.items) - 1

    def next_step(self) -> None:
        """The model is asked again: what it says and calls next is new."""
        if self._text:
            self._text.over = True
        self.server_calls.clear()
        self._called.clear()
        self.finish = None

    def start_tool(self, item: Item, *steps: str) -> int:
        """Opens the item of a tool that the server runs, and shows its steps. Returns its output index."""
        self._close_text("completed")
        index = self._add_item(item)
        self._tools.append(index)
        for step in steps:
            self.progress(index, step)
        return index

    def progress(self, index: int, step: str) -> None:
        """`response.file_search_call.searching` and its like."""
        item = self.items[index]
        self._emit(Progress(self.seq, f"response.{item['type']}.{step}", index, item["id"]))

    def finish_tool(self, index: int, item: Item) -> None:
        """Closes such an item with its final form."""
        self._tools.remove(index)
        self._finish_item(index, item)

    def end(self, kind: str) -> list[Event]:
        """The terminal event; an empty `kind` ends the log without one."""
        self._emit(Ended(self.seq, kind))
        return self.take()

    def take(self) -> list[Event]:
        """The events made since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def client_calls(self) -> bool:
        """Whether the client has to run a function before the talk goes on."""
        return any(item["type"] in CLIENT_CALLS for item in self.items)

    def wording(self, since: int = 0) -> str:
        """What the model wrote in the items from an index on, those that are open included."""
        open_ = [self._text, *self._calls.values()]
        texts = [text for item in open_ if item and item.index >= since for text in item.texts]
        texts += [delta.arguments for deltas in self._waiting.values() for delta in deltas]
        texts += [getattr(delta, "text", "") for delta in self._later]
        return "".join([*map(_written, self.items[since:]), *texts])

    # ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_text(self, delta: TextDelta | RefusalDelta | ReasoningDelta | SummaryDelta, item: str, kind: str) -> None:
        text = delta.text
        if not text:
            return
        open_ = self._text
        if open_ is None or open_.over or open_.kind != kind or (kind == _SUMMARY and open_.summary != delta.part):  # type: ignore[union-attr]
            if self._calls and self._is_early(delta):
                return
            open_ = self._open_text(item, kind)
            if type(delta) is SummaryDelta:
                open_.summary = delta.part
        open_.texts.append(text)
        open_.length += len(text)
        logprobs = None
        if type(delta) is ScoredTextDelta:
            logprobs = [list(delta.logprobs)]
            open_.logprobs += logprobs
        last = self._events[-1] if self._events else None
        same = type(last) is Deltas and last.item_id == open_.item["id"] and last.kind == kind
        if same and last.part_index == open_.part_index and last.logprobs is logprobs is None:  # type: ignore[union-attr]
            last.deltas.append(text)  # type: ignore[union-attr]
            self.seq += 1
        else:
            self._emit(Deltas(self.seq, kind, open_.index, open_.item["id"], open_.part_index, [text], logprobs))

    def _is_early(self, delta: Delta) -> bool:
        """Whether a call is half written, so that this has to wait for it."""
        self._advance()
        if self._calls:
            self._later.append(delta)
        return bool(self._calls)

    def _open_text(self, item_type: str, kind: str) -> _Open:
        """The next part, in the item that is open if it may hold it. A summary stands before the thinking itself."""
        open_ = self._text
        if open_ is not None and self._holds(open_, item_type, kind):
            self._close_part(open_)
        else:
            open_ = self._open_item(item_type)
        open_.begin(kind)
        self._emit(PartAdded(self.seq, open_.index, open_.item["id"], open_.part_index, _part(kind, "")))
        return open_

    @staticmethod
    def _holds(open_: _Open, item_type: str, kind: str) -> bool:
        """Whether a part of a kind may join an item: none stands behind a seal, no summary behind the thinking itself."""
        if open_.over or open_.item["type"] != item_type or open_.item.get("encrypted_content"):
            return False
        return kind != _SUMMARY or (not open_.item["content"] and open_.kind in ("", _SUMMARY))

    def _open_item(self, item_type: str) -> _Open:
        self._close_text("completed")
        item: Item = {"id": new_id(id_prefix(item_type)), "type": item_type, "status": "in_progress"}
        item |= {"role": "assistant", "content": []} if item_type == "message" else {"summary": [], "content": []}
        self._text = _Open(self._add_item(item), item)
        self._begun()
        return self._text

    def _close_part(self, open_: _Open) -> None:
        if not open_.kind:
            return
        part = _part(open_.kind, "".join(open_.texts), open_.annotations, open_.logprobs)
        open_.item = {**open_.item, open_.field: [*open_.item[open_.field], part]}
        self._emit(PartDone(self.seq, open_.index, open_.item["id"], open_.part_index, part))
        open_.kind = ""

    def _close_text(self, status: str) -> None:
        if self._text:
            self._close_part(self._text)
            self._finish_item(self._text.index, {**self._text.item, "status": status})
            self._text = None

    def _seal(self, delta: SealedReasoning) -> None:
        """Belongs to the thinking that is open, or is all that is told of it."""
        open_ = self._text
        if self._calls and self._is_early(delta):
            return
        if open_ is None or open_.over or open_.item["type"] != "reasoning" or open_.item.get("encrypted_content"):
            open_ = self._open_item("reasoning")
        self._close_part(open_)
        open_.item = {**open_.item, "encrypted_content": delta.data}

    def _cite(self, delta: CitationDelta) -> None:
        open_ = self._text
        if open_ is None or open_.over or open_.kind != "output_text":
            if self._later:
                self._later.append(delta)
            return
        annotation = {
            "type": "file_citation",
            "file_id": delta.file_id,
            "filename": delta.filename,
            "index": open_.length,
        }
        number = len(open_.annotations)
        open_.annotations.append(annotation)
        self._emit(AnnotationAdded(self.seq, open_.index, open_.item["id"], open_.part_index, number, annotation))

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add_call(self, delta: ToolCallDelta) -> None:
        if delta.index in self.server_calls:
            self.server_calls[delta.index].arguments += delta.arguments
        elif delta.index in self._calls:
            self._add_arguments(self._calls[delta.index], delta.arguments)
        elif delta.index in self._waiting:
            self._waiting[delta.index].append(delta)
        elif not delta.name or delta.index in self._called:
            return
        elif delta.name in self._server_tools:
            self.server_calls[delta.index] = ServerCall(delta.call_id or new_id("call"), delta.name, delta.arguments)
        elif self._parallel or not (self.client_calls or self._waiting):
            self._advance()
            if self._calls:  # a server that writes several at once: one after the other is shown
                self._waiting[delta.index] = [delta]
            else:
                self._open_call(delta, delta.name)

    def _advance(self) -> None:
        """Something else begins: a call that is whole ends, and the next one that waits begins."""
        while all(call.texts and _is_json("".join(call.texts)) for call in self._calls.values()):
            for call in self._calls.values():
                self._close_call(call, "completed")
            self._calls.clear()
            if not self._waiting:
                return
            self._open_waiting()

    def _open_waiting(self) -> None:
        first, *more = self._waiting.pop(next(iter(self._waiting)))
        self._open_call(first, first.name or "")
        for delta in more:
            self._add_arguments(self._calls[first.index], delta.arguments)

    def _open_call(self, delta: ToolCallDelta, name: str) -> None:
        self._close_text("completed")
        kind = "custom_tool_call" if name in self._custom_tools else "function_call"
        item: Item = {
            "id": new_id(id_prefix(kind)),
            "type": kind,
            "status": "in_progress",
            "call_id": self._call_id(delta.call_id),
            "name": name,
            CLIENT_CALLS[kind]: "",
        }
        if name in self._namespaces:
            item["namespace"], item["name"] = self._namespaces[name]
        self._called.add(delta.index)
        call = _Open(self._add_item(item), item, _CALL_KINDS[kind], texts=[])
        self._calls[delta.index] = call
        self._begun()
        self._add_arguments(call, delta.arguments)

    def _call_id(self, given: str | None) -> str:
        """The server's own, unless it has given it before."""
        used = any(item.get("call_id") == given for item in self.items)
        return given if given and not used else new_id("call")

    def _add_arguments(self, call: _Open, arguments: str) -> None:
        if not arguments:
            return
        call.texts.append(arguments)
        if call.item["type"] == "function_call":  # a custom tool's input is known when its JSON is whole
            self._emit(Deltas(self.seq, call.kind, call.index, call.item["id"], 0, [arguments]))

    def _close_call(self, call: _Open, status: str) -> None:
        written = "".join(call.texts)
        if call.item["type"] == "custom_tool_call" and not call.told:
            written = _input_of(written)
            if written or status == "completed":
                self._emit(Deltas(self.seq, call.kind, call.index, call.item["id"], 0, [written]))
        elif not written and status == "completed" and call.item["type"] == "function_call":
            written = "{}"
            self._add_arguments(call, written)
        self._finish_item(call.index, {**call.item, CLIENT_CALLS[call.item["type"]]: written, "status": status})

    # ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begun(self) -> None:
        """Once for an item, never for a token."""
        self.first_at = self.first_at or time.perf_counter()

    def _add_item(self, item: Item) -> int:
        self.items.append(item)
        self._emit(ItemAdded(self.seq, len(self.items) - 1, item))
        return len(self.items) - 1

    def _finish_item(self, index: int, item: Item) -> None:
        self.items[index] = item
        self._emit(ItemDone(self.seq, index, item))

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        self.seq += event.span

    # ── after a crash ────────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def replay(cls, events: Sequence[Event]) -> "Output":
        """The output as a log left it, with what was open still open, ready to be closed."""
        output = cls()
        for event in events:
            output._apply(event)
        return output

    def _apply(self, event: Event) -> None:
        self.seq = event.seq + event.span
        if isinstance(event, ItemAdded):
            self.items.append(event.item)
            self._reopen(event)
        elif isinstance(event, PartAdded) and self._text:
            kind = event.part["type"]
            self._text.begin(_SUMMARY if kind == "summary_text" else kind)
        elif isinstance(event, Deltas):
            self._opened(event.index).texts.extend(event.deltas)
            self._opened(event.index).logprobs.extend(event.logprobs or ())
            self._opened(event.index).told = event.kind == _CALL_KINDS["custom_tool_call"]
        elif isinstance(event, AnnotationAdded) and self._text:
            self._text.annotations.append(event.annotation)
        elif isinstance(event, PartDone) and self._text:
            field = self._text.field
            self._text.item = {**self._text.item, field: [*self._text.item[field], event.part]}
            self._text.kind = ""
        elif isinstance(event, ItemDone):
            self.items[event.index] = event.item
            self._forget(event.index)

    def _reopen(self, event: ItemAdded) -> None:
        kind = event.item["type"]
        if kind in ("message", "reasoning"):
            self._text = _Open(event.index, event.item)
        elif kind in _CALL_KINDS:
            self._calls[event.index] = _Open(event.index, event.item, _CALL_KINDS[kind], texts=[], logprobs=[])
        else:
            self._tools.append(event.index)

    def _opened(self, index: int) -> _Open:
        if self._text and self._text.index == index:
            return self._text
        return self._calls[index]

    def _forget(self, index: int) -> None:
        if self._text and self._text.index == index:
            self._text = None
        self._calls.pop(index, None)
        if index in self._tools:
            self._tools.remove(index)


def _written(item: Item) -> str:
    return text_of(item) + str(item.get(CLIENT_CALLS.get(item["type"], ""), ""))


def _part(
    kind: str,
    text: str,
    annotations: list[dict[str, Any]] | None = None,
    logprobs: Sequence[list[dict[str, Any]]] = (),
) -> Part:
    match kind:
        case "output_text":
            part = output_text(text, annotations)
            return {**part, "logprobs": [token for tokens in logprobs for token in tokens]} if logprobs else part
        case "refusal":
            return {"type": "refusal", "refusal": text}
    return {"type": "summary_text" if kind == _SUMMARY else kind, "text": text}


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _input_of(arguments: str) -> str:
    """What a custom tool is given: models that know functions only write it as `{"input": …}`."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return arguments
    found = value.get("input", arguments) if isinstance(value, dict) else arguments
    return found if isinstance(found, str) else arguments
