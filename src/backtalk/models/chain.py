"""Several models under one name: the next is asked when the one before it cannot answer."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

import msgspec

from backtalk.core.errors import BacktalkError, FormatRefused, InvalidRequest
from backtalk.domain.model import Delta, Finish, Model, Prompt

log = logging.getLogger("backtalk.models")


class Link(NamedTuple):
    """A model and the name that it goes by where it runs."""

    id: str
    model: Model
    name: str


class Chain:
    """A model that hands a prompt on to the first of its links that begins to answer.

    What a client did wrong is told by the first; once one has begun, nothing is begun anew elsewhere.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self.structured = all(getattr(link.model, "structured", False) for link in links)
        self.files = all(getattr(link.model, "files", False) for link in links)
        self.writes = all(getattr(link.model, "writes", True) for link in links)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        """As `Model.stream`."""
        *first, last = self._links
        for link in first:
            begun = False
            try:
                async with contextlib.aclosing(_asked(link, prompt)) as stream:
                    async for deltas in stream:
                        begun = True
                        yield deltas
                return
            except BacktalkError as error:
                if begun or _is_final(error):
                    raise
                log.warning("%s cannot answer, the next one is asked: %s", link.id, error)
        async with contextlib.aclosing(_asked(last, prompt)) as stream:
            async for deltas in stream:
                yield deltas


async def _asked(link: Link, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
    """A generator of its own, so that what is raised by the call itself is raised where it is read."""
    async with contextlib.aclosing(  # type: ignore[type-var]  # async generators have it
        link.model.stream(msgspec.structs.replace(prompt, model=link.name))
    ) as stream:
        async for deltas in stream:
            if deltas and type(deltas[-1]) is Finish:
                deltas = [*deltas[:-1], msgspec.structs.replace(deltas[-1], model=link.id)]
            yield deltas


def _is_final(error: BacktalkError) -> bool:
    """Whether another model would meet the same: a prompt that is too long for one may fit into the next."""
    if isinstance(error, FormatRefused):
        return True
    return isinstance(error, InvalidRequest) and error.code != "context_length_exceeded"
