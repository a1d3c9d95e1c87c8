"""The tree that items form, on every database."""

import asyncio
from typing import Any

import pytest

from backtalk.conversations import store
from backtalk.conversations.service import Conversations
from backtalk.conversations.tree import grow, newest_below, path
from backtalk.core.errors import InvalidRequest, NotFound
from backtalk.domain.caller import Caller
from backtalk.domain.items import PARENTS
from backtalk.http.paging import Cursor
from backtalk.storage import Connection, Storage

ADA, BO = Caller("ada"), Caller("bo")
ALL_ASC = Cursor(100, "asc")


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def texts(items: Any) -> str:
    return " ".join(item["content"][0]["text"] for item in items)


def numbered(*names: str) -> list[dict[str, Any]]:
    return [{**message(name), "id": f"msg_{name}"} for name in names]


class Talk:
    """A conversation, with the ids of its items by their texts."""

    def __init__(self, storage: Storage, caller: Caller = ADA) -> None:
        self.all = Conversations(storage)
        self.caller = caller
        self.id = ""
        self.ids: dict[str, str] = {}

    async def begin(self, *names: str) -> "Talk":
        self.id = (await self.all.create(self.caller, [], {}))["id"]
        await self.say(*names)
        return self

    async def say(self, *names: str, **options: Any) -> None:
        added = await self.all.add_items(self.caller, self.id, [message(name) for name in names], **options)
        self.ids |= {texts([item]): item["id"] for item in added}

    async def shown(self, branch: str | None = None, cursor: Cursor = ALL_ASC) -> str:
        return texts(await self.all.items(self.caller, self.id, cursor, branch=self.ids.get(branch or "", branch)))


async def test_a_branch_leaves_the_other_one_whole(storage: Storage) -> None:
    talk = await Talk(storage).begin("a", "b", "c", "d")
    await talk.say("C", "D", branched=True, parent_id=talk.ids["b"])
    assert await talk.shown() == "a b C D"
    await talk.say("e")
    assert await talk.shown() == "a b C D e"
    assert await talk.shown("d") == await talk.shown("c") == "a b c d"
    assert await talk.shown("b") == await talk.shown("D") == "a b C D e"
    assert await talk.shown("all") == "a b c d C D e"
    await talk.say("A", branched=True)
    assert await talk.shown() == "A"
    assert await talk.shown("a") == "a b C D e"
    await talk.say("f", branched=True, parent_id=talk.ids["d"])
    assert await talk.shown() == await talk.shown("b") == "a b c d f"


async def test_the_store_walks_one_branch(storage: Storage) -> None:
    talk = await Talk(storage).begin("a", "b")
    await talk.say("B", branched=True, parent_id=talk.ids["a"])
    assert texts(await storage.read(store.branch, "ada", talk.id)) == "a B"
    assert texts(await storage.read(store.branch, "ada", talk.id, talk.ids["b"])) == "a b"
    assert await storage.read(store.last_of_conversation, "ada", talk.id) == talk.ids["B"]
    assert await storage.read(store.branch, "ada", talk.id, "msg_none") is None
    assert await storage.read(store.branch, "bo", talk.id) == []
    assert await storage.read(store.branch, "bo", talk.id, talk.ids["b"]) is None


async def test_paging_stays_on_the_branch(storage: Storage) -> None:
    talk = await Talk(storage).begin("a", "b", "c")
    await talk.say("B", "C", branched=True, parent_id=talk.ids["a"])
    assert await talk.shown("c", Cursor(1, "desc")) == "c b"  # one more than asked for tells that more follow
    assert await talk.shown("c", Cursor(5, "desc", talk.ids["c"])) == "b a"
    assert await talk.shown(None, Cursor(5, "asc", talk.ids["a"])) == "B C"
    assert await talk.shown("all", Cursor(5, "asc", talk.ids["c"])) == "B C"
    for branch, after in ((None, "b"), ("c", "B")):
        with pytest.raises(InvalidRequest) as raised:
            await talk.shown(branch, Cursor(5, "asc", talk.ids[after]))
        assert (raised.value.param, raised.value.code) == ("after", "invalid_value")


async def test_what_is_not_in_the_conversation_is_no_branch(storage: Storage) -> None:
    talk, other = await Talk(storage).begin("a"), await Talk(storage, BO).begin("x")
    for stranger in ("msg_none", other.ids["x"]):
        with pytest.raises(NotFound):
            await talk.shown(stranger)
        with pytest.raises(InvalidRequest) as raised:
            await talk.say("b", branched=True, parent_id=stranger)
        assert (raised.value.param, raised.value.code) == ("parent_id", "invalid_value")
    assert await talk.shown("all") == "a"


async def test_parents_are_told_when_asked_for_and_never_kept(storage: Storage) -> None:
    talk = await Talk(storage).begin("a", "b")
    sent = {**message("c"), "parent_id": "msg_mine"}
    (added,) = await talk.all.add_items(ADA, talk.id, [sent], include=[PARENTS])
    assert added["parent_id"] == talk.ids["b"]
    rows = await talk.all.items(ADA, talk.id, ALL_ASC, include=[PARENTS])
    assert [row["parent_id"] for row in rows] == [None, talk.ids["a"], talk.ids["b"]]
    assert (await talk.all.item(ADA, talk.id, added["id"], [PARENTS])) == added
    plain = await talk.all.item(ADA, talk.id, added["id"])
    assert "parent_id" not in plain
    assert await storage.read(store.find_items, "ada", [added["id"]]) == {added["id"]: plain}


