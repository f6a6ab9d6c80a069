"""The form writes the job file that the API takes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scoring.errors import InputError
from service.dashboard.job_form import (
    KEEP,
    MEAN,
    OWN_SCHEDULE,
    JobForm,
    Override,
    PartChoice,
    Prompts,
    ScorerChoice,
    Space,
    checked,
    places_of,
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
    assert job["search"] == {"sampler": "auto", "trials": 60, "seconds": 90, "seed": 0}


def test_what_is_left_empty_is_left_out() -> None:
    job = filled(schedule=OWN_SCHEDULE).job()
    assert not {"heldout", "nodes", "output"} & set(job)
    assert "schedule" not in job["probes"]["defaults"]


def test_prompts_infotexts_and_dropped_files_are_put_together() -> None:
    infotext = "a fox\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 32x32"
    dropped = {"more.json": [{"prompt": "an owl", "seed": 1}]}
    form = filled(
        probes=Prompts("a cat\na dog", "1, 2", infotext, dropped), heldout=Prompts(infotexts=infotext)
    )
    assert form.job()["heldout"] == {"infotext": infotext}
    assert [next(iter(probe)) for probe in form.job()["probes"]] == ["defaults", "infotext", "prompt"]
    assert form.images_per_trial() == 4 + 1 + 1


def test_the_last_of_several_merges_may_get_more_trials() -> None:
    form = filled(leaves=["a", "b", "c"], final_trials=100)
    assert form.table()[-1][0] == "02b"
    assert form.job()["nodes"] == {"02b": {"search": {"trials": 100}}}
    assert "nodes" not in filled(final_trials=100).job()


def test_what_is_folded_away_stands_in_the_job_file_too() -> None:
    form = filled(
        leaves=["a", "b", "c"],
        bracket="explicit",
        merges="01b = a + b\n\n02b = 01b + c",
        parts=PartChoice(text_encoder=MEAN, vae="baked"),
        leaf_parts={"b": PartChoice(text_encoder="a"), "c": PartChoice(vae=KEEP)},
        baked_vae="anime",
        scorers=[ScorerChoice("clip"), ScorerChoice("human", weight=3)],
        watch=[ScorerChoice("contrast")],
        tally="min",
        vote_trials=4,
        search="auto",
        racing=True,
        start=["GRAD_V"],
        space=Space(
            "OUT: 0.25",
            None,
            0.8,
            "M00: [0, 0.5]",
            "IN00-IN05\nOUT08, OUT10",
            symmetric=True,
            elements="IN07:attn2\nOUT03 OUT04:ff.net:0.3\n",
            text_encoders="a\nb\n",
        ),
        final_trials=80,
        overrides={"01b": Override(trials=9, tally="max"), "gone": Override(trials=2)},
        average=False,
        priority=3,
        prediction_type="epsilon",
    )
    job = form.job()
    assert job["leaves"] == [
        "a",
        {"name": "b", "text_encoder": {"from": "a"}},
        {"name": "c", "vae": "keep"},
    ]
    assert job["components"] == {"text_encoder": {"uniform": ["a", "b", "c"]}, "vae": {"from": "baked"}}
    assert job["bracket"]["table"][1] == {"o": "02b", "a": "01b", "b": "c"}
    assert job["output"] == {"vae": {"from": "anime"}}
    assert job["votes"] == {"trials": 4, "votes": 24, "heldout": 24}
    assert (job["watch"], job["tally"], job["priority"]) == ([{"scorer": "contrast"}], "min", 3)
    assert job["search"] == {
        "sampler": "auto",
        "trials": 60,
        "seed": 0,
        "racing": True,
        "start": ["GRAD_V"],
        "space": {
            "freeze": {"OUT": 0.25},
            "bounds": {"all": [0.0, 0.8], "M00": [0, 0.5]},
            "ties": ["IN00-IN05", "OUT08, OUT10"],
            "symmetric": True,
            "elements": ["IN07:attn2", "OUT03 OUT04:ff.net:0.3"],
        },
        "choices": {"text_encoder": ["a", "b"]},
    }
    assert job["nodes"] == {
        "01b": {"search": {"trials": 9}, "tally": "max"},
        "02b": {"search": {"trials": 80}},
    }
    assert checked(yaml.safe_load(written(job))) == checked(job)
    assert form.most_trials() == 9 + 80


@pytest.mark.parametrize(
    ("changes", "place"),
    [({"steps": 0}, "steps"), ({"width": 500}, "width"), ({"cfg_scale": -1}, "cfg_scale")],
)
def test_how_it_is_rendered_is_checked_field_by_field(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as refused:
        filled(**changes).job()
    assert places_of(str(refused.value))[0] == f"probes.defaults.{place}"


def test_a_form_that_is_not_complete_is_a_draft_of_what_can_be_said() -> None:
    draft = JobForm(leaves=["left", "right"], space=Space(freeze="OUT")).draft()
    assert draft["leaves"] == ["left", "right"]
    assert not {"probes", "scorers", "search"} & set(draft)


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
        ({"priority": 200}, "name"),
        ({"bracket": "explicit", "merges": "left and right"}, "leaves"),
        ({"space": Space(freeze="OUT 0.5")}, "search"),
        ({"space": Space(bounds="M00: [0")}, "search"),
        ({"space": Space(low=0.5, high=0.2)}, "search"),
    ],
)
def test_an_error_names_the_part_of_the_form_that_it_is_about(changes: dict[str, Any], section: str) -> None:
    with pytest.raises(InputError) as refused:
        checked(filled(**changes).job())
    assert places_of(str(refused.value))[-1] == section


@pytest.mark.parametrize(
    ("message", "places"),
    [
        ("probes.defaults.steps: too few", ["probes.defaults.steps", "probes.defaults", "probes"]),
        ("probes[0]: no file", ["probes"]),
        ("scorers.0.weight: less than 0", ["scorers.weight", "scorers"]),
        ("nodes.02b.search: unknown", ["nodes.02b.search", "nodes.02b", "nodes", "search"]),
        ("votes.trials: too few", ["votes.trials", "votes", "scorers"]),
        ("space: every block is frozen", ["space", "search.space"]),
        ("the disk is full: free some of it", []),
    ],
)
def test_an_error_is_shown_as_near_to_its_field_as_there_is_a_place(message: str, places: list[str]) -> None:
    assert places_of(message) == places
