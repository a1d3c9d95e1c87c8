"""A strict server refuses what nobody knows, and takes all that the official SDK can send."""

import inspect
import typing
from pathlib import Path
from typing import Any

import httpx2
from openai.resources.responses import Responses
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, serve

NOT_IN_BODIES = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def test_a_strict_server_takes_every_parameter_of_the_sdk(tmp_path: Path) -> None:
    names = {*inspect.signature(Responses.create).parameters} - NOT_IN_BODIES
    assert typing.get_type_hints(ResponseCreateParamsNonStreaming).keys() <= names
    assert len(names) > 25
    app = Backtalk(Settings(home=tmp_path, discover=False, strict=True), models=[ScriptedModel()])
    with serve(app) as url, httpx2.Client(base_url=f"{url}/v1", timeout=30) as http:
        for name in sorted(names - {"input"}):
            body: dict[str, Any] = {"input": "Hello", name: None}
            reply = http.post("/responses", json=body)
            assert reply.status_code == 200, (name, reply.text)
        reply = http.post("/responses", json={"input": "Hello", "inptu": "x"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "inptu")
