"""What is told of a trial beside its score; jobs say whether their scorers are normalised."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Several scorers counted raw until now: the requests that are there say so."""
    with op.batch_alter_table("trials") as trials:
        trials.add_column(sa.Column("means", sa.JSON()))
        trials.add_column(sa.Column("warnings", sa.JSON()))
    connection = op.get_bind()
    for job_id, stored in connection.execute(sa.text("SELECT id, request FROM jobs")).all():
        request = json.loads(stored) if isinstance(stored, str) else dict(stored)
        request = {**request, "normalise": len(request.get("scorers", [])) < 2, "watch": None}
        value = "CAST(:request AS JSON)" if connection.dialect.name == "postgresql" else ":request"
        connection.execute(
            sa.text(f"UPDATE jobs SET request = {value} WHERE id = :id"),
            {"request": json.dumps(request), "id": job_id},
        )


def downgrade() -> None:
    """Drop the columns; what the requests say of them is not known to the version before."""
    with op.batch_alter_table("trials") as trials:
        trials.drop_column("warnings")
        trials.drop_column("means")
    connection = op.get_bind()
    for job_id, stored in connection.execute(sa.text("SELECT id, request FROM jobs")).all():
        request = json.loads(stored) if isinstance(stored, str) else dict(stored)
        kept = {name: value for name, value in request.items() if name not in ("normalise", "watch")}
        value = "CAST(:request AS JSON)" if connection.dialect.name == "postgresql" else ":request"
        connection.execute(
            sa.text(f"UPDATE jobs SET request = {value} WHERE id = :id"),
            {"request": json.dumps(kept), "id": job_id},
        )
