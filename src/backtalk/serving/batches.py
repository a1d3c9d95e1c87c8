"""Texts of many requests in one call of the embedder.

An idle lane starts at once, and what comes while a batch runs forms the next one: a lone request never waits for company,
and batches grow with the load. No timer is needed.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from backtalk.core.errors import Overloaded
from backtalk.search.base import Embedder

if TYPE_CHECKING:
    from backtalk.search.base import Vectors

BATCH_TEXTS = 256
BATCH_CHARACTERS = 65_536
"""What one call of the embedder may take; a text that is longer than this goes alone."""
MOST_WAITING = 2**25
"""Characters that may wait in a lane. A text counts as `_LEAST` of them at least."""
_LEAST = 64


class Embedded(NamedTuple):
    """A row for each text, in their order, and the tokens of all."""

    vectors: "Vectors"
    tokens: int


class _Request:
    """Texts that are still to be embedded, and what the others became."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.left = deque(texts)
        self.parts: list[Embedded] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


_Batch: TypeAlias = Mapping[_Request, Sequence[str]]
_Outcome: TypeAlias = Embedded | Exception


class Batches:
    """The embedder as requests use it. Those of more than one batch have a lane of their own: none waits behind them."""

    def __init__(self, embedder: Embedder) -> None:
        self._small = _Lane(embedder)
        self._large = _Lane(embedder)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises what the embedder raises for these texts; Overloaded when too much is waiting already."""
        fits = len(texts) <= BATCH_TEXTS and sum(map(len, texts)) <= BATCH_CHARACTERS
        return await (self._small if fits else self._large).embed(texts)


class _Lane:
    """One batch after the other. A batch takes a text of each request in turn, so that no large one holds up the rest."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting: deque[_Request] = deque()
        self._size = 0
        self._running = False

    async def embed(self, texts: Sequence[str]) -> Embedded:
        request = self._admit(texts)
        self._start()
        try:
            await request.done
        finally:
            self._drop(request)
        return _joined(request.parts)

    def _admit(self, texts: Sequence[str]) -> _Request:
        size = _size(texts)
        if self._waiting and self._size + size > MOST_WAITING:
            raise Overloaded("Too many texts wait to be embedded here; try again in a moment.")
        request = _Request(texts)
        self._size += size
        self._waiting.append(request)
        return request

    def _drop(self, request: _Request) -> None:
        """Takes what is left of a request that has failed or whose client has gone."""
        if request.left:
            self._size -= _size(request.left)
            request.left.clear()
            self._waiting.remove(request)

    def _start(self) -> None:
        if self._running or not self._waiting:
            return
        self._running = True
        batch = self._take()
        call = asyncio.get_running_loop().run_in_executor(None, _embed_each, self._embedder, batch)
        call.add_done_callback(lambda ended: self._ended(batch, ended.result()))

    def _take(self) -> _Batch:
        """The next batch: a text of each request in turn, until it is full."""
        batch: defaultdict[_Request, list[str]] = defaultdict(list)
        texts = characters = 0
        while self._waiting and texts < BATCH_TEXTS:
            request = self._waiting[0]
            text = request.left[0]
            texts, characters = texts + 1, characters + len(text)
            if texts > 1 and characters > BATCH_CHARACTERS:
                break
            batch[request].append(request.left.popleft())
            self._size -= _size((text,))
            self._waiting.rotate(-1)
            if not request.left:
                self._waiting.pop()
        return batch

    def _ended(self, batch: _Batch, outcomes: Sequence[_Outcome]) -> None:
        self._running = False
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.done.done():
                continue
            if isinstance(outcome, Exception):
                self._drop(request)
                request.done.set_exception(outcome)
                continue
            request.parts.append(outcome)
            if not request.left:
                request.done.set_result(None)
        self._start()


def _size(texts: Sequence[str]) -> int:
    return sum(max(len(text), _LEAST) for text in texts)


def _embed_each(embedder: Embedder, batch: _Batch) -> list[_Outcome]:
    """On a thread: what became of each request's share. After a failure each is tried alone, to find whose it is."""
    shares = list(batch.values())
    try:
        return list(_embed(embedder, shares))
    except Exception as error:
        if len(shares) == 1:
            return [error]
    return [_alone(embedder, share) for share in shares]


def _alone(embedder: Embedder, share: Sequence[str]) -> _Outcome:
    try:
        return _embed(embedder, [share])[0]
    except Exception as error:
        return error


def _embed(embedder: Embedder, shares: Sequence[Sequence[str]]) -> list[Embedded]:
    import numpy as np  # noqa: PLC0415  # lazy: 0.1 s that an app without embeddings never pays

    texts = [text for share in shares for text in share]
    vectors = np.asarray(embedder.embed(texts), dtype=np.float32)
    tokens = embedder.count_tokens(texts)
    if not len(vectors) == len(tokens) == len(texts):
        raise ValueError(f"The embedder '{embedder.name}' gave {len(vectors)} vectors for {len(texts)} texts.")
    found, at = [], 0
    for share in shares:
        end = at + len(share)
        found.append(Embedded(vectors[at:end], sum(tokens[at:end])))
        at = end
    return found


def _joined(parts: Sequence[Embedded]) -> Embedded:
    if len(parts) == 1:
        return parts[0]
    import numpy as np  # noqa: PLC0415  # lazy: see above

    return Embedded(np.concatenate([part.vectors for part in parts]), sum(part.tokens for part in parts))
