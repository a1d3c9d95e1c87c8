"""Answers of a model, and schemas that judge them, that would take for ever to look at: nobody else waits for them."""

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, Server, serve


def deep(levels: int) -> str:
    return '{"a":' * levels + "5" + "}" * levels


def two(inner: dict[str, Any]) -> dict[str, Any]:
    """Either of two ways to the same, so that what fits neither is tried both ways on each level."""
    kinds = ({"required": ["a"]}, {"minProperties": 1})
    return {"anyOf": [{"type": "object", "properties": {"a": inner}, **kind} for kind in kinds] + [{"type": "string"}]}


STEPS = {f"d{i}": two({"$ref": f"#/$defs/d{i + 1}"}) for i in range(50)}
SCHEMAS: dict[str, dict[str, Any]] = {
    "recursive": {"$ref": "#/$defs/n", "$defs": {"n": two({"$ref": "#/$defs/n"})}},
    "recursive at its root": {"type": "object", "properties": {"a": two({"$ref": "#"})}},
    "dynamic": {"$dynamicAnchor": "n", **two({"$dynamicRef": "#n"})},
    "of many steps": {"$ref": "#/$defs/d0", "$defs": {**STEPS, "d50": {"type": "string"}}},
}
ANSWERS = ["```" + "\n" * 20_000, "```json\n{" * 5000, "{" * 20_000, "[" * 20_000, "}{" * 10_000, "```" * 20_000]


@pytest.fixture(scope="module")
def model_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for a server of its own, which can be killed when it hangs: it says what the question says."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.py").write_text(
        "from backtalk.domain.model import Finish, TextDelta\n"
        "from backtalk.domain.items import text_of\n"
        "class Echo:\n"
        "    id = 'echo'\n"
        "    async def stream(self, prompt):\n"
        "        said = next(item for item in prompt.items if item.get('role') == 'user')\n"
        "        yield [TextDelta(text_of(said)), Finish()]\n"
    )
    return folder


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_that_branches_on_each_level_blocks_nobody(tmp_path: Path, model_script: Path, name: str) -> None:
    env = {"BACKTALK_MODELS": "echo:Echo", "PYTHONPATH": _with(model_script)}
    form = {"type": "json_schema", "name": "x", "schema": SCHEMAS[name]}
    server = Server(tmp_path, env)
    server.start().wait_ready()
    try:
        with httpx2.Client(base_url=f"{server.url}/v1", timeout=20) as http:
            body = {"model": "echo", "input": deep(45), "text": {"format": form}, "background": True}
            reply = http.post("/responses", json=body)
            assert reply.status_code in (200, 400), reply.text
            for _ in range(20):
                assert http.get("/models").status_code == 200
            if reply.status_code == 200:
                found = http.post(f"/responses/{reply.json()['id']}/cancel").json()
                assert found["status"] in ("failed", "cancelled")
            else:
                assert reply.json()["error"]["param"] == "text.format.schema"
    finally:
        server.kill()


def _with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda text: repr(text[:9]))
def test_an_answer_that_is_hard_to_read_is_read_soon(tmp_path: Path, answer: str) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel([answer] * 3, structured=False)])
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object", "required": ["a"]}}
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        reply = http.post("/responses", json={"input": "x", "text": {"format": form}})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "server_error")
        ok: str = json.dumps({"a": 1})
        assert http.post("/responses", json={"input": f"Say exactly: {ok}"}).status_code == 200
