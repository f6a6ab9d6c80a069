"""Trials that racing stopped, with an estimate of their score; trials that are only to be beaten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ADDED = ("may_win", "estimate", "standard_error", "probes_seen", "probe_noise")


def upgrade() -> None:
    """Add the columns. Until now every trial was rendered whole and could win."""
    with op.batch_alter_table("trials") as trials:
        trials.add_column(sa.Column("may_win", sa.Boolean(), nullable=False, server_default=sa.true()))
        trials.add_column(sa.Column("estimate", sa.Float(53)))
        trials.add_column(sa.Column("standard_error", sa.Float(53)))
        trials.add_column(sa.Column("probes_seen", sa.Integer()))
        trials.add_column(sa.Column("probe_noise", sa.Float(53)))


def downgrade() -> None:
    """Drop the columns; a trial that was stopped becomes one that failed, as it has no score."""
    trial = sa.table("trials", sa.column("state", sa.String), sa.column("reason", sa.String))
    stopped = "stopped early by racing: it has no score"
    op.execute(trial.update().where(trial.c.state == "stopped").values(state="failed", reason=stopped))
    with op.batch_alter_table("trials") as trials:
        for name in reversed(_ADDED):
            trials.drop_column(name)
