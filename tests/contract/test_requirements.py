"""The list of requirements, the tests and the page that shows them are views of one thing."""

import subprocess
import sys
from pathlib import Path

import pytest
from requirements import GROUPS, REQUIREMENTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
SCRIPT = ROOT / "scripts" / "conformance.py"


@pytest.mark.wire("E1")
def test_every_requirement_is_proved_and_every_test_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from conformance import proofs

    tests = proofs()
    assert [name for name, ids in tests.items() if not ids] == []
    proved = set().union(*tests.values())
    assert proved == set(REQUIREMENTS)
    assert sum(map(len, GROUPS.values())) == len(REQUIREMENTS), "an id stands in two groups"


@pytest.mark.wire("E1")
def test_the_page_is_up_to_date() -> None:
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True, timeout=60).stdout
    assert PAGE.read_text() == printed, "run `make docs`"
