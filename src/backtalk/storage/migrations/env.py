"""Alembic's entry: runs on the connection, and inside the transaction, that `storage.migrate` hands over."""

from alembic import context

from backtalk.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
