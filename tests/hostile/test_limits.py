"""The limits on what one request may ask for: each is a clear 4xx, or a 503 that says when to come again."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from shape import KEYS

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
MESSAGE = {"role": "user", "content": "x"}
LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "129 tools": ("tools", {"input": "x", "tools": [{**TOOL, "name": f"f{i}"} for i in range(129)]}),
    "2,049 input items": ("input", {"input": [MESSAGE] * 2049}),
    "17 pairs of metadata": ("metadata", {"input": "x", "metadata": {str(i): "x" for i in range(17)}}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_more_than_one_request_may_hold(server: str, name: str) -> None:
    param, body = LIMITS[name]
    answer = httpx2.post(f"{server}/v1/responses", json={"model": "scripted", **body}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_as_much_as_one_request_may_hold(server: str) -> None:
    tools = [{**TOOL, "name": f"f{i}"} for i in range(128)]
    body = {"model": "scripted", "input": [MESSAGE] * 2048, "tools": tools}
    assert httpx2.post(f"{server}/v1/responses", json=body, timeout=60).status_code == 200


def test_more_runs_than_the_server_takes(tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False, max_runs=2), models=[ScriptedModel()])
    with serve(app) as url, httpx2.Client(base_url=url, timeout=30) as http:
        slow = {"model": "scripted", "input": "[[tokens:500]] [[pace:0.05]]", "background": True}
        running = [http.post("/v1/responses", json=slow).json()["id"] for _ in range(2)]
        refused = http.post("/v1/responses", json={"model": "scripted", "input": "x"})
        assert (refused.status_code, refused.json()["error"].keys()) == (503, KEYS)
        assert float(refused.headers["retry-after"]) > 0
        http.post(f"/v1/responses/{running[0]}/cancel")
        assert http.post("/v1/responses", json={"model": "scripted", "input": "x"}).json()["status"] == "completed"
        http.post(f"/v1/responses/{running[1]}/cancel")
