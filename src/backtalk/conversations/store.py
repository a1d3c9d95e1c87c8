"""Conversations and items in SQL.

Items form a tree: each knows the item that it followed on (`parent_id`), so a chain of responses is a walk from a leaf
to the root. Within a conversation they also have a `position`: that is the order in which they were appended, on
whatever branch. The default branch is the one that ends in the item appended last.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    String,
    delete,
    insert,
    literal,
    select,
    update,
)

from backtalk.conversations.tree import Tree, grow, newest, path
from backtalk.conversations.words import fold, title_of, words_of
from backtalk.core.clock import now
from backtalk.domain.items import Item
from backtalk.http.paging import Cursor
from backtalk.storage.schema import Id, Json, LongText, RowId, table

conversations = table(
    "conversations",
    Column("number", RowId, primary_key=True, autoincrement=True),
    Id("id", nullable=False, unique=True),
    Id("project", nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("title", String(512)),
    Column("title_words", LongText),
)

items = table(
    "items",
    Column("number", RowId, primary_key=True, autoincrement=True),
    Id("id", nullable=False, unique=True),
    Id("project", nullable=False),
    Id("parent_id"),
    Id("response_id"),
    Column("kind", String(8), nullable=False),  # input | output
    Id("conversation_id"),
    Column("position", BigInteger),
    Column("created_at", Integer, nullable=False),
    Column("data", Json, nullable=False),
    Column("words", LongText),
)
Index("ix_items_response_id", items.c.response_id, items.c.number)
Index("ix_items_conversation_id", items.c.conversation_id, items.c.position)
Index("ix_items_parent_id", items.c.parent_id)

MAX_CHAIN = 100_000
_WALK = 500
"""Steps up the tree in one query: MySQL and MariaDB stop a recursion after 1,000, the latter without a word."""
_OPENING = 20
"""How many items a title is looked for in."""
_AT_ONCE = 500
_ROUNDS = 100


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def create(
    connection: Connection, project: str, conversation_id: str, metadata: dict[str, str], title: str | None = None
) -> int:
    """Makes an empty conversation and returns its time of creation."""
    created = now()
    row = {"id": conversation_id, "project": project, "created_at": created, "metadata": metadata, **_titled(title)}
    connection.execute(insert(conversations).values(row))
    return created


def find(connection: Connection, project: str, conversation_id: str, *, lock: bool = False) -> Any | None:
    """(number, id, created_at, metadata, title, …), or None. With `lock`, appends to it wait for this transaction."""
    query = select(conversations).where(conversations.c.id == conversation_id, conversations.c.project == project)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def listing(connection: Connection, project: str, cursor: Cursor, terms: Sequence[str] = ()) -> list[Any] | None:
    """Up to `limit + 1` conversations that have each of `terms` in their title or a message; None for an unknown cursor.

    Terms are folded as `words.fold` does it.
    """
    query = select(conversations).where(conversations.c.project == project, *(_has(project, term) for term in terms))
    if cursor.after:
        seen = find(connection, project, cursor.after)
        if seen is None:
            return None
        query = query.where(_beyond(conversations.c.number, seen.number, cursor.order))
    return list(connection.execute(query.order_by(_ordered(conversations.c.number, cursor)).limit(cursor.limit + 1)))


def _has(project: str, term: str) -> Any:
    """Whether a conversation contains a term, every character of which stands for itself."""
    said = select(items.c.id).where(
        items.c.conversation_id == conversations.c.id,
        items.c.project == project,
        items.c.words.contains(term, autoescape=True),
    )
    return conversations.c.title_words.contains(term, autoescape=True) | said.exists()


def set_metadata(connection: Connection, project: str, conversation_id: str, metadata: dict[str, str]) -> None:
    query = update(conversations).where(conversations.c.id == conversation_id, conversations.c.project == project)
    connection.execute(query.values(metadata=metadata))


def set_title(connection: Connection, project: str, conversation_id: str, title: str | None) -> None:
    query = update(conversations).where(conversations.c.id == conversation_id, conversations.c.project == project)
    connection.execute(query.values(_titled(title)))


def title_from_items(connection: Connection, project: str, conversation_id: str) -> None:
    """Gives a conversation the title that its first items make, or none."""
    of_it = _of(project, conversation_id)
    first = select(items.c.data).where(of_it).order_by(items.c.position).limit(_OPENING)
    set_title(connection, project, conversation_id, title_of(connection.execute(first).scalars()))


def _titled(title: str | None) -> dict[str, str | None]:
    return {"title": title, "title_words": None if title is None else fold(title)}


def remove(connection: Connection, project: str, conversation_id: str) -> bool:
    """Deletes a conversation and the items that no response holds; the responses keep theirs."""
    of_it = _of(project, conversation_id)
    _delete_unheld(connection, project, of_it & items.c.response_id.is_(None))
    connection.execute(update(items).where(of_it).values(conversation_id=None, position=None))
    gone = delete(conversations).where(conversations.c.id == conversation_id, conversations.c.project == project)
    return connection.execute(gone).rowcount == 1


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_items(
    connection: Connection,
    project: str,
    new: Sequence[Item],
    *,
    parent_id: str | None,
    response_id: str | None = None,
    kind: str = "input",
) -> str | None:
    """Inserts items, each following on the one before it, the first on `parent_id`. Returns the id of the last."""
    created = now()
    rows = []
    for item in new:
        rows.append(
            {
                "id": item["id"],
                "project": project,
                "parent_id": parent_id,
                "response_id": response_id,
                "kind": kind,
                "created_at": created,
                "data": item,
            }
        )
        parent_id = item["id"]
    if rows:
        connection.execute(insert(items), rows)
    return parent_id


def append_to_conversation(
    connection: Connection, project: str, conversation_id: str, ids: Sequence[str], *, branched: bool = False
) -> None:
    """Puts items at the end of a conversation, in this order. A conversation deleted meanwhile stays deleted.

    The first of them then follows on what was last there, whatever it was said to: of two responses that ran side by
    side, both stay on the default branch. With `branched` its parent stays.
    """
    row = find(connection, project, conversation_id, lock=True)
    if row is None or not ids:
        return
    last = _last(connection, project, conversation_id)
    position = last.position if last else 0
    data = find_items(connection, project, ids)
    for offset, item_id in enumerate(ids, 1):
        query = update(items).where(items.c.id == item_id, items.c.project == project)
        words = words_of(data[item_id]) if item_id in data else None
        place = {"conversation_id": conversation_id, "position": position + offset, "words": words}
        connection.execute(query.values(place))
    if last and not branched:
        first = update(items).where(items.c.id == ids[0], items.c.project == project)
        connection.execute(first.values(parent_id=last.id))
    if row.title is None:
        title_from_items(connection, project, conversation_id)


def last_of_conversation(connection: Connection, project: str, conversation_id: str) -> str | None:
    """The id of the item appended last, the leaf of the default branch."""
    last = _last(connection, project, conversation_id)
    return last.id if last else None


def _last(connection: Connection, project: str, conversation_id: str) -> Any | None:
    """(id, position) of the item appended last."""
    query = select(items.c.id, items.c.position).where(_of(project, conversation_id))
    return connection.execute(query.order_by(items.c.position.desc()).limit(1)).one_or_none()


def branch(connection: Connection, project: str, conversation_id: str, leaf_id: str | None = None) -> list[Item] | None:
    """The items from the root to `leaf_id`, oldest first, by default to the item appended last.

    None when `leaf_id` is not in the conversation.
    """
    found = tree(connection, project, conversation_id)
    if leaf_id is not None and leaf_id not in found:
        return None
    ids = path(found, leaf_id or newest(found))
    data = _data_of(connection, project, conversation_id, ids, whole=len(ids) == len(found))
    return [data[item_id] for item_id in ids]


def _data_of(
    connection: Connection, project: str, conversation_id: str, ids: Sequence[str], *, whole: bool
) -> dict[str, Item]:
    """Items of a conversation by their ids; `whole`: they are all there are."""
    if whole:
        query = select(items.c.id, items.c.data).where(_of(project, conversation_id))
        return {row.id: row.data for row in connection.execute(query)}
    parts = (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))
    return {item_id: item for part in parts for item_id, item in find_items(connection, project, part).items()}


def tree(connection: Connection, project: str, conversation_id: str) -> Tree:
    """All items of a conversation, as the tree that they form in it."""
    query = select(items.c.id, items.c.parent_id).where(_of(project, conversation_id))
    return _tree(connection, project, connection.execute(query.order_by(items.c.position)).all())


def _tree(connection: Connection, project: str, rows: Sequence[Any]) -> Tree:
    """The tree of rows with `id` and `parent_id`; parents that are not among them are looked up."""
    known = {row.id for row in rows}
    outside: dict[str, str | None] = {}
    missing = {row.parent_id for row in rows} - known - {None}
    for _ in range(_ROUNDS):
        if not missing:
            break
        asked = sorted(missing)[:_AT_ONCE]
        query = select(items.c.id, items.c.parent_id).where(items.c.id.in_(asked), items.c.project == project)
        found = {row.id: row.parent_id for row in connection.execute(query)}
        outside |= found
        known.update(asked)
        missing = (missing | set(found.values())) - known - {None}
    return grow(((row.id, row.parent_id) for row in rows), outside)


def chain(connection: Connection, project: str, leaf_id: str | None) -> list[Item]:
    """The items from the root of a tree down to `leaf_id`, oldest first."""
    found: list[Item] = []
    while leaf_id is not None and len(found) < MAX_CHAIN:
        rows = _walk(connection, project, leaf_id)
        found += (row.data for row in rows)
        leaf_id = rows[-1].parent_id if rows else None
    return found[::-1]


def _walk(connection: Connection, project: str, leaf_id: str) -> Sequence[Any]:
    """(data, parent_id) of an item and of up to `_WALK` above it, the item first."""
    columns = (items.c.id, items.c.parent_id, items.c.data)
    mine = items.c.project == project
    walk = select(*columns, literal(0).label("depth")).where(items.c.id == leaf_id, mine).cte("walk", recursive=True)
    up = select(*columns, (walk.c.depth + 1).label("depth")).join(walk, items.c.id == walk.c.parent_id)
    walk = walk.union_all(up.where(mine, walk.c.depth < _WALK))
    return connection.execute(select(walk.c.data, walk.c.parent_id).order_by(walk.c.depth)).all()


def ids_of_response(connection: Connection, project: str, response_id: str) -> list[str]:
    """The ids of a response's input and output items, in order."""
    of_it = (items.c.response_id == response_id) & (items.c.project == project)
    return list(connection.execute(select(items.c.id).where(of_it).order_by(items.c.number)).scalars())


