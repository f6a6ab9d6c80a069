"""What is read of a job's probes is what its nodes render, with what there is to say about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scoring.errors import InputError
from scoring.probes import Probe
from service.catalog import Catalog
from service.db.records import NewJob
from service.jobs import NodePlan, parse_request
from service.planning import validate_job
from service.settings import Settings, load_settings

INFOTEXT = (
    "a cat\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 32x32, "
    "Model hash: a85153fd84, Model: mix, Frobnication: 3, Version: v1.7.0"
)


@pytest.fixture
def settings(installation: Path) -> Settings:
    return load_settings(installation)


def _job(settings: Settings, **request: Any) -> NewJob:
    asked = {
        "name": "job",
        "leaves": ["left", "right"],
        "scorers": [{"scorer": "clip", "model": "reward"}],
        **request,
    }
    return validate_job(parse_request(asked, "job"), settings, Catalog(settings.models_dir))


def _plan(job: NewJob) -> NodePlan:
    return NodePlan.model_validate(job.nodes[0].plan)


def test_notes_and_provenance_reach_the_node(settings: Settings) -> None:
    plan = _plan(_job(settings, probes=[{"infotext": INFOTEXT}], heldout=[{"prompt": "b", "seed": -1}]))
    assert [probe.seed for probe in plan.probes] == [1]
    assert plan.probes[0].rng == "NV"
    drawn = plan.heldout[0].seed
    assert plan.notes[-4:] == [
        "probes[0]: names no RNG: A1111's default, GPU, which is NV here",
        "probes[0]: not understood, and so not applied: Frobnication: 3",
        f"heldout[0]: seed -1: drawn {drawn}",
        "made in A1111 with Model hash: a85153fd84, Model: mix, Version: v1.7.0",
    ]


def test_a_job_that_is_planned_again_has_the_same_probes(settings: Settings) -> None:
    spec = [{"prompt": "{a|b|c|d|e|f} cat", "seed": -1, "wildcards": "random"}] * 5
    first, again = (_plan(_job(settings, probes=spec)) for _ in range(2))
    assert first.probes == again.probes
    assert len({probe.seed for probe in first.probes}) == 5
    assert all(isinstance(probe, Probe) and "{" not in probe.prompt for probe in first.probes)
    assert _plan(_job(settings, probes=spec, name="other")).probes != first.probes


def test_what_can_never_be_rendered_is_refused_at_submission(settings: Settings) -> None:
    for spec, said in (
        ({"prompt": "<lora:x:1>", "seed": 1}, "probes: the prompt wants <lora:x:1>"),
        ({"infotext": f'{INFOTEXT}, TI hashes: "easy: 1"'}, "made with embeddings that are not in .*: easy"),
        ({"prompt": "__hat__", "seed": 1, "wildcards": "random"}, "no wildcard file for __hat__"),
    ):
        with pytest.raises(InputError, match=said):
            _job(settings, probes=spec)
