"""`/v1/responses` as a WebSocket, through the SDK's own client and over bare frames."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from backtalk import Backtalk, Settings
from backtalk.testing import ScriptedModel, Server, client, serve
from support import until

SDK_WARNS = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
"""The SDK calls `websockets` in a way that its newest release deprecates."""


@pytest.fixture
def line(server: Server) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + "/v1/responses", max_size=None) as opened:
        yield opened


def create(line: ClientConnection, text: Any, **fields: Any) -> None:
    line.send(json.dumps({"type": "response.create", "model": "scripted", "input": text, **fields}))


def events(line: ClientConnection, ends: int = 1) -> list[dict[str, Any]]:
    """Frames up to as many ends of turns, or errors."""
    found: list[dict[str, Any]] = []
    while ends:
        found.append(json.loads(line.recv(timeout=30)))
        ends -= found[-1]["type"] in ("response.completed", "response.incomplete", "response.failed", "error")
    return found


def turn(line: ClientConnection, text: Any, **fields: Any) -> dict[str, Any]:
    create(line, text, **fields)
    return events(line)[-1]


def without_names(found: list[dict[str, Any]]) -> list[Any]:
    """Events with all that differs from turn to turn taken out."""
    return [(event["type"], event["sequence_number"], event.get("delta"), event.get("text")) for event in found]


@pytest.mark.wire("W1")
def test_the_frames_are_the_events_of_a_stream(line: ClientConnection, sdk: openai.OpenAI) -> None:
    stream = sdk.responses.create(model="scripted", input="Tell me [[tokens:20]]", stream=True)
    streamed = [event.to_dict() for event in stream]
    for _ in range(2):
        create(line, "Tell me [[tokens:20]]")
        found = events(line)
        assert without_names(found) == without_names(streamed)
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
    stored = sdk.responses.retrieve(found[-1]["response"]["id"])
    assert stored.to_dict() == sdk.responses.retrieve(stored.id).to_dict()
    assert json.loads(json.dumps(found[-1]["response"]))["output"] == stored.to_dict()["output"]


@SDK_WARNS
@pytest.mark.wire("W1")
def test_the_sdks_own_client(server: Server) -> None:
    with client(server.url).responses.connect() as connection:
        for text in ("one", "two"):
            connection.response.create(model="scripted", input=text)
            kinds = []
            for event in connection:
                kinds.append(event.type)
                if event.type == "response.completed":
                    break
            assert kinds[0] == "response.created"
            assert event.response.output_text


@pytest.mark.wire("W2")
def test_turns_without_a_lane_wait_for_one_another(line: ClientConnection) -> None:
    create(line, "[[tokens:20]] [[pace:0.01]] first")
    create(line, "second")
    found = events(line, ends=2)
    begun = [event["response"]["id"] for event in found if event["type"] == "response.created"]
    first_end = next(i for i, event in enumerate(found) if event["type"] == "response.completed")
    assert found[first_end]["response"]["id"] == begun[0]
    assert [e["type"] for e in found[:first_end]].count("response.created") == 1
    assert not any("stream_id" in event for event in found)


@pytest.mark.wire("W2")
def test_lanes_run_side_by_side(line: ClientConnection) -> None:
    create(line, "[[tokens:100]] [[pace:0.01]]", stream_id="slow")
    while json.loads(line.recv(timeout=30))["type"] != "response.output_text.delta":
        pass
    create(line, "quick", stream_id="quick")
    found = events(line, ends=2)
    ends = [event["stream_id"] for event in found if event["type"] == "response.completed"]
    assert ends == ["quick", "slow"]
    assert {event["stream_id"] for event in found} == {"quick", "slow"}
    for lane in ("quick", "slow"):
        numbers = [event["sequence_number"] for event in found if event["stream_id"] == lane]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.wire("W2")
def test_a_response_can_be_gone_on_from_in_another_lane(line: ClientConnection) -> None:
    first = turn(line, "My name is Ada.", stream_id="a", store=False)["response"]
    second = turn(line, "[[repeat]]", stream_id="b", store=False, previous_response_id=first["id"])
    assert second["response"]["previous_response_id"] == first["id"]


@pytest.mark.wire("W3")
def test_what_is_not_stored_goes_on_on_its_own_line_only(line: ClientConnection, server: Server) -> None:
    first = turn(line, "one", store=False)["response"]
    second = turn(line, "two", store=False, previous_response_id=first["id"])["response"]
    third = turn(line, "three", store=False, previous_response_id=second["id"])["response"]
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    gone = turn(line, "again", store=False, previous_response_id=first["id"])
    assert (gone["status"], gone["error"]["code"]) == (400, "previous_response_not_found")
    assert httpx2.get(f"{server.url}/v1/responses/{third['id']}").status_code == 404
    with connect(server.url.replace("http", "ws") + "/v1/responses") as other:
        found = turn(other, "x", store=False, previous_response_id=third["id"])
        assert found["error"]["code"] == "previous_response_not_found"


@pytest.mark.wire("W3")
@pytest.mark.parametrize("fields", [{"input": "[[fail:before]]"}, {"input": "x", "temperature": 9}])
def test_a_turn_that_fails_evicts_what_it_went_on_from(line: ClientConnection, fields: dict[str, Any]) -> None:
    first = turn(line, "one", store=False)["response"]["id"]
    line.send(json.dumps({"type": "response.create", "model": "scripted", "store": False, "previous_response_id": first, **fields}))  # fmt: skip
    assert events(line)[-1]["type"] in ("error", "response.failed")
    assert turn(line, "two", store=False, previous_response_id=first)["error"]["code"] == "previous_response_not_found"


@pytest.mark.wire("W3")
def test_a_stored_response_goes_on_anywhere(line: ClientConnection, sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="scripted", input="one")
    second = turn(line, "two", previous_response_id=first.id)["response"]
    assert (
        sdk.responses.create(model="scripted", input="three", previous_response_id=second["id"]).status == "completed"
    )
    unstored = turn(line, "four", store=False)["response"]["id"]
    stored = turn(line, "five", previous_response_id=unstored)["response"]["id"]
    items = sdk.responses.input_items.list(stored, order="asc").data
    assert [part.text for item in items for part in item.content if item.role == "user"] == ["four", "five"]  # type: ignore[union-attr]


FRAMES: dict[str, tuple[str | bytes, str | None]] = {
    "no JSON": ("{", None),
    "no object": ("[1]", None),
    "no type": ("{}", "type"),
    "unknown type": ('{"type": "response.dance"}', "type"),
    "binary": (b"\x00\xff", None),
    "no input": ('{"type": "response.create", "model": "scripted"}', "input"),
    "unknown model": ('{"type": "response.create", "model": "nobody", "input": "x"}', "model"),
    "wrong field": ('{"type": "response.create", "model": "scripted", "input": "x", "top_p": "y"}', "top_p"),
    "wrong item": ('{"type": "response.create", "model": "scripted", "input": [{"role": 1}]}', "input[0].role"),
    "background": ('{"type": "response.create", "model": "scripted", "input": "x", "background": true}', "background"),
    "empty lane": ('{"type": "response.create", "model": "scripted", "input": "x", "stream_id": ""}', "stream_id"),
    "lane of another type": ('{"type": "response.create", "input": "x", "stream_id": 7}', "stream_id"),
    "surrogate": ('{"type": "response.create", "model": "scripted", "input": "\\ud800"}', None),
    "deep": ('{"a":' * 1000 + "1" + "}" * 1000, None),
}


@pytest.mark.wire("W4")
@pytest.mark.parametrize("name", FRAMES)
def test_an_error_is_a_frame_and_the_line_stays_open(line: ClientConnection, name: str) -> None:
    frame, param = FRAMES[name]
    line.send(frame)
    error = events(line)[-1]
    assert error["type"] == "error" and 400 <= error["status"] < 500
    assert error["error"].keys() == {"message", "type", "param", "code"}
    if param:
        assert error["error"]["param"] == param
    assert turn(line, "Still there?")["type"] == "response.completed"


@pytest.mark.wire("W4")
def test_an_error_in_a_lane_names_it(line: ClientConnection) -> None:
    assert turn(line, "x", stream_id="a", model="nobody")["stream_id"] == "a"


@pytest.mark.wire("W5")
@pytest.mark.parametrize("store", [True, False])
def test_a_turn_that_only_prepares(line: ClientConnection, store: bool) -> None:
    create(line, "You are in Paris.", generate=False, store=store)
    found = events(line)
    assert [event["type"] for event in found] == ["response.created", "response.in_progress", "response.completed"]
    assert found[-1]["response"]["output"] == []
    after = turn(line, "Where am I?", store=store, previous_response_id=found[-1]["response"]["id"])
    assert after["type"] == "response.completed" and after["response"]["output"]


@pytest.mark.wire("W5")
@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("empty", [[], None])
def test_a_turn_that_only_prepares_needs_no_input(line: ClientConnection, store: bool, empty: Any) -> None:
    ready = turn(line, empty, generate=False, store=store, instructions="Be brief.")
    assert (ready["type"], ready["response"]["output"]) == ("response.completed", [])
    after = turn(line, "Hello", store=store, previous_response_id=ready["response"]["id"])
    assert after["response"]["output"][0]["content"][0]["text"] == "You said: Hello"


@pytest.mark.wire("W3", "R21")
def test_a_kept_file_that_is_gone_kills_no_chain(line: ClientConnection, sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=("a.md", b"# Leave"), purpose="user_data").id
    part = {"type": "input_file", "file_id": file}
    first = turn(line, [{"role": "user", "content": [part]}], store=False)["response"]["id"]
    sdk.files.delete(file)
    second = turn(line, "And?", store=False, previous_response_id=first)
    assert second["type"] == "response.completed"
    new = {"role": "user", "content": [{"type": "input_text", "text": "x"}, part]}
    error = turn(line, [new], store=False, previous_response_id=second["response"]["id"])["error"]
    assert error["param"] == "input[0].content[1].file_id"  # of this frame's own input


@SDK_WARNS
@pytest.mark.wire("W5")
def test_steering_is_refused_with_its_own_event(server: Server) -> None:
    with client(server.url).responses.connect() as connection:
        connection.response.steer(previous_response_id="resp_1", input="Faster!")
        event = connection.recv()
        assert event.type == "response.steer.failed"
        assert (event.error.code, event.steer.input) == ("steering_not_supported", "Faster!")


@pytest.mark.wire("W6")
def test_who_may_not_call_may_not_connect(tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()])
    with serve(app) as url:
        at = url.replace("http", "ws") + "/v1/responses"
        for headers, status in [
            ({"origin": "https://evil.example"}, 403),
            ({"host": "evil.example"}, 421),
            ({"x-forwarded-for": "10.0.0.1"}, 401),
            ({"authorization": "Bearer bt_wrong", "x-forwarded-for": "10.0.0.1"}, 401),
        ]:
            name = headers.pop("host", "127.0.0.1")
            plain = socket.create_connection(("127.0.0.1", urlsplit(url).port or 80))
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(f"ws://{name}/v1/responses", additional_headers=headers, sock=plain),
            ):
                pass
            assert refused.value.response.status_code == status
            assert refused.value.response.headers["x-request-id"].startswith("req_")
            assert json.loads(refused.value.response.body)["error"]["message"]
        with connect(at) as line:
            assert line.response is not None
            assert line.response.headers["x-request-id"].startswith("req_")
            assert turn(line, "x")["type"] == "response.completed"


@pytest.mark.wire("W6")
def test_frames_idle_time_and_life_have_limits(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, discover=False, max_body=20_000, socket_idle=0.5, socket_life=2)
    with serve(Backtalk(settings, models=[ScriptedModel()])) as url:
        at = url.replace("http", "ws") + "/v1/responses"
        with connect(at) as line:
            assert turn(line, "x" * 30_000)["status"] == 413
            assert turn(line, "[[tokens:10]] [[pace:0.1]]")["type"] == "response.completed"  # longer than idle time
            with pytest.raises(ConnectionClosed):
                line.recv(timeout=20)
        with connect(at) as line:
            create(line, "[[tokens:500]] [[pace:0.05]]")
            error = events(line)[-1]
            assert error["error"]["code"] == "websocket_connection_limit_reached"
            with pytest.raises(ConnectionClosed):
                line.recv(timeout=20)


@pytest.mark.wire("W6")
def test_more_than_a_line_takes(line: ClientConnection) -> None:
    for i in range(16):
        create(line, "x", stream_id=f"lane{i}")
    create(line, "x", stream_id="one too many")
    found = events(line, ends=17)
    assert [event["status"] for event in found if event["type"] == "error"] == [429]


@pytest.mark.wire("W1")
def test_a_client_that_hangs_up_stops_its_turn(server: Server, sdk: openai.OpenAI) -> None:
    with connect(server.url.replace("http", "ws") + "/v1/responses") as line:
        create(line, "[[tokens:1000]] [[pace:0.05]]")
        response_id = json.loads(line.recv(timeout=30))["response"]["id"]
        while json.loads(line.recv(timeout=30))["type"] != "response.output_text.delta":
            pass
    until(lambda: sdk.responses.retrieve(response_id).status == "incomplete", 20)


@pytest.mark.wire("W4")
def test_a_turn_that_is_cancelled_elsewhere_ends_with_an_error(line: ClientConnection, sdk: openai.OpenAI) -> None:
    create(line, "[[tokens:1000]] [[pace:0.05]]")
    response_id = json.loads(line.recv(timeout=30))["response"]["id"]
    sdk.responses.cancel(response_id)
    *others, error = events(line)
    assert error["error"]["code"] == "response_cancelled"
    assert [event["sequence_number"] for event in (*others, error)] == list(range(1, len(others) + 2))
    assert turn(line, "next")["type"] == "response.completed"


@pytest.mark.wire("W2", "W4")
@pytest.mark.parametrize("frame", ["{", "[1]", '{"type": "response.dance"}', '{"type": "response.create", "input": 5}'])
def test_a_frame_that_is_wrong_is_answered_behind_the_turn_that_runs(line: ClientConnection, frame: str) -> None:
    create(line, "[[tokens:20]] [[pace:0.01]]")
    assert json.loads(line.recv(timeout=30))["type"] == "response.created"
    line.send(frame)
    create(line, "next")
    found = events(line, ends=3)
    ends = [event["type"] for event in found if event["type"] in ("response.completed", "error")]
    assert ends == ["response.completed", "error", "response.completed"]


@pytest.mark.wire("W4")
def test_a_flood_of_wrong_frames_is_answered_and_the_turn_goes_on(line: ClientConnection) -> None:
    create(line, "[[tokens:20]] [[pace:0.02]]")
    for _ in range(500):
        line.send("{")
    found = events(line, ends=501)
    assert [event["type"] for event in found].count("error") == 500
    assert turn(line, "next")["type"] == "response.completed"
