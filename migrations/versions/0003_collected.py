"""When the file of a checkpoint was given up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; until now no file was given up."""
    with op.batch_alter_table("checkpoints") as checkpoints:
        checkpoints.add_column(sa.Column("collected_at", sa.Float(precision=53)))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("checkpoints") as checkpoints:
        checkpoints.drop_column("collected_at")
