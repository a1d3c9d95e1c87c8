"""Text is cut at a stop sequence, wherever the reads fall, and the stream behind it is closed."""

import random
from collections.abc import AsyncGenerator, Sequence

import pytest

from backtalk.domain.model import Delta, Finish, ReasoningDelta, TextDelta, Usage
from backtalk.models.stops import cut


class Stream:
    def __init__(self, text: str, seed: int) -> None:
        self.text, self.chance, self.closed = text, random.Random(seed), False

    async def __call__(self) -> AsyncGenerator[Sequence[Delta], None]:
        try:
            rest = self.text
            yield [ReasoningDelta("hm")]
            while rest:
                size = self.chance.randrange(1, 5)
                yield [TextDelta(char) for char in (rest[:size], rest[size : size + 2]) if char]
                rest = rest[size + 2 :]
            yield [Finish("stop", Usage(1, 2))]
        finally:
            self.closed = True


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    ("text", "stops", "expected", "met"),
    [
        ("one STOP two", ["STOP"], "one ", "STOP"),
        ("aaab", ["aab"], "a", "aab"),
        ("a\n\nb", ["\n\n", "\n"], "a", "\n"),
        ("nothing here", ["STOP", "xyz"], "nothing here", None),
        ("ends with STO", ["STOP"], "ends with STO", None),
        ("STOP", ["STOP"], "", "STOP"),
    ],
)
async def test_text_ends_before_the_first_sequence(
    text: str, stops: list[str], expected: str, met: str | None, seed: int
) -> None:
    stream = Stream(text, seed)
    deltas = [delta async for read in cut(stream(), stops) for delta in read]
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == expected
    assert isinstance(deltas[0], ReasoningDelta)
    finish = deltas[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.stop_sequence) == ("stop", met)
    assert (finish.usage is None) == (met is not None)
    assert stream.closed
