"""Trees of nodes: names, kinds and inputs of nodes; scores and hashes of their outputs; collected renders."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.Float(precision=53)
STATE = sa.String(20)


def upgrade() -> None:
    """Add the columns, and fill them for the pairs that are there."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("leaves", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("name", sa.String(120), nullable=False, server_default=""))
        nodes.add_column(sa.Column("kind", STATE, nullable=False, server_default="merge"))
        nodes.add_column(sa.Column("level", sa.Integer(), nullable=False, server_default="1"))
        nodes.add_column(sa.Column("a_input", sa.String()))
        nodes.add_column(sa.Column("b_input", sa.String()))
        nodes.add_column(sa.Column("output_sha256", sa.String(64)))
        nodes.add_column(sa.Column("score", NUMBER))
    with op.batch_alter_table("renders") as renders:
        renders.add_column(sa.Column("state", STATE, nullable=False, server_default="stored"))
    op.create_index("ix_events_node_id_kind", "events", ["node_id", "kind"])
    _fill(op.get_bind())
    with op.batch_alter_table("nodes") as nodes:
        nodes.create_unique_constraint("uq_nodes_job_id_name", ["job_id", "name"])


def downgrade() -> None:
    """Drop the columns; trees of more than one node have no place in the first schema."""
    op.drop_index("ix_events_node_id_kind", "events")
    with op.batch_alter_table("renders") as renders:
        renders.drop_column("state")
    with op.batch_alter_table("nodes") as nodes:
        nodes.drop_constraint("uq_nodes_job_id_name", type_="unique")
        for column in ("name", "kind", "level", "a_input", "b_input", "output_sha256", "score"):
            nodes.drop_column(column)
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("leaves")


def _fill(connection: sa.Connection) -> None:
    """Every job so far is one pair, node `01b`; its winner's held-out trial takes the winner's number."""
    pairs = connection.execute(
        sa.text(
            "SELECT nodes.id, jobs.id, jobs.request, a_model, b_model, a_sha256, b_sha256 "
            "FROM nodes JOIN jobs ON jobs.id = nodes.job_id"
        )
    ).all()
    for node_id, job_id, request, a, b, a_sha256, b_sha256 in pairs:
        values = {
            "leaves": json.dumps({a: a_sha256, b: b_sha256}),
            "request": _request(request),
            "id": job_id,
        }
        cast = "CAST(:leaves AS JSON)" if connection.dialect.name == "postgresql" else ":leaves"
        cast_request = cast.replace("leaves", "request")
        connection.execute(
            sa.text(f"UPDATE jobs SET leaves = {cast}, request = {cast_request} WHERE id = :id"), values
        )
        winner, score = _winner(connection, node_id)
        connection.execute(
            sa.text(
                "UPDATE nodes SET name = '01b', a_input = :a, b_input = :b, score = :score WHERE id = :id"
            ),
            {"a": a, "b": b, "score": score, "id": node_id},
        )
        connection.execute(
            sa.text("UPDATE trials SET number = :n WHERE node_id = :id AND kind = 'heldout_winner'"),
            {"n": winner, "id": node_id},
        )


def _winner(connection: sa.Connection, node_id: int) -> tuple[int, float | None]:
    """(number of the best search trial, its held-out score or else its own, where the node is done)."""
    best = connection.execute(
        sa.text(
            "SELECT number, score FROM trials WHERE node_id = :id AND kind = 'search' AND state = 'done' "
            "ORDER BY score DESC, number LIMIT 1"
        ),
        {"id": node_id},
    ).one_or_none()
    heldout = connection.execute(
        sa.text(
            "SELECT score FROM trials WHERE node_id = :id AND kind = 'heldout_winner' AND state = 'done'"
        ),
        {"id": node_id},
    ).one_or_none()
    done = connection.scalar(sa.text("SELECT state FROM nodes WHERE id = :id"), {"id": node_id}) == "done"
    number = best[0] if best else 0
    if not done or best is None:
        return number, None
    return number, heldout[0] if heldout else best[1]


def _request(stored: Any) -> str:
    """The stored request with `leaves` in the place of `a` and `b`."""
    request = json.loads(stored) if isinstance(stored, str) else dict(stored)
    if "a" in request and "b" in request:
        request = {"leaves": [request.pop("a"), request.pop("b")], **request}
    return json.dumps(request)
