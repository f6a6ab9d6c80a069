"""Votes of people, the nodes that wait for them, and the workers that live."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make both tables; until now nobody voted."""
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("votes_needed", sa.Integer()))
    op.create_table(
        "votes",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("node_id", _BIG_ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("left_trial_id", _BIG_ID, nullable=False),
        sa.Column("right_trial_id", _BIG_ID, nullable=False),
        sa.Column("probe", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("voter", sa.String(100), nullable=False),
        sa.Column("counted", sa.Integer()),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_votes_node_id"),
        sa.ForeignKeyConstraint(["left_trial_id"], ["trials.id"], name="fk_votes_left_trial_id"),
        sa.ForeignKeyConstraint(["right_trial_id"], ["trials.id"], name="fk_votes_right_trial_id"),
        sa.PrimaryKeyConstraint("id", name="pk_votes"),
        sa.UniqueConstraint("node_id", "key", name="uq_votes_node_id_key"),
    )
    op.create_index("ix_votes_node_id_counted", "votes", ["node_id", "counted"])
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(40), nullable=False),
        sa.Column("device_name", sa.String(200), nullable=False),
        sa.Column("memory_used", sa.BigInteger()),
        sa.Column("memory_total", sa.BigInteger()),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("heartbeat_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_workers"),
    )
    op.create_index("ix_workers_heartbeat_at", "workers", ["heartbeat_at"])


def downgrade() -> None:
    """Drop both tables. A node that waits for votes is not known to the version before: it pauses."""
    op.execute("UPDATE nodes SET state = 'paused', reason = 'waited for votes' WHERE state = 'voting'")
    op.execute("UPDATE jobs SET state = 'paused' WHERE state = 'voting'")
    op.execute("UPDATE trials SET state = 'cancelled' WHERE state = 'waiting'")
    op.drop_table("workers")
    op.drop_table("votes")
    with op.batch_alter_table("nodes") as nodes:
        nodes.drop_column("votes_needed")
