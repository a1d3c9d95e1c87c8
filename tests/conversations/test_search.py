"""Titles, and conversations found by words, on every database."""

from typing import Any

import pytest
from sqlalchemy import text

from backtalk.conversations import store
from backtalk.conversations.service import Conversations
from backtalk.conversations.words import fold, terms, title_of
from backtalk.core.errors import InvalidRequest
from backtalk.domain.caller import Caller
from backtalk.http.paging import Cursor
from backtalk.storage import Connection, Storage, open_storage
from backtalk.storage.migrate import HERE, current, head, upgrade

ADA, BO = Caller("ada"), Caller("bo")
CURSOR = Cursor(100)


def message(said: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": said}]}


async def make(storage: Storage, *said: str, title: str | None = None, caller: Caller = ADA) -> str:
    made = await Conversations(storage).create(caller, [message(one) for one in said], {}, title)
    return str(made["id"])


async def found(storage: Storage, query: str, caller: Caller = ADA, cursor: Cursor = CURSOR) -> list[str]:
    return [one["id"] for one in await Conversations(storage).list(caller, cursor, query)]


async def test_case_and_script_do_not_matter(storage: Storage) -> None:
    there = await make(storage, "Äpfel in der Straße", "ΏΡΑ и Ёлка", "昨日東京で寿司を食べました", "fish")
    await make(storage, "nothing of the kind")
    for query in ("straße", "STRASSE", "äpfel", "ÄPFEL", "ώρα", "ΏΡΑ", "ё", "Ё", "東京", "京で", "ﬁsh FISH"):
        assert await found(storage, query) == [there], query


async def test_all_words_in_title_or_messages_newest_first(storage: Storage) -> None:
    first = await make(storage, "The garage closes at ten", title="House rules")
    second = await make(storage, "Who has the garage key?", "House number four")
    await make(storage, "garage")
    assert await found(storage, "garage HOUSE") == [second, first]
    assert await found(storage, "arage", cursor=Cursor(100, "asc")) == [*(await found(storage, "arage"))[::-1]]
    assert await found(storage, "garage house cellar") == []
    assert await found(storage, " \t\u3000") == await found(storage, "")
    assert len(await found(storage, "")) == 3
    assert await found(storage, "house", cursor=Cursor(100, "desc", second)) == [first]
    with pytest.raises(InvalidRequest) as raised:
        await found(storage, "", cursor=Cursor(100, "desc", "conv_none"))
    assert (raised.value.param, raised.value.code) == ("after", "invalid_value")


async def test_every_character_stands_for_itself(storage: Storage) -> None:
    await make(storage, "plain words, 1000 aXb c:dir x")
    for query in ("%", "_", "\\", "/", "'", '"', "100%", "a_b", "c:\\dir", "\\%", "/_"):
        there = await make(storage, f"it is {query} here")
        entitled = await make(storage, title=f"of {query}")
        assert await found(storage, query) == [entitled, there], query
        for conversation_id in (there, entitled):
            await Conversations(storage).delete(ADA, conversation_id)


async def test_only_what_was_said_in_a_conversation_of_the_project(storage: Storage) -> None:
    there = await make(storage, "Heliotrope")
    await make(storage, "Heliotrope", caller=BO)
    service = Conversations(storage)
    other = (await service.create(ADA, [message("heliotrope", "system"), message("hidden", "developer")], {}))["id"]
    call = {"type": "function_call_output", "call_id": "c", "output": "heliotrope"}
    await service.add_items(ADA, other, [call, message("NUL \0 inside", "assistant")])
    await storage.write(
        store.add_items, "ada", [{**message("heliotrope"), "id": "msg_x"}], parent_id=None, response_id="resp_x"
    )
    assert await found(storage, "heliotrope") == [there]
    assert await found(storage, "nul inside") == [other]
    await service.delete(ADA, there)
    assert await found(storage, "heliotrope") == []


async def test_a_long_message_is_found_by_its_beginning(storage: Storage) -> None:
    there = await make(storage, "𝒳" * 19_990 + " begin " + "x" * 10_000 + " end", title="Long")
    assert await found(storage, "begin") == [there]
    assert await found(storage, "end") == []


async def test_many_words(storage: Storage) -> None:
    words = " ".join(f"{n}" for n in range(100, 228))
    there = await make(storage, words)
    await make(storage, words[:-4])
    assert len(words) == 511
    assert await found(storage, words) == [there]


async def test_a_title_follows_the_first_message_unless_it_is_set(storage: Storage) -> None:
    service = Conversations(storage)
    made = await service.create(ADA, [], {})
    assert made["title"] is None
    image = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
    await service.add_items(ADA, made["id"], [message("Be kind.", "system"), image])
    assert (await service.get(ADA, made["id"]))["title"] is None
    await service.add_items(ADA, made["id"], [message("Hello,\tworld")])
    await service.add_items(ADA, made["id"], [message("And more")])
    assert (await service.get(ADA, made["id"]))["title"] == "Hello, world"
    assert (await service.update(ADA, made["id"], {"title": None}))["title"] is None
    assert await found(storage, "hello, and") == [made["id"]]
    assert (await service.update(ADA, made["id"], {"title": "Éclair"}))["title"] == "Éclair"
    await service.add_items(ADA, made["id"], [message("Not this")])
    assert (await service.get(ADA, made["id"]))["title"] == "Éclair"
    assert await found(storage, "éCLAIR") == [made["id"]]


async def test_a_title_made_of_a_deleted_message_goes_with_it(storage: Storage) -> None:
    service = Conversations(storage)
    made = await service.create(ADA, [message("My secret is 42"), message("Second")], {})
    first, second = await service.items(ADA, made["id"], Cursor(10, "asc"))
    assert (await service.delete_item(ADA, made["id"], first["id"]))["title"] == "Second"
    assert await found(storage, "secret") == []
    assert await storage.read(store.find_items, "ada", [first["id"]]) == {}
    assert (await service.delete_item(ADA, made["id"], second["id"]))["title"] is None
    kept = await service.create(ADA, [message("one")], {}, "Mine")
    (one,) = await service.items(ADA, kept["id"], Cursor())
    assert (await service.delete_item(ADA, kept["id"], one["id"]))["title"] == "Mine"


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("  \n One\t two \nthree", "One two"),
        ("word " * 20, "word word word word word word word word word word word word…"),
        ("x" * 61, "x" * 60 + "…"),
        ("x" * 60, "x" * 60),
        ("short " + "x" * 90, "short " + "x" * 54 + "…"),
        ("東京" * 40, "東京" * 30 + "…"),
        ("a\0b", "a b"),
        (" \n\0", None),
    ],
)
def test_titles(said: str, title: str | None) -> None:
    assert title_of([message("Be kind.", "developer"), message("Hi", "assistant"), message(said)]) == title


