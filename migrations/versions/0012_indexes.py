"""What is asked of a node's trials at every change is answered by indexes: trials are long rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

STANDING = "ix_trials_node_id_kind_state_score_estimate_seconds"
WARNED = "ix_trials_warned"
NOISE = "ix_trials_noise"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index(STANDING, "trials", ["node_id", "kind", "state", "score", "estimate", "seconds"])
    for name, columns, there in (
        (WARNED, ["node_id", "kind"], "warnings"),
        (NOISE, ["node_id", "number", "probe_noise"], "probe_noise"),
    ):
        where = sa.text(f"{there} IS NOT NULL")
        op.create_index(name, "trials", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop them."""
    for name in (STANDING, WARNED, NOISE):
        op.drop_index(name, "trials")
