"""A model of your own is a class with `stream(prompt)`; it is listed and called as any other."""

from collections.abc import AsyncIterator, Sequence

from backtalk import Backtalk
from backtalk.domain.items import text_of
from backtalk.domain.model import Delta, Finish, Prompt, TextDelta


class Shout:
    """Answers in capitals."""

    id = "shout"

    async def stream(self, prompt: Prompt) -> AsyncIterator[Sequence[Delta]]:
        for word in text_of(prompt.items[-1]).upper().split():
            yield [TextDelta(word + " ")]
        yield [Finish()]


app = Backtalk(models=[Shout()])
