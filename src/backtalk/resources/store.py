"""Typed objects in SQL: one table for all kinds, the object itself as JSON.

A field is compared as what its model declares it to be; what is stored as something else counts as missing. Texts are
compared and ordered byte by byte, missing values come last. So it is on every database.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    LargeBinary,
    Numeric,
    and_,
    case,
    cast,
    collate,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from backtalk.core.clock import now
from backtalk.http.paging import Cursor
from backtalk.jobs.store import enqueue
from backtalk.storage.schema import Id, Json, RowId, table

DOCUMENT, SWEEP = "resources.document", "resources.sweep"
SORTED_CHARACTERS = 250
"""How much of a text counts for its place in an order; MySQL and MariaDB sort by no more than 1,024 bytes."""
_SWEPT = 200

Type: TypeAlias = Literal["text", "int", "float", "bool"]

resources = table(
    "resources",
    Column("number", RowId, primary_key=True, autoincrement=True),
    Id("id", nullable=False, unique=True),
    Id("project", nullable=False),
    Id("kind", nullable=False),
    Column("data", Json, nullable=False),
    Id("document"),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index(None, "project", "kind", "number"),
    Index(None, "document"),
)

stores = table(
    "resource_stores",
    Id("project", primary_key=True),
    Id("kind", primary_key=True),
    Id("store_id", nullable=False),
)


class Kind(msgspec.Struct, frozen=True):
    """A declared resource. Of a searchable one each object is a document of a vector store too."""

    name: str
    searchable: bool = False


class Field(msgspec.Struct, frozen=True):
    """A scalar field of a model: its name in the JSON, and what it is compared as."""

    name: str
    type: Type


class Record(msgspec.Struct, frozen=True):
    """A stored object. `document` is what the search knows it by. Times are Unix seconds."""

    id: str
    data: dict[str, Any]
    document: str | None
    created_at: int
    updated_at: int


Filters: TypeAlias = Sequence[tuple[Field, Any]]
_RECORD = [resources.c[name] for name in Record.__struct_fields__]


def add(connection: Connection, project: str, kind: Kind, object_id: str, data: dict[str, Any]) -> Record:
    at = now()
    record = Record(object_id, data, None, at, at)
    connection.execute(
        insert(resources).values(project=project, kind=kind.name, **msgspec.structs.asdict(record)),
    )
    _follow(connection, project, kind, object_id)
    return record


def find(connection: Connection, project: str, kind: str, object_id: str) -> Record | None:
    row = connection.execute(select(*_RECORD).where(*_is(project, kind, object_id))).one_or_none()
    return None if row is None else Record(*row)


def replace(
    connection: Connection,
    project: str,
    kind: Kind,
    object_id: str,
    data: dict[str, Any],
    expected: dict[str, Any] | None = None,
) -> Record | None:
    """The object as it is now; None when it is not there, or no longer as `expected`."""
    as_expected = [] if expected is None else [resources.c.data == expected]
    changed = update(resources).where(*_is(project, kind.name, object_id), *as_expected)
    if connection.execute(changed.values(data=data, updated_at=now())).rowcount != 1:
        return None
    _follow(connection, project, kind, object_id)
    return find(connection, project, kind.name, object_id)


def remove(connection: Connection, project: str, kind: Kind, object_id: str) -> bool:
    """Whether it was there."""
    known = select(resources.c.document).where(*_is(project, kind.name, object_id)).with_for_update()
    document = connection.execute(known).scalar_one_or_none()
    gone = connection.execute(delete(resources).where(*_is(project, kind.name, object_id))).rowcount == 1
    if document is not None:
        enqueue(connection, project, DOCUMENT, {"kind": kind.name, "id": object_id, "document": document})
    return gone


def page(
    connection: Connection, project: str, kind: str, cursor: Cursor, order_by: Field | None, filters: Filters
) -> list[Record] | None:
    """Up to `limit + 1` objects, by insertion or by a field and then by insertion; None for an unknown cursor."""
    dialect, number, down = connection.dialect.name, resources.c.number, cursor.order == "desc"
    key = None if order_by is None else _value(dialect, order_by, SORTED_CHARACTERS)
    wanted = [resources.c.project == project, resources.c.kind == kind]
    bounds = []
    if cursor.after is not None:
        place = select(number, null() if key is None else key).where(*wanted, resources.c.id == cursor.after)
        at = connection.execute(place).one_or_none()
        if at is None:
            return None
        bounds.append(_beyond(key, at[0], at[1], down))
    order = [] if key is None else [key.is_(None), key.desc() if down else key.asc()]
    order.append(number.desc() if down else number.asc())
    query = select(*_RECORD).where(*wanted, *bounds, *_fits(dialect, filters)).order_by(*order)
    return [Record(*row) for row in connection.execute(query.limit(cursor.limit + 1))]


def of_documents(
    connection: Connection, project: str, kind: str, documents: Collection[str], filters: Filters
) -> dict[str, Record]:
    """The objects behind these documents, as far as they fit the filters."""
    query = select(*_RECORD).where(
        resources.c.project == project,
        resources.c.kind == kind,
        resources.c.document.in_(documents),
        *_fits(connection.dialect.name, filters),
    )
    return {row.document: Record(*row) for row in connection.execute(query)}


# --- documents


def set_document(
    connection: Connection, project: str, kind: str, object_id: str, old: str | None, new: str | None
) -> bool:
    """Names the document of an object. False when the object is gone or another document came first."""
    was = resources.c.document.is_(None) if old is None else resources.c.document == old
    query = update(resources).where(*_is(project, kind, object_id), was).values(document=new)
    return connection.execute(query).rowcount == 1


def store_of(connection: Connection, project: str, kind: str) -> str | None:
    return connection.scalar(select(stores.c.store_id).where(stores.c.project == project, stores.c.kind == kind))


def keep_store(connection: Connection, project: str, kind: str, store_id: str) -> str:
    """Makes this the vector store of a kind, to be filled by a job; or tells which one was there first."""
    try:
        with connection.begin_nested():
            connection.execute(insert(stores).values(project=project, kind=kind, store_id=store_id))
    except IntegrityError:
        return store_of(connection, project, kind) or store_id
    enqueue(connection, project, SWEEP, {"kind": kind, "after": 0})
    return store_id


def forget_store(connection: Connection, project: str, kind: str, store_id: str) -> None:
    gone = delete(stores).where(stores.c.project == project, stores.c.kind == kind, stores.c.store_id == store_id)
    connection.execute(gone)


def sweep(connection: Connection, project: str, kind: str, after: int) -> None:
    """Enqueues the documents of some objects, and a job for those that follow."""
    query = select(resources.c.number, resources.c.id).where(
        resources.c.project == project, resources.c.kind == kind, resources.c.number > after
    )
    rows = connection.execute(query.order_by(resources.c.number).limit(_SWEPT)).all()
    for row in rows:
        enqueue(connection, project, DOCUMENT, {"kind": kind, "id": row.id})
    if len(rows) == _SWEPT:
        enqueue(connection, project, SWEEP, {"kind": kind, "after": rows[-1].number})


# --- helpers


def _is(project: str, kind: str, object_id: str) -> tuple[ColumnElement[bool], ...]:
    return (resources.c.project == project, resources.c.kind == kind, resources.c.id == object_id)


def _follow(connection: Connection, project: str, kind: Kind, object_id: str) -> None:
    if kind.searchable:
        enqueue(connection, project, DOCUMENT, {"kind": kind.name, "id": object_id})


def _fits(dialect: str, filters: Filters) -> list[ColumnElement[bool]]:
    return [_value(dialect, field) == _bound(dialect, field, value) for field, value in filters]


def _beyond(key: Any, number: int, value: Any, down: bool) -> ColumnElement[bool]:
    """What comes after the row with this number and key."""
    later: ColumnElement[bool] = resources.c.number < number if down else resources.c.number > number
    if key is None:
        return later
    if value is None:
        return and_(key.is_(None), later)
    return or_(key < value if down else key > value, and_(key == value, later), key.is_(None))


_JSON_TYPES: dict[Type, tuple[str, ...]] = {
    "text": ("text", "string", "STRING"),
    "bool": ("true", "false", "boolean", "BOOLEAN"),
    "int": ("integer", "number", "INTEGER", "UNSIGNED INTEGER"),
    "float": ("integer", "real", "number", "INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL"),
}
"""What SQLite, PostgreSQL, and MySQL and MariaDB call the types of JSON."""


def _value(dialect: str, field: Field, characters: int | None = None) -> Any:
    """A field as SQL; NULL where it is missing. The field's name is the model's, and bound all the same."""
    data, path = resources.c.data, f'$."{field.name}"'
    if dialect == "sqlite":
        kind, text = func.json_type(data, path), func.json_extract(data, path)
    elif dialect == "postgresql":
        inner = cast(data, JSONB)[field.name]
        kind, text = func.jsonb_typeof(inner), inner.astext
    else:
        inner = func.json_extract(data, path)
        kind, text = func.json_type(inner), func.json_unquote(inner)
    return case((kind.in_(_JSON_TYPES[field.type]), _typed(dialect, field.type, text, characters)))


def _typed(dialect: str, kind: Type, text: Any, characters: int | None) -> Any:
    if kind == "text":
        part = text if characters is None else func.substr(text, 1, characters)
        binary = cast(part, LargeBinary)  # a text's collation would ignore spaces at the end
        return {"sqlite": part, "postgresql": collate(part, "C")}.get(dialect, binary)
    if dialect == "sqlite":
        return text
    if kind == "bool":
        return case((text == "true", 1), else_=0)
    if kind == "float":
        return cast(text, Double)
    return cast(text, Numeric if dialect == "postgresql" else BigInteger)


def _bound(dialect: str, field: Field, value: Any) -> Any:
    if field.type == "text" and dialect in ("mysql", "mariadb"):
        return value.encode()
    if field.type == "float" and dialect == "sqlite":  # read by the same function as the stored one, to the last bit
        return func.json_extract(msgspec.json.encode(value).decode(), "$")
    return int(value) if field.type == "bool" else value
