"""Slopes of trials, and of their renders the shares that they are summed from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("trials", "renders")


def upgrade() -> None:
    """Add the columns. No trial had slopes until now."""
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("slopes", sa.JSON()))


def downgrade() -> None:
    """Drop the columns."""
    for name in _TABLES:
        with op.batch_alter_table(name) as table:
            table.drop_column("slopes")
