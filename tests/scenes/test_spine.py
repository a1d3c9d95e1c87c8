"""The main job as a stranger does it: the official SDK, a real server process, and the power cord."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fpdf import FPDF

from backtalk.testing import Server, client
from support import until

FACTS = {
    "leave.md": b"# Leave\n\nEvery employee has 28 days of paid leave a year. Unused days expire in March.",
    "garage.txt": b"The garage closes at 22:00. The code of its gate changes on the first Monday of each month.",
    "canteen.html": b"<html><body><h1>Canteen</h1><p>On Thursdays the canteen serves fish soup with saffron.</p></body></html>",
}
QUESTIONS = {
    "leave.md": ("How many days of paid leave does an employee have?", "28 days"),
    "garage.txt": ("When does the garage close?", "22:00"),
    "canteen.html": ("What does the canteen serve on Thursdays?", "fish soup"),
    "travel.pdf": ("Who approves train journeys in first class?", "head of finance"),
}


def pdf(text: str) -> bytes:
    document = FPDF()
    document.add_page()
    document.set_font("Helvetica", size=12)
    document.multi_cell(0, 8, text)
    return bytes(document.output())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "home", {"BACKTALK_DISCOVER": "0"}) as running:
        yield running


def fill(sdk: openai.OpenAI) -> str:
    """A vector store with four documents of four kinds, all completed. Returns its id."""
    files = {**FACTS, "travel.pdf": pdf("Train journeys in first class are approved by the head of finance.")}
    ids = [sdk.files.create(file=(name, data), purpose="assistants").id for name, data in files.items()]
    store = sdk.vector_stores.create(name="Handbook")
    batch = sdk.vector_stores.file_batches.create_and_poll(store.id, file_ids=ids, poll_interval_ms=100)
    assert batch.file_counts.completed == len(files), batch
    return store.id


def ask(sdk: openai.OpenAI, store_id: str, question: str, **more: Any) -> tuple[Any, str, list[str]]:
    """(response, text, names of the cited files) of a streamed answer."""
    tools: Any = [{"type": "file_search", "vector_store_ids": [store_id]}]
    with sdk.responses.stream(model="backtalk/extractive", input=question, tools=tools, **more) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    cited = [note.filename for part in parts for note in part.annotations if note.type == "file_citation"]
    assert said == response.output_text
    return response, said, cited


def test_documents_are_answered_from_and_it_is_all_there_tomorrow(server: Server) -> None:
    sdk = client(server.url)
    store_id = fill(sdk)
    conversation = sdk.conversations.create()
    last: dict[str, Any] = {}
    for name, (question, fact) in QUESTIONS.items():
        response, text, cited = ask(sdk, store_id, question, conversation=conversation.id)
        assert fact in text
        assert cited[0] == name
        last = {"id": response.id, "text": text}

    for end in (server.stop, server.kill):
        end()
        server.start().wait_ready()
        assert sdk.responses.retrieve(last["id"]).output_text == last["text"]
        assert len(list(sdk.conversations.items.list(conversation.id, limit=100))) >= 2 * len(QUESTIONS)
        _, text, cited = ask(sdk, store_id, QUESTIONS["leave.md"][0], previous_response_id=last["id"])
        assert "28 days" in text
        assert cited[0] == "leave.md"
        receipt = openai_get(sdk, f"/responses/{last['id']}/context")
        assert receipt["searches"][0]["passages"][0]["filename"] == "travel.pdf"


def test_a_stream_cut_by_a_kill_is_ended_and_replayed(tmp_path: Path) -> None:
    env = {"BACKTALK_DISCOVER": "0", "BACKTALK_MODELS": "backtalk.testing:ScriptedModel"}
    with Server(tmp_path / "home", env) as server:
        sdk = client(server.url)
        seen: list[str] = []
        response_id = ""
        with pytest.raises(Exception):  # noqa: B017  # the connection breaks; how it is told is the client's affair
            for event in sdk.responses.create(model="scripted", input="[[pace:0.01]] [[tokens:2000]]", stream=True):
                if event.type == "response.created":
                    response_id = event.response.id
                if event.type == "response.output_text.delta":
                    seen.append(event.delta)
                if len(seen) == 50:
                    server.kill()
        server.start().wait_ready()
        ended = until(lambda: (r := sdk.responses.retrieve(response_id)).status == "failed" and r)
        assert ended.error.code == "server_error"
        assert ended.to_dict()["backtalk"] == {"reason": "server_restarted"}
        assert ended.output_text.startswith("".join(seen))
        replayed = list(sdk.responses.retrieve(response_id, stream=True))
        assert [event.sequence_number for event in replayed] == list(range(len(replayed)))
        deltas = [event.delta for event in replayed if event.type == "response.output_text.delta"]
        assert deltas[: len(seen)] == seen
        assert replayed[-1].type == "response.failed"
        after = replayed[30].sequence_number
        rest = list(sdk.responses.retrieve(response_id, stream=True, starting_after=after))
        assert [event.to_dict() for event in rest] == [event.to_dict() for event in replayed[31:]]
        go_on = sdk.responses.create(model="scripted", previous_response_id=response_id, input="My name is Ada.")
        assert go_on.status == "completed"


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_ingestion_cut_by_a_kill_is_completed_or_failed(tmp_path: Path, delay: float) -> None:
    with Server(tmp_path / "home", {"BACKTALK_DISCOVER": "0"}) as server:
        sdk = client(server.url)
        store = sdk.vector_stores.create(name="Cut")
        ids = []
        for i in range(12):
            text = f"Fact {i}: the locker of team {i} has the number {1000 + i}.\n\n" + f"Filler {i}. " * 400
            ids.append(sdk.files.create(file=(f"fact{i}.txt", io.BytesIO(text.encode())), purpose="assistants").id)
        sdk.vector_stores.file_batches.create(store.id, file_ids=ids)
        time.sleep(delay)
        server.kill()
        server.start().wait_ready()
        until(lambda: sdk.vector_stores.retrieve(store.id).file_counts.in_progress == 0, 90)
        counts = sdk.vector_stores.retrieve(store.id).file_counts
        assert (counts.completed, counts.total) == (12, 12)
        for i in (0, 5, 11):
            found = sdk.vector_stores.search(
                store.id, query=f"number of the locker of team {i}", max_num_results=50
            ).data
            once = [hit for hit in found if f"Fact {i}:" in hit.content[0].text]
            assert len(once) == 1
            assert found[0].filename == f"fact{i}.txt"


def openai_get(sdk: openai.OpenAI, path: str) -> Any:
    """A plain GET of what the SDK has no method for."""
    return sdk.get(path, cast_to=object)
