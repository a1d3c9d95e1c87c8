"""The same story on SQLite, PostgreSQL and MariaDB, with a power cut in the middle."""

from pathlib import Path
from typing import Any

from backtalk.testing import Server, client
from support import until


def test_the_story_is_the_same_on_every_database(database: str, tmp_path: Path) -> None:
    env = {
        "BACKTALK_DATABASE": database,
        "BACKTALK_DISCOVER": "0",
        "BACKTALK_MODELS": "backtalk.testing:ScriptedModel",
        "BACKTALK_MODEL": "scripted",
    }
    with Server(tmp_path / "home", env) as server:
        sdk = client(server.url)
        store = sdk.vector_stores.create(name="One")
        files = {"garage.txt": "The garage closes at 22:00.", "名字.md": "北京的车库在晚上十点关门。"}
        for name, text in files.items():
            sdk.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=(name, text.encode()))
        conversation = sdk.conversations.create(metadata={"mood": "🙂"})
        first = sdk.responses.create(conversation=conversation.id, input="My name is Zoë 🦊.")
        tools: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
        cut = sdk.responses.create(input="[[pace:0.02]] [[tokens:500]]", background=True)
        until(lambda: len(replay(server, cut.id, live=True)) > 10)
        server.kill()
        server.start().wait_ready()

        assert sdk.responses.retrieve(first.id) == first
        until(lambda: sdk.responses.retrieve(cut.id).status == "failed")
        events = replay(server, cut.id)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "Zoë" in sdk.responses.create(conversation=conversation.id, input="What is my name?").output_text
        assert "Zoë" in sdk.responses.create(previous_response_id=first.id, input="What is my name?").output_text
        for question, fact in (("When does the garage close?", "22:00"), ("北京的车库几点关门？", "十点")):
            answer = sdk.responses.create(model="backtalk/extractive", input=question, tools=tools)
            assert fact in answer.output_text
        sdk.responses.delete(first.id)
        sdk.vector_stores.delete(store.id)
        assert sdk.conversations.retrieve(conversation.id).metadata == {"mood": "🙂"}


def replay(server: Server, response_id: str, *, live: bool = False) -> list[Any]:
    """A response's events: all of them, or the first dozen of one that goes on."""
    events = []
    with client(server.url).responses.retrieve(response_id, stream=True) as stream:
        for event in stream:
            events.append(event)
            if live and len(events) > 12:
                break
    return events
