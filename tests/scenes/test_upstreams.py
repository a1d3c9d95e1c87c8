"""A real model server behind us: a second Backtalk, and the mock in C that the benchmarks use."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from backtalk.testing import Server, client
from backtalk.testing.server import free_port
from support import lacking

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """(ours, the upstream): two processes."""
    home = tmp_path_factory.mktemp("pair")
    scripted = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_DISCOVER": "0"}
    with Server(home / "upstream", scripted) as upstream:
        env = {
            "BACKTALK_UPSTREAM": f"{upstream.url}/v1",
            "BACKTALK_DISCOVER": "0",
            "BACKTALK_MODEL": "upstream/scripted",
        }
        with Server(home / "ours", env) as ours:
            yield ours, upstream


def test_tokens_pass_through_as_they_come(pair: tuple[Server, Server]) -> None:
    sdk = client(pair[0].url)
    stream = sdk.responses.create(input="[[pace:0.05]] [[tokens:40]]", stream=True)
    created = next(event for event in stream if event.type == "response.created")
    first = next(event for event in stream if event.type == "response.output_text.delta")
    assert first.delta.strip() == "word0"
    assert sdk.responses.retrieve(created.response.id).status == "in_progress"  # the model is still speaking
    assert len([event for event in stream if event.type == "response.output_text.delta"]) == 39


def test_the_upstreams_model_calls_file_search(pair: tuple[Server, Server]) -> None:
    sdk = client(pair[0].url)
    store = sdk.vector_stores.create(name="One")
    data = b"The gate of the northern garage opens with the code 4711."
    sdk.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("garage.txt", data))
    tools: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
    answer = sdk.responses.create(
        input="What do the documents say about the gate of the northern garage?",
        tools=tools,
        include=["file_search_call.results"],
    )
    search, message = answer.output
    assert search.type == "file_search_call"
    assert search.results is not None
    assert search.results[0].filename == "garage.txt"
    assert message.type == "message"
    assert "4711" in answer.output_text


def test_functions_and_talk_go_through(pair: tuple[Server, Server]) -> None:
    sdk = client(pair[0].url)
    first = sdk.responses.create(input="My name is Ada.")
    assert "Ada" in sdk.responses.create(previous_response_id=first.id, input="What is my name?").output_text
    schema = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
    tools: Any = [{"type": "function", "name": "get_weather", "parameters": schema}]
    asked = sdk.responses.create(input="What's the weather like in San Francisco?", tools=tools)
    (call,) = asked.output
    assert call.type == "function_call"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert "sunny" in sdk.responses.create(previous_response_id=asked.id, input=output).output_text
    completion = sdk.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "Hello"}])
    assert completion.choices[0].message.content == "You said: Hello"


def test_an_upstream_that_breaks_off_ends_the_response(pair: tuple[Server, Server]) -> None:
    sdk = client(pair[0].url)
    *_, last = sdk.responses.create(input="[[tokens:20]] [[fail:after:5]]", stream=True)
    assert last.type == "response.failed"
    assert last.response.output_text.startswith("word0")


def test_an_upstream_killed_midway_ends_the_response(tmp_path: Path) -> None:
    scripted = {"BACKTALK_MODELS": "backtalk.testing:ScriptedModel", "BACKTALK_DISCOVER": "0"}
    with Server(tmp_path / "upstream", scripted) as upstream:
        env = {"BACKTALK_UPSTREAM": f"{upstream.url}/v1", "BACKTALK_DISCOVER": "0"}
        with Server(tmp_path / "ours", env) as ours:
            sdk = client(ours.url)
            last: Any = None
            for last in sdk.responses.create(model="scripted", input="[[pace:0.02]] [[tokens:500]]", stream=True):
                if last.type == "response.output_text.delta" and last.sequence_number == 20:
                    upstream.kill()
            assert last.type == "response.failed"
            assert last.response.output_text.startswith("word0")
            with pytest.raises(openai.InternalServerError) as caught:
                sdk.responses.create(model="scripted", input="Hello")
            assert caught.value.status_code in (502, 503)


def test_a_client_that_leaves_closes_the_upstream(pair: tuple[Server, Server], c_mock: str) -> None:
    """Counted by the mock: the request is aborted within moments, not run to its end."""
    import json
    import urllib.request

    def stats() -> dict[str, int]:
        with urllib.request.urlopen(f"{c_mock}/stats") as reply:
            return json.load(reply)  # type: ignore[no-any-return]

    env = {"BACKTALK_UPSTREAM": f"{c_mock}/v1", "BACKTALK_DISCOVER": "0"}
    with Server(pair[0].home.parent / "leaver", env) as ours:
        sdk = client(ours.url)
        stream = sdk.responses.create(model="mock-t2000-d20", input="Hello", stream=True)
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        assert stats()["open"] >= 1
        before = stats()["aborted"]
        stream.close()
        deadline = time.monotonic() + 10
        while stats()["aborted"] == before:
            assert time.monotonic() < deadline, "the upstream request is still open"
            time.sleep(0.02)


def test_the_mock_in_c(tmp_path: Path, c_mock: str) -> None:
    with Server(tmp_path, {"BACKTALK_UPSTREAM": f"{c_mock}/v1", "BACKTALK_DISCOVER": "0"}) as ours:
        sdk = client(ours.url)
        answer = sdk.responses.create(model="mock-t300", input="Hello")
        numbers = [int(token[1:5], 16) for token in answer.output_text.split()]
        assert numbers == list(range(300))
        streamed = [
            event.delta
            for event in sdk.responses.create(model="mock-t300-d1", input="Hello", stream=True)
            if event.type == "response.output_text.delta"
        ]
        assert [int(token[1:5], 16) for token in streamed] == list(range(300))


@pytest.fixture(scope="module")
def c_mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The mock LLM in C on a port of its own."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        lacking("no C compiler: install gcc (apt-get install gcc)")
    program = tmp_path_factory.mktemp("mock") / "mock_llm"
    subprocess.run([str(compiler), "-O2", "-o", str(program), str(BENCH / "mock_llm.c")], check=True)
    port = free_port()
    with subprocess.Popen([str(program), str(port), "mock-t300"], stdout=subprocess.DEVNULL) as process:
        time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
        process.kill()