async def test_a_deleted_item_leaves_its_branches_whole(storage: Storage) -> None:
    talk = await Talk(storage).begin("a", "b", "c")
    await talk.say("C", branched=True, parent_id=talk.ids["b"])
    await talk.all.delete_item(ADA, talk.id, talk.ids["b"])
    assert await talk.shown() == "a C"
    assert await talk.shown("c") == "a c"
    await talk.all.delete_item(ADA, talk.id, talk.ids["a"])
    assert (await talk.shown(), await talk.shown("c"), await talk.shown("all")) == ("C", "c", "c C")


async def test_what_a_response_holds_is_walked_through(storage: Storage) -> None:
    """An item that is out of the conversation, but still there, leads on along its own branch."""
    talk = await Talk(storage).begin("a")

    def answer(connection: Connection) -> None:
        held = numbered("b", "c")
        store.add_items(connection, "ada", held, parent_id=talk.ids["a"], response_id="resp_1")
        store.append_to_conversation(connection, "ada", talk.id, ["msg_b", "msg_c"])

    await storage.write(answer)
    await talk.say("B", branched=True, parent_id=talk.ids["a"])
    await talk.say("d", branched=True, parent_id="msg_c")
    await talk.all.delete_item(ADA, talk.id, "msg_c")
    assert await talk.shown() == "a b d"
    await talk.all.delete_item(ADA, talk.id, "msg_b")
    assert await talk.shown() == "a d"
    assert await talk.shown("all") == "a B d"
    chain = await storage.read(store.chain, "ada", talk.ids["d"])
    assert texts(chain) == "a b c d"


async def test_two_responses_side_by_side_end_up_one_behind_the_other(storage: Storage) -> None:
    talk = await Talk(storage).begin("a")
    for name in ("x", "y", "z"):
        new = numbered(f"{name}1", f"{name}2")
        await storage.write(store.add_items, "ada", new, parent_id=talk.ids["a"], response_id=f"resp_{name}")

    def end(name: str, branched: bool = False) -> Any:
        ids = [f"msg_{name}1", f"msg_{name}2"]
        return storage.write(store.append_to_conversation, "ada", talk.id, ids, branched=branched)

    await asyncio.gather(end("x"), end("y"))
    assert sorted((await talk.shown()).split()) == ["a", "x1", "x2", "y1", "y2"]
    await end("z", branched=True)
    assert await talk.shown() == "a z1 z2"
    assert len((await talk.shown("msg_x2")).split()) == 5


async def test_what_a_response_holds_stays_a_chain_when_all_else_goes(storage: Storage) -> None:
    """Also where a response began before what it ended up behind."""
    talk = await Talk(storage).begin()
    for name, parent in (("o", None), ("q", "msg_o")):
        await storage.write(store.add_items, "ada", numbered(name), parent_id=parent, response_id=f"resp_{name}")
    await storage.write(store.append_to_conversation, "ada", talk.id, ["msg_o"])
    await talk.say("p")
    await storage.write(store.append_to_conversation, "ada", talk.id, ["msg_q"])
    await storage.write(store.add_items, "ada", numbered("r"), parent_id="msg_q", response_id="resp_r")
    await storage.write(store.append_to_conversation, "ada", talk.id, ["msg_r"])
    assert texts(await storage.read(store.chain, "ada", "msg_r")) == await talk.shown() == "o p q r"
    await storage.write(store.forget_response, "ada", "resp_q")
    assert texts(await storage.read(store.chain, "ada", "msg_r")) == await talk.shown() == "o p q r"
    await talk.all.delete(ADA, talk.id)
    assert texts(await storage.read(store.chain, "ada", "msg_r")) == "o r"
    gone = [talk.ids["p"], "msg_q"]
    assert await storage.read(store.find_items, "ada", gone) == {}


async def test_a_response_of_a_deleted_conversation_is_not_put_back(storage: Storage) -> None:
    talk = await Talk(storage).begin("a")
    await storage.write(store.add_items, "ada", numbered("x"), parent_id=talk.ids["a"], response_id="resp_x")
    await talk.all.delete(ADA, talk.id)
    await storage.write(store.append_to_conversation, "ada", talk.id, ["msg_x"])
    assert await storage.read(store.branch, "ada", talk.id) == []
    assert await storage.read(store.find_items, "ada", [talk.ids["a"], "msg_x"]) == {"msg_x": numbered("x")[0]}


def test_a_parent_that_nobody_knows_is_the_item_before() -> None:
    tree = grow([("a", None), ("b", "gone"), ("c", "lost"), ("d", "c")], {"lost": "gone too", "gone too": "a"})
    assert tree == {"a": None, "b": "a", "c": "a", "d": "c"}
    assert path(tree, "d") == ["a", "c", "d"]
    assert (newest_below(tree, "a"), newest_below(tree, "b")) == ("d", "b")
    assert grow([("a", "gone")], {}) == {"a": None}
    assert path({}, None) == []
