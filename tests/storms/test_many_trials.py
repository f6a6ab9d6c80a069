"""A node with ten thousand trials is looked at page by page and goes on with the next trial."""

from __future__ import annotations

import pytest

from service.db.states import TrialState
from tests.storms.many_trials import measure
from tests.storms.site import Site

pytestmark = pytest.mark.slow

TRIALS = 10_000


def test_a_node_of_ten_thousand_trials_goes_on(site: Site) -> None:
    measure(site, TRIALS)
    (job,) = site.store.jobs()
    node = site.node(job.id)
    counts = site.store.trial_counts(node.id)
    assert counts[TrialState.DONE] >= TRIALS
    assert sum(counts.values()) == counts[TrialState.DONE] + 1, "all but the one that was cut"
    new = site.store.trials(node.id, after=TRIALS - 1)
    assert [trial.number for trial in new] == list(range(TRIALS, TRIALS + len(new)))
    assert len(new) >= 1
