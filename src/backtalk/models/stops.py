"""Stop sequences for servers whose wire has none: the text is cut here, and the server is left."""

import contextlib
from collections.abc import AsyncGenerator, Sequence

from backtalk.domain.model import Delta, Finish, ScoredTextDelta, TextDelta


async def cut(
    stream: AsyncGenerator[Sequence[Delta], None], stops: Sequence[str]
) -> AsyncGenerator[Sequence[Delta], None]:
    """The deltas up to the first of the sequences. What may be its beginning is held back until that is known."""
    longest = max(map(len, stops), default=0)
    held = ""
    async with contextlib.aclosing(stream):
        async for deltas in stream:
            shown: list[Delta] = []
            for delta in deltas:
                if not isinstance(delta, TextDelta):
                    if held:
                        shown.append(TextDelta(held))
                        held = ""
                    shown.append(delta)
                    continue
                text = held + delta.text
                if found := _first(text, stops):
                    at, stop = found
                    yield [*shown, *([TextDelta(text[:at])] if at else []), Finish("stop", stop_sequence=stop)]
                    return
                keep = _beginning(text, stops, longest)
                if not held and not keep and isinstance(delta, ScoredTextDelta):
                    shown.append(delta)
                elif len(text) > keep:
                    shown.append(TextDelta(text[: len(text) - keep]))
                held = text[len(text) - keep :]
            if shown:
                yield shown


def _first(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """(position, sequence) of the first that is in a text."""
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    return min(found) if found else None


def _beginning(text: str, stops: Sequence[str], longest: int) -> int:
    """How many characters at the end of a text may begin one of the sequences."""
    for size in range(min(longest - 1, len(text)), 0, -1):
        end = text[-size:]
        if any(stop.startswith(end) for stop in stops):
            return size
    return 0
