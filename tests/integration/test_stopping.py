"""A search that really runs ends by the gain it expects, for a reason that its stored trials give again."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.going_on import FEWEST
from optimizer.search import BASELINES, SearchSettings, ToldTrial, stop_reason
from service.catalog import Catalog
from service.db.states import JobState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import load_settings
from service.worker import Worker
from tests.tiny_models import job, write_models, write_reward

MORE_THAN_EVER = 1e9
PROBES = [{"prompt": "a cat", "seed": 1, "sampler": "Euler", "steps": 1, "width": 32, "height": 32}]


@pytest.mark.slow
def test_a_search_ends_by_its_expected_gain_and_can_be_extended(tmp_path: Path) -> None:
    write_models(tmp_path / "models")
    write_reward(tmp_path / "scorers" / "reward")
    folders = {f"{name}_dir": tmp_path / name for name in ("models", "scorers", "data")}
    settings = load_settings(device="cpu", **folders)
    settings.data_dir.mkdir()
    store = Store(settings.database_url)
    search = {"sampler": "tpe", "trials": 30, "until_gain_per_hour": MORE_THAN_EVER}
    request = JobRequest.model_validate(job(probes=PROBES, heldout=None, search=search))
    job_id = store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id
    node_id = store.nodes(job_id)[0].id

    class StopsOnTheWay(Worker):
        def _stopped(self) -> bool:
            return store.render_totals(node_id)[0] >= 6 or super()._stopped()

    StopsOnTheWay(settings, store).run_job(job_id)
    assert store.node(node_id).stop_reason is None
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    node, ended = store.node(node_id), store.ended_trials(node_id)
    assert len(ended) == len(BASELINES) + FEWEST
    assert node.stop_reason is not None
    assert "going on is expected to gain" in node.stop_reason
    assert "less than the 1e+09 an hour that were asked for" in node.stop_reason
    told = [ToldTrial(t.number, t.weights, t.score, seconds=t.seconds) for t in ended]
    assert stop_reason(SearchSettings.model_validate(node.plan["search"]), told, 0.0) == node.stop_reason
    said = [event.data for event in store.events(job_id) if node.stop_reason in event.data.values()]
    assert said, "the event log has it too"

    store.extend_node(job_id, node.name, 2)
    Worker(settings, store).run_job(job_id)
    assert len(store.ended_trials(node_id)) == len(ended) + 2
    assert store.node(node_id).stop_reason == f"all {len(ended) + 2} trials are done"
    store.close()
