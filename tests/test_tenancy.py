"""Every statement on a tenant's table carries its project; the few system statements are named here."""

import re
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel
from sqlalchemy import event

from backtalk import Backtalk, Settings
from backtalk.storage import metadata
from backtalk.testing import ScriptedModel, client, serve
from support import until


class Note(BaseModel):
    text: str
    stars: int = 0


SYSTEM = [
    # Group commit goes to SQLite's driver by itself: one SELECT for the fence of all runs, one INSERT.
    r"^SELECT coalesce\(max\(segments\.id\)",  # group commit: a row id below a log's first segment
    r"^SELECT logs\.id, logs\.project",  # leases: what dead processes left
    r"^SELECT max\(anon_1\.id\).* FROM segments|^DELETE FROM segments WHERE segments\.id > ",  # the sweep of compacted logs' segments
    r"^UPDATE logs SET lease_until=",  # leases: renewed for all runs of a process
    r"FROM jobs|^UPDATE jobs SET",  # the queue: claimed, renewed and swept for all projects
    r"FROM api_keys WHERE api_keys\.(prefix|hash)|FROM api_keys LIMIT|EXISTS \(SELECT .* FROM api_keys|^UPDATE api_keys SET last_used_at",  # who is it
    r"^SELECT .* FROM files WHERE files\.expires_at",  # the sweep of expired files
    r"^DELETE FROM idempotency_keys WHERE idempotency_keys\.created_at < ",  # the sweep of keys that are a day old
]


def test_every_statement_carries_its_project(tmp_path: Path) -> None:
    app = Backtalk(Settings(home=tmp_path, discover=False), models=[ScriptedModel()])
    app.resource("notes", Note, searchable=True)
    statements: set[str] = set()

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.add(" ".join(statement.split()))

    for engine in (app.storage.engine, app.storage._writer._engine):  # type: ignore[attr-defined]
        event.listen(engine, "before_cursor_execute", hear)
    with serve(app) as url:
        story(url)
    tables = {name: table for name, table in metadata.tables.items() if "project" in table.c}
    assert len(tables) >= 10
    touched = {name: [s for s in statements if re.search(rf"\b(FROM|INTO|UPDATE|JOIN) {name}\b", s)] for name in tables}
    assert {name for name, found in touched.items() if found} >= {
        "responses",
        "items",
        "resources",
        "chunks",
        "files",
        "logs",
    }
    bare = [
        statement
        for name, found in touched.items()
        for statement in found
        if not re.search(rf"\b{name}\.project\b|\(.*\bproject\b.*\) VALUES", statement)
        and not any(re.search(pattern, statement) for pattern in SYSTEM)
    ]
    assert bare == []


def story(url: str) -> None:
    """A bit of everything."""
    sdk = client(url)
    note = httpx2.post(f"{url}/notes", json={"text": "heliotrope"}).json()
    until(lambda: httpx2.get(f"{url}/notes", params={"q": "heliotrope"}).json()["data"])
    httpx2.get(f"{url}/notes", params={"stars": 0, "order_by": "text"})
    httpx2.patch(f"{url}/notes/{note['id']}", json={"stars": 5})
    httpx2.put(f"{url}/notes/{note['id']}", json={"text": "x"})
    httpx2.delete(f"{url}/notes/{note['id']}")
    store = sdk.vector_stores.create(name="One")
    file = sdk.files.create(file=("a.txt", b"The garage closes at 22:00."), purpose="assistants")
    sdk.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
    sdk.vector_stores.search(store.id, query="garage", filters={"type": "eq", "key": "a", "value": 1})
    batch = sdk.vector_stores.file_batches.create_and_poll(store.id, file_ids=[file.id], poll_interval_ms=50)
    sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    conversation = sdk.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Hello"}], extra_headers={"idempotency-key": "k"}
    )
    search: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
    first = sdk.responses.create(
        model="scripted", input="What do the documents say of the garage?", tools=search, conversation=conversation.id
    )
    second = sdk.responses.create(model="scripted", input="And?", previous_response_id=first.id)
    list(sdk.responses.retrieve(second.id, stream=True))
    list(sdk.responses.input_items.list(second.id))
    sdk.get("/conversations", cast_to=object, options={"params": {"query": "hello"}})
    (item, *_) = sdk.conversations.items.list(conversation.id)
    sdk.conversations.items.delete(item.id or "", conversation_id=conversation.id)
    sdk.conversations.update(conversation.id, metadata={"a": "b"})
    running = sdk.responses.create(model="scripted", input="[[pace:0.05]] [[tokens:500]]", background=True)
    sdk.responses.cancel(running.id)
    sdk.responses.delete(first.id)
    sdk.files.delete(file.id)
    sdk.vector_stores.delete(store.id)
    sdk.conversations.delete(conversation.id)
