"""The bodies of tests/contract/test_transcripts.py, one for each kind of stream.

They are read out of its source: imported from here, its marks would be unknown.
"""

import ast
from pathlib import Path
from typing import Any

_CONTRACT = Path(__file__).parents[1] / "contract"


def _constants(file: str, known: dict[str, Any]) -> dict[str, Any]:
    """The module's constants that are made of literals and of constants before them."""
    found = dict(known)
    for node in ast.parse((_CONTRACT / file).read_text("utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        name = targets[0].id if targets and isinstance(targets[0], ast.Name) else ""
        if name in ("WEATHER", "SCHEMA", "ASK", "BODIES"):
            value: Any = node.value  # type: ignore[attr-defined]
            found[name] = eval(compile(ast.Expression(value), file, "eval"), {}, found)
    return found


BODIES: dict[str, tuple[dict[str, Any], str]] = _constants("test_transcripts.py", _constants("test_responses.py", {}))[
    "BODIES"
]
"""(body, status of its end) by name."""
STORED = {name: pair for name, pair in BODIES.items() if pair[0].get("store") is not False}
