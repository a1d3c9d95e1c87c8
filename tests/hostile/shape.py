"""What every answer to a bad request must look like."""

import json
from collections.abc import Mapping
from typing import Any

from backtalk.testing import client

KEYS = {"message", "type", "param", "code"}
MESSAGES_KEYS = {"message", "type"}
"""Of Anthropic's errors, whose envelope says that it is one."""


def assert_clean(status: int, headers: Mapping[str, Any], body: bytes, what: object = "") -> None:
    """No 5xx; a 4xx is OpenAI's envelope or Anthropic's, with a request id."""
    assert status < 500, (what, status, body[:500])
    if status < 400:
        return
    assert headers["x-request-id"], what
    assert _first(headers["content-type"]) == "application/json", (what, headers["content-type"])
    envelope = json.loads(body)
    error = envelope["error"]
    assert error.keys() == (MESSAGES_KEYS if "type" in envelope else KEYS), (what, body[:500])
    assert error["message"] and error["type"], (what, body[:500])
    assert isinstance(error.get("code"), str | None), (what, body[:500])


def _first(value: Any) -> str:
    """A header's value; schemathesis has lists of them."""
    return str(value if isinstance(value, str) else value[0])


def things(url: str, **options: Any) -> dict[str, str]:
    """One of everything, as the path parameters that name them. `options` are the SDK's."""
    sdk = client(url, **options)
    conversation = sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "Hello"}])
    file = sdk.files.create(file=("a.txt", b"The garage closes at 22:00."), purpose="assistants")
    store = sdk.vector_stores.create(name="One", file_ids=[file.id])
    batch = sdk.vector_stores.file_batches.create(store.id, file_ids=[file.id])
    hello: Any = [{"role": "user", "content": "Hello"}]
    return {
        "completion_id": sdk.chat.completions.create(model="scripted", messages=hello, store=True).id,
        "response_id": sdk.responses.create(model="scripted", input="Hello").id,
        "conversation_id": conversation.id,
        "item_id": sdk.conversations.items.list(conversation.id).data[0].id or "",
        "file_id": file.id,
        "store_id": store.id,
        "batch_id": batch.id,
        "model": "scripted",
    }
