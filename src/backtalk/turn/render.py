"""Events as the Responses API's stream. Pure functions: the same events give the same bytes, today or tomorrow."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec

from backtalk.core.errors import NotFound
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
from backtalk.domain.items import CLIENT_CALLS, Part, present
from backtalk.events import Tail
from backtalk.http.sse import DONE, Chunks, Write
from backtalk.turn.response import State, assemble

_encode = msgspec.json.Encoder().encode
_UNENDED = State()
Head = dict[str, Any]


Following = AsyncGenerator[list[Event] | Tail, None]


def event_stream(
    following: Following,
    head: Head,
    final: Callable[[], Awaitable[State]],
    *,
    after: int = -1,
    include: Collection[str] = (),
) -> Chunks:
    """Server-sent events with sequence numbers above `after`: one chunk of whole frames for each batch, then [DONE]."""
    return rendered(following, final, lambda events, state: frames(events, head, state, after, include))


async def rendered(
    following: Following,
    final: Callable[[], Awaitable[State]],
    render: Callable[[Sequence[Event], State], bytes],
    end: bytes = DONE,
) -> Chunks:
    """What `render` makes of each batch of events, then `end`. Live events go from the log to the line in one step."""

    def live(tail: Tail, write: Write) -> Awaitable[None]:
        def take(events: Sequence[Event]) -> bool:
            chunk = render(events, _UNENDED)
            return write(chunk) if chunk else True

        return tail.feed(take)

    try:
        async for events in following:
            if isinstance(events, Tail):
                yield partial(live, events)
                continue
            state = await final() if type(events[-1]) is Ended else _UNENDED
            if chunk := render(events, state):
                yield chunk
    except NotFound:
        pass  # it was deleted meanwhile
    finally:
        await following.aclose()
    if end:
        yield end


def objects(
    events: Sequence[Event], head: Head, state: State, include: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """The same events as dicts, for who reads them in Python."""
    for event in events:
        if type(event) is Deltas:
            place = {"item_id": event.item_id, "output_index": event.index, **_position(event.kind, event.part_index)}
            scoring = event.kind == "output_text"
            for number, delta in enumerate(event.deltas):
                scored = {"logprobs": event.logprobs[number] if event.logprobs else []} if scoring else {}
                numbered = {"type": f"response.{event.kind}.delta", "sequence_number": event.seq + number}
                yield {**numbered, **place, "delta": delta, **scored}
        else:
            for seq, kind, data in _expand(event, head, state, include):
                yield {"type": kind, "sequence_number": seq, **data}


def frames(events: Sequence[Event], head: Head, state: State, after: int, include: Collection[str]) -> bytes:
    """The frames of some events. `state` is the final one, needed where they hold the end."""
    out: list[bytes] = []
    for event in events:
        if type(event) is Deltas:
            _deltas(event, after, out)
            continue
        for seq, kind, data in _expand(event, head, state, include):
            if seq > after:
                out.append(_frame(kind, data, seq))
    return b"".join(out)


def _frame(kind: str, data: dict[str, Any], seq: int) -> bytes:
    body = _encode({"type": kind, "sequence_number": seq, **data})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)


def _deltas(event: Deltas, after: int, out: list[bytes]) -> None:
    """The token path: everything but the delta and its number is made once for its part."""
    begin, end = _around(event.kind, event.item_id, event.index, event.part_index)
    for seq, delta in enumerate(event.deltas, event.seq):
        if seq > after:
            out += (begin, _encode(delta), end, b"%d}\n\n" % seq)
            if event.logprobs:
                out[-2] = b',"logprobs":%b,"sequence_number":' % _encode(event.logprobs[seq - event.seq])


@lru_cache(maxsize=4096)
def _around(kind: str, item_id: str, index: int, part_index: int) -> tuple[bytes, bytes]:
    """What stands before and behind each delta of a part."""
    name = kind.encode()
    position = b"".join(b'"%b":%d,' % (key.encode(), value) for key, value in _position(kind, part_index).items())
    begin = (
        b'event: response.%b.delta\ndata: {"type":"response.%b.delta","item_id":"%b","output_index":%d,%b"delta":'
        % (name, name, item_id.encode(), index, position)
    )
    return begin, b',"logprobs":[],"sequence_number":' if kind == "output_text" else b',"sequence_number":'


def _position(kind: str, part_index: int) -> dict[str, int]:
    """Where in its item a part is; what a call is given is no part of anything."""
    if kind in ("function_call_arguments", "custom_tool_call_input"):
        return {}
    return {"summary_index" if kind == "reasoning_summary_text" else "content_index": part_index}


def _expand(event: Event, head: Head, state: State, include: Collection[str]) -> list[tuple[int, str, dict[str, Any]]]:
    """(sequence number, type, fields) of each wire event that a struct stands for."""
    seq = event.seq
    if isinstance(event, Lifecycle):
        return [(seq, event.type, {"response": assemble(head, State(status=event.status))})]
    if isinstance(event, ItemAdded):
        return [(seq, "response.output_item.added", {"output_index": event.index, "item": event.item})]
    if isinstance(event, ItemDone):
        return _item_done(event, include)
    if isinstance(event, PartAdded):
        return [(seq, f"response.{_part_name(event.part)}.added", _part_place(event) | {"part": event.part})]
    if isinstance(event, PartDone):
        return _part_done(event)
    if isinstance(event, AnnotationAdded):
        fields = {"annotation_index": event.annotation_index, "annotation": event.annotation}
        place = {"item_id": event.item_id, "output_index": event.index, "content_index": event.part_index}
        return [(seq, "response.output_text.annotation.added", place | fields)]
    if isinstance(event, Progress):
        return [(seq, event.type, {"output_index": event.index, "item_id": event.item_id})]
    if isinstance(event, Ended) and event.type:
        return [(seq, event.type, {"response": assemble(head, state, include)})]
    return []


def _item_done(event: ItemDone, include: Collection[str]) -> list[tuple[int, str, dict[str, Any]]]:
    item = present(event.item, include)
    done = (event.seq + event.span - 1, "response.output_item.done", {"output_index": event.index, "item": item})
    field = CLIENT_CALLS.get(item["type"])
    if field is None:
        return [done]
    whole = {"item_id": item["id"], "output_index": event.index, field: item[field]}
    if field == "arguments":
        whole["name"] = item["name"]
    return [(event.seq, f"response.{item['type']}_{field}.done", whole), done]


def _part_done(event: PartDone) -> list[tuple[int, str, dict[str, Any]]]:
    place, kind = _part_place(event), event.part["type"]
    field = "refusal" if kind == "refusal" else "text"
    text = place | {field: event.part[field]} | ({"logprobs": event.part["logprobs"]} if kind == "output_text" else {})
    name = "reasoning_summary_text" if kind == "summary_text" else kind
    return [
        (event.seq, f"response.{name}.done", text),
        (event.seq + 1, f"response.{_part_name(event.part)}.done", place | {"part": event.part}),
    ]


def _part_name(part: Part) -> str:
    return "reasoning_summary_part" if part["type"] == "summary_text" else "content_part"


def _part_place(event: PartAdded | PartDone) -> dict[str, Any]:
    index = "summary_index" if event.part["type"] == "summary_text" else "content_index"
    return {"item_id": event.item_id, "output_index": event.index, index: event.part_index}
