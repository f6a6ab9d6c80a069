"""What is done with a job's trials once they are there: tallied anew, reported, collected."""

from __future__ import annotations

from collections.abc import Sequence

from service.db.database import Database
from service.db.models import Trial
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
