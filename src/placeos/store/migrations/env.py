"""Alembic's environment: runs on the connection that `placeos.store.migrating` hands over."""

from alembic import context

from placeos.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
