"""Column types and table options that mean the same on every database."""

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

LongText = Text().with_variant(LONGTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
Blob = LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")
RowId = BigInteger().with_variant(Integer, "sqlite")
SmallText = String(512)


class Json(TypeDecorator[Any]):
    """JSON in a text column. msgspec writes it, so NUL stays escaped and no database gets to reorder the keys."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else msgspec.json.decode(value)


def Id(name: str, *args: Any, **kw: Any) -> Column[str]:  # noqa: N802  # reads as the column type that it is
    """A column that holds one of our ids, or a project's name: short, compared byte by byte."""
    return Column(name, String(128), *args, **kw)


TABLE_OPTIONS: dict[str, Any] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
}
"""What MySQL and MariaDB have to be told; `table` and the migrations' `op.create_table` pass it on."""


def table(name: str, *columns: SchemaItem, **options: Any) -> Table:
    """A table whose text is UTF-8 and compared byte by byte on every database."""
    return Table(name, metadata, *columns, **TABLE_OPTIONS, **options)