def test_terms() -> None:
    assert terms("a  Ab ABC\u3000d") == ["abc", "d"]
    assert terms("") == []
    assert fold("ﷺ" * 20_000)[:3] == "صلى"
    assert len(fold("ﷺ" * 20_000)) == 20_000


def up_to(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@pytest.mark.parametrize("interrupted", [False, True])
async def test_items_that_were_there_before_are_found(database: str, interrupted: bool) -> None:
    storage = open_storage(database)
    try:
        await storage.write(up_to, "0006")
        await storage.write(fill_old)
        if interrupted:  # MySQL and MariaDB keep the column of a migration that was killed
            await storage.write(add_words)
        await upgrade(storage)
        assert await storage.read(current) == head()
        assert await found(storage, "GRÜSSE 449") == ["conv_old"]
        assert await found(storage, "secret") == []
        await Conversations(storage).add_items(ADA, "conv_old", [message("more")])
        assert (await Conversations(storage).get(ADA, "conv_old"))["title"] == "Grüße 0"
    finally:
        await storage.close()


def add_words(connection: Connection) -> None:
    kind = "LONGTEXT COLLATE utf8mb4_bin" if connection.dialect.name in ("mysql", "mariadb") else "TEXT"
    connection.execute(text(f"ALTER TABLE items ADD COLUMN words {kind}"))


def fill_old(connection: Connection) -> None:
    connection.execute(
        text("INSERT INTO conversations (id, project, created_at, metadata) VALUES ('conv_old', 'ada', 1, '{}')")
    )
    old = text(
        "INSERT INTO items (id, project, kind, conversation_id, position, created_at, data)"
        " VALUES (:id, 'ada', 'input', 'conv_old', :position, 1, :data)"
    )
    part = '{"id":"%s","type":"message","role":"%s","content":[{"type":"input_text","text":"%s\\u0000"}]}'
    rows = [(f"msg_{n}", "user", f"Grüße {n}") for n in range(450)] + [("msg_s", "system", "secret")]
    values = [{"id": row[0], "position": n, "data": part % row} for n, row in enumerate(rows, 1)]
    connection.execute(old, values)
