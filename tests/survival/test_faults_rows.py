"""Each row of the fault matrix names tests that there are, and every test of a row is named."""

import ast
from pathlib import Path

import pytest
from rows import ROWS

TESTS = Path(__file__).parents[1]
DUE = [*range(1, 19), *range(22, 26), *range(29, 33)]


def names_in(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, kinds)}


def test_every_row_that_is_due_is_there() -> None:
    assert sorted(ROWS) == DUE
    assert all(ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_exist(row: int) -> None:
    for name in ROWS[row]:
        file, _, test = name.partition("::")
        assert test.startswith("test_") and test in names_in(TESTS / file), name


def test_no_test_of_a_row_is_forgotten() -> None:
    named = {name.partition("::")[2] for names in ROWS.values() for name in names}
    for path in Path(__file__).parent.glob("test_faults_*.py"):
        for test in names_in(path):
            if test.startswith("test_row_") and test != "test_row_10_what_is_untouched_is_read":
                assert test in named, f"{path.name}::{test}"
                assert f"/{path.name}::{test}" in "".join(ROWS[int(test[9:11])]), "it stands under another row"
