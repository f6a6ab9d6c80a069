"""What is done with a job's trials once they are there: tallied anew, reported, collected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from service.db.database import Database, job_of, record
from service.db.models import Checkpoint, Node, Trial
from service.db.records import RenderRecord
from service.db.states import TrialKind
from service.db.trials import render_records


class AfterwardsStore(Database):
    """The storage contract of what comes after a search."""

    def node_renders(
        self, node_id: int, *, kinds: Sequence[TrialKind] = tuple(TrialKind)
    ) -> dict[int, list[RenderRecord]]:
        """Trial id -> its renders by probe, for all trials of a node of these kinds."""
        with self._read() as session:
            return render_records(session, Trial.node_id == node_id, Trial.kind.in_(kinds))

    def record_export(self, node_id: int, number: int, name: str, sha256: str) -> None:
        """Record that the merge of a search trial was written under another name."""
        with self._write() as session:
            node = session.get_one(Node, node_id)
            job_of(session, node.job_id)
            data = {"node": node.name, "position": node.position, "trial": number}
            record(
                session, node.job_id, "checkpoint.exported", {**data, "name": name, "sha256": sha256}, node.id
            )

    def restore_checkpoint(self, node_id: int, path: Path) -> None:
        """The output of a node, which must have one, is there again."""
        with self._write() as session:
            node = session.get_one(Node, node_id)
            job_of(session, node.job_id)
            row = session.scalars(select(Checkpoint).where(Checkpoint.node_id == node_id)).one()
            row.path, row.collected_at = str(path), None
            data = {"node": node.name, "position": node.position, "name": row.name, "sha256": row.sha256}
            record(session, node.job_id, "checkpoint.made_again", data, node.id)
