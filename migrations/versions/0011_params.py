"""Trials keep what they chose beside block weights."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column. No trial had a choice until now."""
    with op.batch_alter_table("trials") as table:
        table.add_column(sa.Column("choices", sa.JSON()))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("trials") as table:
        table.drop_column("choices")
