"""A model whose one answer holds every kind of item that we emit, the same for every client at every time."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from backtalk.domain.items import Item
from backtalk.domain.model import (
    CitationDelta,
    Delta,
    Finish,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    ScoredTextDelta,
    SealedReasoning,
    SummaryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from backtalk.testing.replies import directives

KINDS = [
    "compaction",
    "reasoning",
    "file_search_call",
    "message",
    "function_call",
    "function_call",
    "custom_tool_call",
]
"""The items of an answer to `every_kind`."""
EVENTS = 56
"""How many it is told in, in the foreground."""


class EveryKind:
    """Obeys `[[pace:0.01]]` (seconds between deltas) and `[[cites:100]]` (so many words, each with a citation, more).

    Stateless, so that any number of runs can be compared: the talk alone tells which step it is at.
    """

    id = "every"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        told = directives(prompt)
        for delta in _step(prompt, int(told.get("cites", 0))):
            await asyncio.sleep(float(told.get("pace", 0)))
            yield [delta]


def _step(prompt: Prompt, cites: int) -> Iterator[Delta]:
    if not prompt.tools:  # a summary is asked for
        yield from (TextDelta("Ada likes "), TextDelta("harvests."))
    else:
        search = next((item for item in prompt.items if item["type"] == "file_search_call"), None)
        yield from _answer(search, cites) if search else _thoughts()
    yield Finish("stop", Usage(9, 5))


def _thoughts() -> Iterator[Delta]:
    yield from (SummaryDelta("They ask "), SummaryDelta("for points."), SummaryDelta("I search.", 1))
    yield from (ReasoningDelta("Points\n\n"), ReasoningDelta("data: [DONE]"), SealedReasoning("sealed"))
    yield ToolCallDelta(0, '{"queries": ["points of the Panthers"]}', "call_0", "file_search")


def _answer(search: Item, cites: int) -> Iterator[Delta]:
    found = search["results"][0]
    cited = CitationDelta(found["file_id"], found["filename"])
    yield from (_scored("It was 308"), _scored("\n\n"), cited, _scored(" 🏠."), cited)
    for _ in range(cites):
        yield from (_scored(" So."), cited)
    yield from (RefusalDelta("No "), RefusalDelta("more."))
    yield ToolCallDelta(1, '{"location":', "call_1", "get_weather")  # both are written at once
    yield ToolCallDelta(2, '{"location":"Rome"', "call_2", "get_weather")
    yield from (ToolCallDelta(1, '"Paris"}'), ToolCallDelta(2, "}"))
    yield from (ToolCallDelta(3, '{"input":', "call_3", "shell"), ToolCallDelta(3, '"ls'), ToolCallDelta(3, ' -l"}'))


def _scored(text: str) -> ScoredTextDelta:
    return ScoredTextDelta(text, ({"token": text, "bytes": list(text.encode()), "logprob": -0.1, "top_logprobs": []},))


_LONG = "The harvest was rich. " * 250
_WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


def every_kind(store: str, directive: str = "", **more: Any) -> dict[str, Any]:
    """The body of a turn whose answer has an item of every kind; `store` is a vector store with a file in it."""
    return {
        "model": EveryKind.id,
        "input": [{"role": "user", "content": _LONG}, {"role": "user", "content": f"{directive} How many?"}],
        "tools": [{"type": "file_search", "vector_store_ids": [store]}, _WEATHER, {"type": "custom", "name": "shell"}],
        "context_management": [{"type": "compaction", "compact_threshold": 1000}],
        "include": ["file_search_call.results", "message.output_text.logprobs", "reasoning.encrypted_content"],
        **more,
    }
