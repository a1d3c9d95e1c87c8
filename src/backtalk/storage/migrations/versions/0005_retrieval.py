"""Vector stores, their files, batches and chunks."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, UniqueConstraint

from backtalk.storage.schema import TABLE_OPTIONS, Blob, Id, Json, LongText, RowId, SmallText

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "vector_stores",
        Column("seq", RowId, primary_key=True, autoincrement=True),
        Id("id", nullable=False),
        Id("project", nullable=False),
        Column("name", SmallText, nullable=False),
        Column("metadata", Json, nullable=False),
        Column("version", BigInteger, nullable=False),
        Id("embedder", nullable=False),
        Column("dimension", Integer, nullable=False),
        Column("expires_days", Integer),
        Column("created_at", BigInteger, nullable=False),
        Column("last_active_at", BigInteger, nullable=False),
        UniqueConstraint("id"),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_vector_stores_project_seq", "vector_stores", ["project", "seq"])
    op.create_table(
        "vector_store_files",
        Column("seq", RowId, primary_key=True, autoincrement=True),
        Id("project", nullable=False),
        Id("store_id", nullable=False),
        Id("file_id", nullable=False),
        Column("filename", SmallText, nullable=False),
        Column("status", String(16), nullable=False),
        Column("attributes", Json, nullable=False),
        Column("chunk_size", Integer, nullable=False),
        Column("chunk_overlap", Integer, nullable=False),
        Column("usage_bytes", BigInteger, nullable=False),
        Column("last_error", Json),
        Id("batch_id"),
        Id("revision", nullable=False),
        Id("indexed"),
        Column("created_at", BigInteger, nullable=False),
        UniqueConstraint("store_id", "file_id"),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_vector_store_files_file_id", "vector_store_files", ["file_id"])
    op.create_index("ix_vector_store_files_batch_id", "vector_store_files", ["batch_id"])
    op.create_table(
        "file_batches",
        Id("id", primary_key=True),
        Id("project", nullable=False),
        Id("store_id", nullable=False),
        Column("cancelled", Integer, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_index("ix_file_batches_store_id", "file_batches", ["store_id"])
    op.create_table(
        "chunks",
        Column("id", RowId, primary_key=True, autoincrement=True),
        Id("project", nullable=False),
        Id("store_id", nullable=False),
        Id("file_id", nullable=False),
        Column("ordinal", Integer, nullable=False),
        Column("start", Integer, nullable=False),
        Column("end", Integer, nullable=False),
        Column("text", LongText, nullable=False),
        Column("vector", Blob, nullable=False),
        sqlite_autoincrement=True,
        **TABLE_OPTIONS,
    )
    op.create_index("ix_chunks_store_id_file_id_ordinal", "chunks", ["store_id", "file_id", "ordinal"])
