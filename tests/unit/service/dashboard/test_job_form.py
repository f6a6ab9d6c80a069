"""The form writes the job file that the API takes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scoring.errors import InputError
from service.dashboard.job_form import (
    OWN_SCHEDULE,
    JobForm,
    Prompts,
    ScorerChoice,
    checked,
    field_of,
    written,
)


def filled(**changes: Any) -> JobForm:
    form = JobForm(
        leaves=["left", "right"], probes=Prompts("a cat\n\n a dog ", "1, 2"), scorers=[ScorerChoice("clip")]
    )
    for name, value in changes.items():
        setattr(form, name, value)
    return form


def test_a_filled_form_is_a_job_file_that_reads_back_the_same() -> None:
    job = filled(heldout=Prompts("a fox", "7"), minutes=1.5, output="both").job()
    assert checked(yaml.safe_load(written(job))) == checked(job)
    assert job["name"] == "left + right"
    assert (job["probes"]["prompts"], job["probes"]["seeds"]) == (["a cat", "a dog"], [1, 2])
    assert job["probes"]["defaults"]["schedule"] == "Karras"
    assert job["search"] == {"sampler": "gp", "trials": 60, "seconds": 90, "seed": 0}


def test_what_is_left_empty_is_left_out() -> None:
    job = filled(schedule=OWN_SCHEDULE).job()
    assert not {"heldout", "nodes", "output"} & set(job)
    assert "schedule" not in job["probes"]["defaults"]


def test_prompts_infotexts_and_dropped_files_are_put_together() -> None:
    infotext = "a fox\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 32x32"
    form = filled(infotexts=infotext, files={"more.json": [{"prompt": "an owl", "seed": 1}]})
    assert [next(iter(probe)) for probe in form.job()["probes"]] == ["defaults", "infotext", "prompt"]
    assert form.images_per_trial() == 4 + 1 + 1


def test_the_last_of_several_merges_may_get_more_trials() -> None:
    form = filled(leaves=["a", "b", "c"], final_trials=100)
    assert form.table()[-1][0] == "02b"
    assert form.job()["nodes"] == {"02b": {"search": {"trials": 100}}}
    assert "nodes" not in filled(final_trials=100).job()


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        ({"leaves": ["left"]}, "leaves"),
        ({"scorers": []}, "scorers"),
        ({"probes": Prompts("")}, "probes"),
        ({"probes": Prompts("a cat", "one")}, "probes"),
        ({"heldout": Prompts("a cat", "")}, "heldout"),
        ({"trials": 2.5}, "search"),
        ({"trials": 0}, "search"),
        ({"name": "x" * 300}, "name"),
    ],
)
def test_an_error_names_the_part_of_the_form_that_it_is_about(changes: dict[str, Any], section: str) -> None:
    with pytest.raises(InputError) as refused:
        checked(filled(**changes).job())
    assert field_of(str(refused.value)) == section
