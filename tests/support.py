"""Small things that many tests need."""

import os
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")


def lacking(reason: str) -> NoReturn:
    """Skips a test for what this machine lacks. In CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {reason}")
    pytest.skip(reason)


def until(check: Callable[[], T], timeout: float = 40) -> T:
    """Waits for something that must come true, and returns it."""
    deadline = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return found