def find_items(connection: Connection, project: str, ids: Sequence[str]) -> dict[str, Item]:
    """The items with these ids that exist in the project."""
    query = select(items.c.id, items.c.data).where(items.c.id.in_(ids), items.c.project == project)
    return {row.id: row.data for row in connection.execute(query)}


def conversation_item(connection: Connection, project: str, conversation_id: str, item_id: str) -> Item | None:
    query = select(items.c.data).where(_of(project, conversation_id), items.c.id == item_id)
    return connection.execute(query).scalar_one_or_none()


def remove_from_conversation(connection: Connection, project: str, conversation_id: str, item_id: str) -> bool:
    """Takes one item out of a conversation. If no response holds it, it is deleted and its children adopted."""
    it = _of(project, conversation_id) & (items.c.id == item_id)
    row = connection.execute(select(items.c.parent_id, items.c.response_id).where(it)).one_or_none()
    if row is None:
        return False
    if row.response_id is not None:
        connection.execute(update(items).where(it).values(conversation_id=None, position=None))
        return True
    _adopt(connection, project, item_id, row.parent_id)
    connection.execute(delete(items).where(it))
    return True


def list_items(connection: Connection, project: str, cursor: Cursor, *, response_id: str) -> list[Item] | None:
    """Up to `limit + 1` items of a response's input; None for an unknown cursor."""
    of_it = (items.c.response_id == response_id) & (items.c.kind == "input") & (items.c.project == project)
    query = select(items.c.data).where(of_it)
    if cursor.after:
        seen = connection.execute(select(items.c.number).where(of_it, items.c.id == cursor.after)).scalar_one_or_none()
        if seen is None:
            return None
        query = query.where(_beyond(items.c.number, seen, cursor.order))
    return list(connection.execute(query.order_by(_ordered(items.c.number, cursor)).limit(cursor.limit + 1)).scalars())


