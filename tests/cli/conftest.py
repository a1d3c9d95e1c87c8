"""What the tests of the command line share."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import Run, environment


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `backtalk` with these words; `typed` is its stdin."""

    def call(*words: str, typed: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "backtalk", *words],
            cwd=tmp_path,
            env=environment(tmp_path, **changes),
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call
