"""The live end of one log: the newest events in memory, and the readers that wait for more."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from backtalk.domain.events import Deltas, Ended, Event

RING_EVENTS = 2048


class Channel:
    """A bounded ring of events. A reader is a cursor: one that falls off the ring goes on in the database.

    `keep_all` makes the ring unbounded, for a log that has no database behind it.
    """

    def __init__(self, *, keep_all: bool = False) -> None:
        self._ring: deque[Event] = deque(maxlen=None if keep_all else RING_EVENTS)
        self._count = 0  # events ever published; the ring holds the last len(ring) of them
        self._waiters: list[asyncio.Future[None]] = []
        self._tails: list[Tail] = []
        self.closed = False

    @property
    def begun(self) -> bool:
        """Whether anything was ever published."""
        return self._count > 0

    def whole(self) -> list[Event] | None:
        """All that was ever published; None when some of it has left the ring."""
        return list(self._ring) if self._count == len(self._ring) else None

    def publish(self, events: Sequence[Event]) -> None:
        """Adds events that are durable, and wakes the readers."""
        if not events:  # a commit that wrote something else
            return
        self._ring.extend(events)
        self._count += len(events)
        if type(events[-1]) is Ended:
            self.closed = True
        for tail in self._tails[:]:
            tail.offer(events)
        if self._waiters:
            self._wake()

    def close(self) -> None:
        """No more will come from this process (it ended, or another one took the run over)."""
        self.closed = True
        for tail in self._tails[:]:
            tail.stop()
        self._wake()

    def attach(self, tail: "Tail") -> None:
        self._tails.append(tail)

    def detach(self, tail: "Tail") -> None:
        if tail in self._tails:
            self._tails.remove(tail)

    def position(self, after: int) -> int | None:
        """Where a reader that has seen up to sequence number `after` starts; None when that has left the ring."""
        index = self._count
        for event in reversed(self._ring):
            if event.seq + event.span - 1 <= after and type(event) is not Ended:
                return index
            index -= 1
        return 0 if index == 0 else None

    def since(self, position: int) -> list[Event] | None:
        """Events from `position` on; None when some of them have left the ring."""
        start = position - (self._count - len(self._ring))
        if start < 0:
            return None
        return [self._ring[i] for i in range(start, len(self._ring))]

    def wait(self) -> "asyncio.Future[None]":
        """Done when something more was published or the channel was closed; ask `closed` before."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():  # else its reader was cancelled
                waiter.set_result(None)


class Tail:
    """The live end of a channel, for a reader that has read up to `position`."""

    def __init__(self, channel: Channel, position: int) -> None:
        self.position = position
        self.last: Event | None = None
        """The last event that was handed on."""
        self._channel = channel
        self._take: Callable[[Sequence[Event]], bool]
        self._stopped: asyncio.Future[None]

    async def wait(self) -> None:
        """Returns when there is more to read."""
        await self._channel.wait()

    async def feed(self, take: Callable[[Sequence[Event]], bool]) -> None:
        """Hands each batch on in the moment in which it is published: no task of the reader's has to wake for it.

        Returns when `take` has returned False, at the end, which is not handed on, or when the channel was closed.
        """
        self._take = take
        self._stopped = asyncio.get_running_loop().create_future()
        self._channel.attach(self)
        try:
            await self._stopped
        finally:
            self._channel.detach(self)

    def offer(self, events: Sequence[Event]) -> None:
        if type(events[-1]) is Ended:
            self.stop()
            return
        self.position += len(events)
        self.last = events[-1]
        if not self._take(events):
            self.stop()

    def stop(self) -> None:
        self._channel.detach(self)
        if not self._stopped.done():
            self._stopped.set_result(None)


def clip(events: Sequence[Event], after: int) -> list[Event]:
    """The events above sequence number `after`, each once, the end mark included. A run of deltas is cut where `after`
    falls. Some may be there twice: a commit whose answer was lost on its way from the database is done again."""
    clipped: list[Event] = []
    for event in events:
        last = event.seq + event.span - 1
        if type(event) is Deltas and event.seq <= after < last:
            seen = after + 1 - event.seq
            logprobs = event.logprobs and event.logprobs[seen:]
            rest = msgspec.structs.replace(event, seq=after + 1, deltas=event.deltas[seen:], logprobs=logprobs)
            clipped.append(rest)
        elif last > after or (type(event) is Ended and type(clipped[-1] if clipped else None) is not Ended):
            clipped.append(event)
        after = max(after, last)
    return clipped


def join(events: list[Event], more: Sequence[Event]) -> None:
    """Appends `more` to events that nobody has seen yet; deltas that go on with the last run become part of it."""
    first, last = more[0] if more else None, events[-1] if events else None
    if type(first) is Deltas and type(last) is Deltas and _same_run(last, first):
        _extend(last, first)
        more = more[1:]
    events.extend(more)


def merge(events: Sequence[Event]) -> list[Event]:
    """The same events in fewer structs: neighbouring runs of deltas become one. The wire form does not change."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if type(event) is not Deltas:
            merged.append(event)
        elif type(last) is Deltas and _same_run(last, event):
            _extend(last, event)
        else:  # a copy, for readers may still hold the original
            merged.append(
                msgspec.structs.replace(event, deltas=event.deltas[:], logprobs=event.logprobs and event.logprobs[:])
            )
    return merged


def _extend(run: Deltas, more: Deltas) -> None:
    run.deltas.extend(more.deltas)
    if run.logprobs is not None:
        run.logprobs.extend(more.logprobs or ())


def _same_run(last: Deltas, event: Deltas) -> bool:
    if (last.logprobs is None) != (event.logprobs is None):
        return False
    return (last.kind, last.item_id, last.part_index) == (event.kind, event.item_id, event.part_index)