def forget_response(connection: Connection, project: str, response_id: str) -> None:
    """Removes the items that only a response held; those in a conversation stay in it."""
    of_it = (items.c.response_id == response_id) & (items.c.project == project)
    _delete_unheld(connection, project, of_it & items.c.conversation_id.is_(None))
    connection.execute(update(items).where(of_it).values(response_id=None))


def _delete_unheld(connection: Connection, project: str, unheld: Any) -> None:
    """Deletes items; what followed on them follows on what was before them."""
    order = (items.c.position, items.c.number)  # of a conversation, of a response: a parent comes before its children
    rows = connection.execute(select(items.c.id, items.c.parent_id).where(unheld).order_by(*order)).all()
    for row in reversed(rows):
        _adopt(connection, project, row.id, row.parent_id)
    connection.execute(delete(items).where(unheld))


def _adopt(connection: Connection, project: str, item_id: str, parent_id: str | None) -> None:
    """The children of an item that goes away become its parent's."""
    children = update(items).where(items.c.parent_id == item_id, items.c.project == project)
    connection.execute(children.values(parent_id=parent_id))


def _of(project: str, conversation_id: str) -> Any:
    return (items.c.conversation_id == conversation_id) & (items.c.project == project)


def _beyond(column: Any, value: Any, order: str) -> Any:
    return column < value if order == "desc" else column > value


def _ordered(column: Any, cursor: Cursor) -> Any:
    return column.desc() if cursor.order == "desc" else column.asc()
