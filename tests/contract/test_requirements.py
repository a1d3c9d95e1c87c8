"""The list of requirements and the tests are two views of one thing."""

import ast
from pathlib import Path

import pytest
from requirements import REQUIREMENTS

HERE = Path(__file__).parent


def named() -> dict[str, set[str]]:
    """The requirement ids that each test function names."""
    found = {}
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = set(marked(node))
    return found


def marked(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    calls = [
        mark
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.wire"
    ]
    return [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]


@pytest.mark.wire("E1")
def test_every_requirement_is_proved_and_every_test_names_one() -> None:
    tests = named()
    assert [name for name, ids in tests.items() if not ids] == []
    proved = set().union(*tests.values())
    assert proved == set(REQUIREMENTS)
