"""Models and scorers that are broken: trials fail with the reason, the node pauses with a diagnosis, and goes
on once it is mended."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.db.records import TrialRecord
from service.db.states import JobState, NodeState, TrialState
from tests.storms.conftest import MakeSite
from tests.storms.fleet import run_worker
from tests.storms.outcome import all_events
from tests.storms.site import Site

pytestmark = pytest.mark.slow

Tensors = dict[str, torch.Tensor]
SEARCH = {"sampler": "random", "trials": 8, "seed": 3}


def changed(source: Path, target: Path, change: Callable[[Tensors], None]) -> None:
    """A safetensors file with some tensors changed."""
    tensors = load_file(source)
    change(tensors)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target)


def draws_black(tensors: Tensors) -> None:
    """A VAE whose decoder makes the same of everything."""
    tensors["first_stage_model.decoder.conv_out.weight"].zero_()
    tensors["first_stage_model.decoder.conv_out.bias"].fill_(-4.0)


def overflows(tensors: Tensors) -> None:
    """A UNet of finite weights, as large as 16 bits hold, under which no number stays finite."""
    for key, tensor in tensors.items():
        if key.startswith("model.diffusion_model.") and key.endswith("weight"):
            tensor.copy_(tensor.sign() * torch.finfo(torch.float16).max)


def scores_nan(tensors: Tensors) -> None:
    tensors["visual.attnpool.c_proj.weight"].fill_(float("nan"))


def scores_all_the_same(tensors: Tensors) -> None:
    """A CLIP that does not look at the image."""
    tensors["visual.attnpool.c_proj.weight"].zero_()


def run_to_rest(site: Site, job_id: str) -> list[TrialRecord]:
    """The trials of a job once nothing more happens."""
    worker = site.fleet.start_worker()
    site.wait_rest(job_id)
    worker.kill()
    return site.store.trials(site.node(job_id).id)


def check_paused(site: Site, job_id: str, words: str) -> None:
    """The node paused with a diagnosis that says this, in the store and over HTTP."""
    node = site.node(job_id)
    assert (node.state, site.store.job(job_id).state) == (NodeState.PAUSED, JobState.PAUSED)
    reason = node.reason or ""
    assert re.fullmatch(f"3 trials failed in a row, the last one: .*{words}.*resume the job", reason), reason
    site.fleet.start_api()
    shown = httpx.get(f"{site.fleet.server}/api/v1/jobs/{job_id}").json()
    assert (shown["state"], shown["nodes"][0]["reason"]) == ("paused", reason)
    assert reason in [event.data.get("reason") for event in all_events(site.store, job_id)]


def outline(trials: list[TrialRecord]) -> list[tuple[int, TrialState]]:
    """Number and state of each search trial."""
    assert all(trial.score is None for trial in trials if trial.state is TrialState.FAILED), "never a zero"
    return [(trial.number, trial.state) for trial in trials if trial.kind == "search"]


@pytest.mark.parametrize(
    ("names", "change", "words", "states"),
    [
        (("left", "right"), draws_black, "the image of .* is black", "FFF"),
        (("right",), overflows, "the merged UNet made NaN of the latents of", "DFFF"),
    ],
    ids=["black", "nan"],
)
def test_a_broken_model_pauses_the_node(
    names: tuple[str, ...],
    change: Callable[[Tensors], None],
    words: str,
    states: str,
    make_site: MakeSite,
    tiny_models: Path,
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_models, models)
    for name in names:
        changed(tiny_models / f"{name}.safetensors", models / f"{name}.safetensors", change)
    site = make_site(models_dir=models)
    job_id = site.queue(search=SEARCH)
    trials = run_to_rest(site, job_id)
    kinds = {"D": TrialState.DONE, "F": TrialState.FAILED}
    assert outline(trials) == [(number, kinds[state]) for number, state in enumerate(states)]
    assert all(re.search(words, trial.reason or "") for trial in trials if trial.state is TrialState.FAILED)
    check_paused(site, job_id, words)

    site.store.resume_job(job_id)
    again = run_to_rest(site, job_id)
    assert again[: len(trials)] == trials, "what failed is not tried again"
    assert outline(again)[len(trials) :] == [(len(trials) + i, TrialState.FAILED) for i in range(3)]
    assert site.node(job_id).state is NodeState.PAUSED


@pytest.mark.parametrize(
    ("change", "words", "good"),
    [
        (scores_nan, "scorer 'clip' gave nan", 0),
        (scores_all_the_same, "is to the last bit that of trials 0, 1", 2),
    ],
    ids=["nan", "constant"],
)
def test_a_broken_scorer_pauses_the_node_until_it_is_mended(
    change: Callable[[Tensors], None],
    words: str,
    good: int,
    make_site: MakeSite,
    tiny_scorers: Path,
    tmp_path: Path,
) -> None:
    scorers, weights = tmp_path / "scorers", "reward/open_clip_model.safetensors"
    shutil.copytree(tiny_scorers, scorers)
    changed(tiny_scorers / weights, scorers / weights, change)
    site = make_site(scorers_dir=scorers)
    job_id = site.queue(search=SEARCH)
    broken = outline(run_to_rest(site, job_id))
    assert [state for _, state in broken] == [TrialState.DONE] * good + [TrialState.FAILED] * 3
    check_paused(site, job_id, words)

    shutil.copy(tiny_scorers / weights, scorers / weights)
    site.store.resume_job(job_id)
    mended = outline(run_to_rest(site, job_id))
    assert site.store.job(job_id).state is JobState.DONE
    assert mended == broken + [(number, TrialState.DONE) for number in range(len(broken), 8)]


def worker_of_little_memory(installation: Path) -> None:
    """A worker that gets half a gigabyte more than a new process has: less than a large batch takes."""
    (size,) = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    limit = int(size) * 1024 + 500_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run_worker(installation)


def test_a_notice_of_too_little_memory_is_an_event_and_a_note(make_site: MakeSite) -> None:
    site = make_site(max_batch=4)
    probe: dict[str, Any] = {"sampler": "Euler", "steps": 1, "cfg_scale": 1.0, "width": 384, "height": 384}
    probes = {"defaults": probe, "prompts": ["a cat"], "seeds": [1, 2, 3, 4]}
    job_id = site.queue(probes=probes, heldout=None, search={"sampler": "gp", "trials": 1})
    site.fleet.start_worker(worker_of_little_memory)
    site.wait_rest(job_id)
    words = r"out of memory on cpu: 4 images of 384x384 do not fit to \w+ at once; from now on at most 2"
    said = [event.data["text"] for event in all_events(site.store, job_id) if event.kind == "node.notice"]
    assert re.fullmatch(words, said[0])
    site.fleet.start_api()
    node = httpx.get(f"{site.fleet.server}/api/v1/jobs/{job_id}").json()["nodes"][0]
    assert node["notes"] == said
