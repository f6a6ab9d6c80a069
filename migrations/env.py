"""Alembic's entry: run on the connection that `service.db.migrate.upgrade` opened."""

from alembic import context

from service.db.migrate import VERSION_TABLE
from service.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
