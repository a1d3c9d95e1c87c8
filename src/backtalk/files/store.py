"""The table of files. `seq` keeps the order of insertion, which is the order of every list."""

import msgspec
from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Index, String, UniqueConstraint, select

from backtalk.http.paging import Cursor
from backtalk.storage.schema import Id, RowId, SmallText, table


class FileRecord(msgspec.Struct, frozen=True):
    """A file as the database knows it. Times are Unix seconds."""

    id: str
    project: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None = None


files = table(
    "files",
    Column("seq", RowId, primary_key=True, autoincrement=True),
    Id("id", nullable=False),
    Id("project", nullable=False),
    Column("filename", SmallText, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    UniqueConstraint("id"),
    Index(None, "project", "seq"),
    Index(None, "expires_at"),
)

_RECORD = [files.c[name] for name in FileRecord.__struct_fields__]


def insert(connection: Connection, record: FileRecord) -> None:
    connection.execute(files.insert().values(msgspec.structs.asdict(record)))


def find(connection: Connection, project: str, file_id: str, at: int) -> FileRecord | None:
    """The file, unless it has expired by `at`."""
    wanted = select(*_RECORD).where(files.c.project == project, files.c.id == file_id, _lives(at))
    row = connection.execute(wanted).one_or_none()
    return None if row is None else FileRecord(*row)


def page(
    connection: Connection, project: str, cursor: Cursor, *, purpose: str | None, at: int
) -> list[FileRecord] | None:
    """Up to `limit + 1` files; None when the cursor points at nothing."""
    wanted = [files.c.project == project, _lives(at)]
    if purpose is not None:
        wanted.append(files.c.purpose == purpose)
    if cursor.after is not None:
        after = connection.scalar(select(files.c.seq).where(files.c.project == project, files.c.id == cursor.after))
        if after is None:
            return None
        wanted.append(files.c.seq < after if cursor.order == "desc" else files.c.seq > after)
    order = files.c.seq.desc() if cursor.order == "desc" else files.c.seq.asc()
    rows = connection.execute(select(*_RECORD).where(*wanted).order_by(order).limit(cursor.limit + 1))
    return [FileRecord(*row) for row in rows]


def delete(connection: Connection, project: str, file_id: str) -> bool:
    """Whether the file was there."""
    gone = files.delete().where(files.c.project == project, files.c.id == file_id)
    return connection.execute(gone).rowcount == 1


def expired(connection: Connection, at: int, limit: int = 100) -> list[FileRecord]:
    """Files of all projects whose time is over. (A system statement.)"""
    rows = connection.execute(select(*_RECORD).where(files.c.expires_at <= at).limit(limit))
    return [FileRecord(*row) for row in rows]


def _lives(at: int) -> ColumnElement[bool]:
    return files.c.expires_at.is_(None) | (files.c.expires_at > at)
