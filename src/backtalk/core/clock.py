"""Wall time for what people read, monotonic time for what machines measure."""

import time

monotonic = time.monotonic


def now() -> int:
    """The wall clock as Unix seconds: the only unit of time on the wire."""
    return int(time.time())
