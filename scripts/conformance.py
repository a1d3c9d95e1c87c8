"""Prints docs/conformance.md: what we claim of the wire, and the tests that prove it. `make docs` writes it.

    python scripts/conformance.py

The claims are in tests/contract/requirements.py; a test names those that it proves: `@pytest.mark.wire("R1")`.
"""

import ast
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

CONTRACT = Path(__file__).parent.parent / "tests/contract"

_HEAD = """\
# Conformance

What clients of OpenAI's API may rely on here. Each line is proved by the tests named beside it, in
[tests/contract](../tests/contract), against a real server on a port, through OpenAI's official SDK or plain HTTP.
Whether a stream of any server keeps to the grammar is told by `python -m backtalk.testing.transcript`.

Where OpenAI's documents, its SDK and other servers disagree, or where we differ on purpose:

- An unknown `previous_response_id` is a 400 `previous_response_not_found`, not a 404.
- Cancelling a finished response is a 200 with the response as it is. A foreground response can be cancelled, too.
- The stream of a cancelled response ends with `[DONE]` after its last event, since the SDKs know no
  `response.cancelled`; reading the response shows `cancelled`.
- Every Responses stream ends with `data: [DONE]`.
- Unknown fields of a body are ignored; with `BACKTALK_STRICT=1` they are a 400 `unknown_parameter`.
- An `error` frame of a WebSocket has its fields twice: flat, as the SDK reads them, and under `error`.
- When a client leaves a foreground stream, the run stops, and what was said is kept as `incomplete`: `incomplete_details`
  is null, `backtalk.reason` tells why. A background run goes on.
- Every stored response can be resumed by `?stream=true&starting_after=`: foreground or background, live or finished.

This page is made from the tests by `make docs`.
"""


def proofs() -> dict[str, set[str]]:
    """The ids that each contract test names, by `file::test`."""
    found = {}
    for path in sorted(CONTRACT.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = set(_marked(node))
    return found


def _marked(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for mark in node.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.wire":
            yield from (arg.value for arg in mark.args if isinstance(arg, ast.Constant))


def page() -> str:
    """The page, in Markdown."""
    groups = runpy.run_path(str(CONTRACT / "requirements.py"))["GROUPS"]
    tests = proofs()
    return _HEAD + "".join(_table(title, claims, tests) for title, claims in groups.items())


def _table(title: str, claims: dict[str, str], tests: dict[str, set[str]]) -> str:
    rows = (_row(id_, claims[id_], tests) for id_ in sorted(claims, key=_place))
    return f"\n## {title}\n\n| id | what holds | proved by |\n|---|---|---|\n" + "".join(rows)


def _row(id_: str, claim: str, tests: dict[str, set[str]]) -> str:
    proved_by = "<br>".join(f"`{name}`" for name in sorted(tests) if id_ in tests[name])
    return f"| {id_} | {claim.replace('|', '&#124;')} | {proved_by} |\n"


def _place(id_: str) -> tuple[str, int]:
    """R2 before R10."""
    return id_.rstrip("0123456789"), int(id_.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


if __name__ == "__main__":
    sys.stdout.write(page())
