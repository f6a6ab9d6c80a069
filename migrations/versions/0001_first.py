"""The first schema: jobs, nodes, trials, renders, scores, checkpoints, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NUMBER = sa.Float(precision=53)
STATE = sa.String(20)


def upgrade() -> None:
    """Make every table; the columns are explained in service/db/models.py."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("created_at", NUMBER, nullable=False),
        sa.Column("ended_at", NUMBER),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "nodes",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("a_model", sa.String(300)),
        sa.Column("b_model", sa.String(300)),
        sa.Column("a_node_id", BIG_ID),
        sa.Column("b_node_id", BIG_ID),
        sa.Column("a_sha256", sa.String(64)),
        sa.Column("b_sha256", sa.String(64)),
        sa.Column("output", sa.String(300), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("stop_reason", sa.String()),
        sa.Column("failed_in_row", sa.Integer(), nullable=False),
        sa.Column("lease", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(200)),
        sa.Column("lease_seconds", NUMBER, nullable=False),
        sa.Column("heartbeat_at", NUMBER),
        sa.Column("created_at", NUMBER, nullable=False),
        sa.Column("started_at", NUMBER),
        sa.Column("ended_at", NUMBER),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_nodes_job_id"),
        sa.ForeignKeyConstraint(["a_node_id"], ["nodes.id"], name="fk_nodes_a_node_id"),
        sa.ForeignKeyConstraint(["b_node_id"], ["nodes.id"], name="fk_nodes_b_node_id"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("job_id", "position", name="uq_nodes_job_id_position"),
    )
    op.create_index("ix_nodes_state", "nodes", ["state"])
    op.create_index("ix_nodes_output", "nodes", ["output"])
    op.create_table(
        "trials",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("node_id", BIG_ID, nullable=False),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("weights", sa.JSON(), nullable=False),
        sa.Column("score", NUMBER),
        sa.Column("reason", sa.String()),
        sa.Column("seconds", NUMBER),
        sa.Column("timings", sa.JSON()),
        sa.Column("created_at", NUMBER, nullable=False),
        sa.Column("ended_at", NUMBER),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_trials_node_id"),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("node_id", "kind", "number", name="uq_trials_node_id_kind_number"),
    )
    op.create_table(
        "renders",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("trial_id", BIG_ID, nullable=False),
        sa.Column("probe", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("seconds", NUMBER, nullable=False),
        sa.Column("created_at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_renders_trial_id"),
        sa.PrimaryKeyConstraint("id", name="pk_renders"),
        sa.UniqueConstraint("trial_id", "probe", name="uq_renders_trial_id_probe"),
    )
    op.create_index("ix_renders_sha256", "renders", ["sha256"])
    op.create_table(
        "scores",
        sa.Column("render_id", BIG_ID, nullable=False),
        sa.Column("scorer", sa.String(100), nullable=False),
        sa.Column("value", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["render_id"], ["renders.id"], name="fk_scores_render_id"),
        sa.PrimaryKeyConstraint("render_id", "scorer", name="pk_scores"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("node_id", BIG_ID),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("inspection", sa.JSON(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("created_at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_checkpoints_node_id"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.UniqueConstraint("node_id", name="uq_checkpoints_node_id"),
    )
    op.create_index("ix_checkpoints_sha256", "checkpoints", ["sha256"])
    op.create_table(
        "events",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("node_id", BIG_ID),
        sa.Column("kind", sa.String(60), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_events_node_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_job_id", "events", ["job_id"])


def downgrade() -> None:
    """Drop every table."""
    for table in ("events", "checkpoints", "scores", "renders", "trials", "nodes", "jobs"):
        op.drop_table(table)
