"""Events: what happens in a response, in the compact form that the log keeps.

One struct here may stand for several events on the wire (`span`), each with its own sequence number: a run of deltas
that came in one network read, or a part's closing pair. What goes out is rendered from them by pure functions, so a
replay is byte-equal to the first delivery.
"""

from typing import Any, TypeAlias

import msgspec

from backtalk.domain.items import CLIENT_CALLS, Item, Part


class _Event(msgspec.Struct, array_like=True, tag_field="tag"):
    seq: int

    @property
    def span(self) -> int:
        """How many sequence numbers it takes, from `seq` on."""
        return 1


class Lifecycle(_Event, tag="L"):
    """`response.created`, `.queued` or `.in_progress`: carries the whole Response as it was then."""

    type: str
    status: str


class ItemAdded(_Event, tag="A"):
    index: int
    item: Item


class PartAdded(_Event, tag="P"):
    index: int
    item_id: str
    part_index: int
    part: Part


class Deltas(_Event, tag="D"):
    """Text of one kind, a string for each event.

    Kinds: `output_text`, `refusal`, `reasoning_text`, `reasoning_summary_text`, `function_call_arguments`,
    `custom_tool_call_input`. `logprobs`, where they were asked for, are a list of tokens for each string.
    """

    kind: str
    index: int
    item_id: str
    part_index: int
    deltas: list[str]
    logprobs: list[list[dict[str, Any]]] | None = None

    @property
    def span(self) -> int:
        return len(self.deltas)


class AnnotationAdded(_Event, tag="N"):
    index: int
    item_id: str
    part_index: int
    annotation_index: int
    annotation: dict[str, Any]


class PartDone(_Event, tag="Q"):
    """Two events: `.done` of the text, `content_part.done` (a summary's: `reasoning_summary_part.done`)."""

    index: int
    item_id: str
    part_index: int
    part: Part

    @property
    def span(self) -> int:
        return 2


class ItemDone(_Event, tag="Z"):
    """`output_item.done`; before that of a client's call, `function_call_arguments.done` or its like."""

    index: int
    item: Item

    @property
    def span(self) -> int:
        return 2 if self.item.get("type") in CLIENT_CALLS else 1


class Progress(_Event, tag="O"):
    """A step of a tool that the server runs: `response.file_search_call.searching` and the like."""

    type: str
    index: int
    item_id: str


class Ended(_Event, tag="E"):
    """The end: `response.completed`, `.incomplete` or `.failed` with the whole Response; or, for a cancelled response,
    the end without an event (`type` is empty: the SDKs know no `response.cancelled`)."""

    type: str

    @property
    def span(self) -> int:
        return 1 if self.type else 0


Event: TypeAlias = Lifecycle | ItemAdded | PartAdded | Deltas | AnnotationAdded | PartDone | ItemDone | Progress | Ended

TERMINAL = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
"""The event that ends a response, by its status. `cancelled` has none."""
