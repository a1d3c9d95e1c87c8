"""The `backtalk` command as a user types it: in a process of its own, from an empty folder."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path, **changes: str) -> dict[str, str]:
    """Nothing of the machine's own settings comes in."""
    foreign = ("BACKTALK_", "OPENAI_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, "BACKTALK_HOME": str(home / "home"), "BACKTALK_DISCOVER": "false", **changes}


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a mistake tells: one line on stderr, no traceback."""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("backtalk: ")
    return result.stderr
