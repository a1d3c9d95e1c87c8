"""What a chain of responses remembers, on every database."""

from typing import Any

from backtalk.conversations import store
from backtalk.storage import Storage


def messages(first: int, count: int) -> list[dict[str, Any]]:
    return [{"id": f"msg_{i}", "type": "message", "role": "user", "content": []} for i in range(first, first + count)]


async def test_a_chain_of_three_thousand_items_is_whole(storage: Storage) -> None:
    leaf = await storage.write(store.add_items, "default", messages(0, 3000), parent_id=None)
    chain = await storage.read(store.chain, "default", leaf)
    assert [item["id"] for item in chain] == [f"msg_{i}" for i in range(3000)]
    assert await storage.read(store.chain, "other", leaf) == []
    for length in (499, 500, 501, 502):
        found = await storage.read(store.chain, "default", f"msg_{length - 1}")
        assert len(found) == length


async def test_a_deleted_conversation_leaves_the_responses_chain_whole(storage: Storage) -> None:
    await storage.write(store.create, "default", "conv_1", {})
    leaf = await storage.write(store.add_items, "default", messages(0, 2), parent_id=None, response_id="resp_1")
    leaf = await storage.write(store.add_items, "default", messages(2, 2), parent_id=leaf)  # added by the client
    leaf = await storage.write(store.add_items, "default", messages(4, 2), parent_id=leaf, response_id="resp_2")
    await storage.write(store.append_to_conversation, "default", "conv_1", [f"msg_{i}" for i in range(6)])
    assert await storage.write(store.remove_from_conversation, "default", "conv_1", "msg_5")
    assert await storage.write(store.remove, "default", "conv_1")
    chain = await storage.read(store.chain, "default", leaf)
    assert [item["id"] for item in chain] == ["msg_0", "msg_1", "msg_4", "msg_5"]
