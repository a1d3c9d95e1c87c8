"""How one model server fares: how many calls it has, whether it may be tried again, and whether it is worth trying at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import msgspec

from backtalk.core.clock import monotonic, now
from backtalk.core.errors import BacktalkError, Overloaded, UpstreamError

FAILURES = 5
"""So many in a row open the circuit: calls fail at once, but for one each `COOLING` seconds that tries."""
COOLING = 10.0
WAIT_SECONDS = 10.0
"""How long a call waits for its turn at a server that takes only so many."""
_SHARE = 0.1
_SPARE = 10.0
"""Retries are a tenth of the calls; ten may be saved up, so that a quiet server's few failures are retried."""


class Report(msgspec.Struct, frozen=True):
    """What is known of a server. `state`: unknown (never called), up, failing, down (its circuit is open)."""

    state: str
    in_flight: int
    failures: int
    last_error: str | None
    last_error_at: int | None


class Health:
    """The state that all calls to one server share. `most` is how many it takes at once; None is any number."""

    def __init__(self, name: str, most: int | None = None) -> None:
        self._name = name
        self._places = asyncio.Semaphore(most) if most else None
        self._in_flight = 0
        self._failures = 0
        self._heard = 0  # how often it was found to answer, or not to
        self._open_until = 0.0
        self._spare = _SPARE
        self._error: tuple[str, int] | None = None

    def report(self) -> Report:
        down = self._failures >= FAILURES
        state = "down" if down else "failing" if self._failures else "up" if self._heard else "unknown"
        error, at = self._error or (None, None)
        return Report(state, self._in_flight, self._failures, error, at)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call, its retries included. Raises UpstreamError while the circuit is open, Overloaded when the
        server's places stay taken."""
        self._check()
        await self._enter()
        try:
            self._check()  # again: it may have gone down while this one waited
            with self._counted():
                yield
        finally:
            if self._places:
                self._places.release()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """A call that goes out. While the circuit is open it is the one that tries: others wait for what it finds."""
        tries, heard = self._failures >= FAILURES, self._heard
        if tries:
            self._open_until = monotonic() + COOLING
        self._in_flight += 1
        self._spare = min(_SPARE, self._spare + _SHARE)
        try:
            yield
        finally:
            self._in_flight -= 1
            if tries and heard == self._heard:  # its client had left or was wrong: the next one tries
                self._open_until = 0.0

    def may_retry(self) -> bool:
        """Takes a retry out of the budget, if there is one left. None is spent on a server that is down."""
        if self._failures >= FAILURES or self._spare < 1:
            return False
        self._spare -= 1
        return True

    def succeeded(self) -> None:
        """It began to answer."""
        self._heard += 1
        self._failures, self._open_until = 0, 0.0

    def failed(self, error: BacktalkError) -> None:
        """It refused, or broke off. What a client did wrong is no failure of the server's."""
        if error.status < 500:
            return
        self._heard += 1
        self._failures += 1
        self._error = (error.message[:300], now())
        if self._failures >= FAILURES:
            self._open_until = monotonic() + COOLING

    def _check(self) -> None:
        if self._failures < FAILURES:
            return
        left = self._open_until - monotonic()
        if left > 0:
            wait = max(1, round(left))
            raise UpstreamError(
                f"The model server '{self._name}' has failed {self._failures} times in a row and is given a rest of "
                f"{wait} s. The last time: {self._error[0] if self._error else 'unknown'}",
                reason="upstream_unavailable",
                status=503,
                headers={"retry-after": str(wait), "retry-after-ms": str(round(left * 1000))},
            )

    async def _enter(self) -> None:
        if self._places is None:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(
                f"The model server '{self._name}' has as many calls as it takes; try again in a moment.",
                retry_after=2.0,
            ) from None
