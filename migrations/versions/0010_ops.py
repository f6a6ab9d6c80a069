"""Trials are counted by state without reading them."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("ix_trials_state", "trials", ["state"])


def downgrade() -> None:
    op.drop_index("ix_trials_state", "trials")
