"""Identifiers: a conventional prefix, the time in milliseconds, 80 random bits.

The time comes first so that new rows land side by side in a B-tree; nothing reads it back, and nothing is ordered by it.
"""

import secrets
import time


def new_id(prefix: str, separator: str = "_") -> str:
    """A fresh id such as `resp_019a3c5d7e1f…`: unguessable, never reused."""
    return f"{prefix}{separator}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
