"""Models and scorers that lie: their trials fail with the reason, and the third in a row pauses the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from service.api.app import create_app
from service.catalog import Catalog
from service.db.states import JobState, NodeState, TrialState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.tiny_models import job, write_models, write_reward

pytestmark = pytest.mark.slow


def altered(file: Path, key_end: str, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrite a file with one tensor changed."""
    tensors = load_file(file)
    (key,) = [name for name in tensors if name.endswith(key_end)]
    save_file({**tensors, key: value(tensors[key])}, file)


@pytest.fixture
def own(installation: Path, tmp_path: Path) -> Settings:
    """An installation with models and scorers of its own, to be broken."""
    write_models(tmp_path / "models")
    write_reward(tmp_path / "scorers" / "reward")
    return load_settings(installation, models_dir=tmp_path / "models", scorers_dir=tmp_path / "scorers")


def pauses(settings: Settings, words: str, *, scored: int) -> tuple[Store, str]:
    """Run a job whose trials fail after `scored` of them; it must pause at the third in a row."""
    store = Store(settings.database_url)
    request = JobRequest.model_validate(job(search={"sampler": "tpe", "trials": 6}, heldout=None))
    job_id = store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id
    Worker(settings, store).run_job(job_id)
    (node,) = store.nodes(job_id)
    trials = store.trials(node.id)
    assert [trial.state for trial in trials] == [TrialState.DONE] * scored + [TrialState.FAILED] * 3
    assert all(words in (trial.reason or "") for trial in trials[scored:]), trials[scored].reason
    assert all(trial.score is None for trial in trials[scored:])
    assert node.state is NodeState.PAUSED
    assert "3 trials failed in a row, the last one: " in (node.reason or "")
    assert words in (node.reason or "")
    with TestClient(create_app(settings)) as client:
        shown = client.get(f"/api/v1/jobs/{job_id}").json()
    assert (shown["state"], shown["nodes"][0]["reason"]) == ("paused", node.reason)
    return store, job_id


def test_images_of_one_colour_fail_their_trials_and_pause_the_node(own: Settings) -> None:
    for name in ("left", "right"):
        altered(own.models_dir / f"{name}.safetensors", "decoder.conv_out.weight", torch.zeros_like)
    store, _ = pauses(own, "one colour", scored=0)
    store.close()


def test_a_merge_that_runs_to_nan_fails_its_trials_and_pauses_the_node(own: Settings) -> None:
    # Finite in the file, which is why it was accepted, but not in what is computed with it.
    file = own.models_dir / "right.safetensors"
    save_file({key: tensor.float() for key, tensor in load_file(file).items()}, file)
    altered(file, "diffusion_model.input_blocks.0.0.weight", lambda t: torch.full_like(t, 3e38))
    store, _ = pauses(own, "NaN", scored=1)
    store.close()


def test_a_scorer_of_nan_fails_trials_until_it_is_repaired(own: Settings) -> None:
    weights = own.scorers_dir / "reward" / "open_clip_model.safetensors"
    good = weights.read_bytes()
    altered(weights, "visual.attnpool.c_proj.bias", lambda t: torch.full_like(t, float("nan")))
    store, job_id = pauses(own, "clip", scored=0)
    weights.write_bytes(good)
    store.resume_job(job_id)
    Worker(own, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    (node,) = store.nodes(job_id)
    assert [trial.score is None for trial in store.trials(node.id)] == [True] * 3 + [False] * 3
    store.close()


def test_a_score_that_does_not_depend_on_the_weights_is_none(own: Settings) -> None:
    weights = own.scorers_dir / "reward" / "open_clip_model.safetensors"
    altered(weights, "visual.attnpool.c_proj.weight", torch.zeros_like)
    store, _ = pauses(own, "is to the last bit that of trials 0, 1", scored=2)
    store.close()
