"""One schema and one way to reach it on SQLite, PostgreSQL and MySQL/MariaDB.

`Storage.read` and `Storage.write` run a *transaction function*: a plain function of a SQLAlchemy connection. Every
query lives in a room's `store.py`; nothing outside this package opens a connection.
"""

from sqlalchemy import Connection

from backtalk.storage.base import Storage
from backtalk.storage.engine import open_storage
from backtalk.storage.schema import Blob, Json, LongText, RowId, SmallText, metadata, table

__all__ = [
    "Blob",
    "Connection",
    "Json",
    "LongText",
    "RowId",
    "SmallText",
    "Storage",
    "metadata",
    "open_storage",
    "table",
]
