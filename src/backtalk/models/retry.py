"""When to call a model server again: only before its first token, at most twice, and no longer than a client waits."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from backtalk.core.clock import monotonic, now
from backtalk.core.errors import BacktalkError

RETRIES = 2
PATIENCE = 10.0
"""Seconds after the first try in which the last one may start."""
_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 529})


class Again(Exception):  # a signal to the loop that tries, never seen outside
    """A try that failed in a way that may pass. `after` is the wait in seconds that the server asked for."""

    def __init__(self, error: BacktalkError, after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


class Tries:
    """Counts the tries of one call."""

    def __init__(self) -> None:
        self._left = RETRIES
        self._until = monotonic() + PATIENCE

    def wait(self, after: float | None = None) -> float | None:
        """Seconds until the next try, or None when there should be none."""
        if not self._left:
            return None
        self._left -= 1
        backoff = 0.25 * 2 ** (RETRIES - self._left) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter is no secret
        wait = backoff if after is None else after
        return wait if monotonic() + wait <= self._until else None


def may_pass(status: int) -> bool:
    """Whether an answer of this status may be better next time."""
    return status in _STATUSES


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds that `retry-after-ms` or `retry-after` (seconds or an HTTP date) asks for."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None or (seconds := _number(value)) is not None:
        return None if value is None else seconds
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now(), UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None
