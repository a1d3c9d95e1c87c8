"""What conversations are searched by: the folded text of their titles and messages."""

import unicodedata
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, MetaData, Table, bindparam, inspect, select, update

from backtalk.domain.items import text_of
from backtalk.storage.schema import Id, Json, LongText

revision = "0007"
down_revision = "0006"

MOST = 20_000
BATCH = 200


def upgrade() -> None:
    _add("conversations", "title_words")  # no title was ever written until now
    _add("items", "words")
    _fill()


def _add(table: str, name: str) -> None:
    """MySQL and MariaDB keep a column when the process dies that was filling it."""
    if name not in {column["name"] for column in inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, Column(name, LongText))


def _fill() -> None:
    """System statements: the items of all projects, batch by batch."""
    columns = (Column("number", BigInteger), Id("project"), Column("data", Json), Column("words", LongText))
    items = Table("items", MetaData(), *columns)
    it = (items.c.number == bindparam("at")) & (items.c.project == bindparam("of"))
    fill = update(items).where(it).values(words=bindparam("found"))
    last = 0
    while rows := _after(items, last):
        found = [{"at": row.number, "of": row.project, "found": _words(row.data)} for row in rows]
        if said := [row for row in found if row["found"]]:
            op.get_bind().execute(fill, said)
        last = rows[-1].number


def _after(items: Table, number: int) -> Any:
    query = select(items.c.number, items.c.project, items.c.data).where(items.c.number > number)
    return op.get_bind().execute(query.order_by(items.c.number).limit(BATCH)).all()


def _words(item: dict[str, Any]) -> str:
    """As `conversations.words.words_of` was when this was written."""
    if item.get("type") != "message" or item.get("role") not in ("user", "assistant"):
        return ""
    plain = unicodedata.normalize("NFKC", text_of(item)[:MOST].replace("\0", " "))
    return unicodedata.normalize("NFKC", plain.casefold())[:MOST]
