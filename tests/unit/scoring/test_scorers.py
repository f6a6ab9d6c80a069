from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoring.errors import InputError, TrialFailed
from scoring.scorers.base import Scorer, ScorerSpec, checked_scores
from scoring.scorers.registry import create_scorer, scorer_names
from tests.unit.scoring.scorer_models import pictures


def install(folder: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package as importlib.metadata sees one, with one scorer."""
    info = folder / "somebody-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[autombw.scorers]\n{name} = {value}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


class MeanLight:
    name = "mean-light"
    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def make_mean_light(spec: ScorerSpec, device: torch.device) -> Scorer:
    return MeanLight()


def make_nothing(spec: ScorerSpec, device: torch.device) -> None:
    return None


def test_our_own_scorers_are_installed() -> None:
    assert {"clip", "laion-v1", "laion-v2"} <= set(scorer_names())


def test_a_scorer_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "mean-light", f"{__name__}:make_mean_light", monkeypatch)
    assert "mean-light" in scorer_names()
    scorer = create_scorer(ScorerSpec(scorer="mean-light"), "cpu")
    assert scorer.score(torch.full((2, 3, 4, 4), 0.25), ["", ""]).tolist() == [0.25, 0.25]


def test_an_unknown_scorer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "mean-light", f"{__name__}:make_mean_light", monkeypatch)
    with pytest.raises(InputError, match=r"unknown scorer 'maen-light'; known scorers: .*mean-light"):
        create_scorer(ScorerSpec(scorer="maen-light"), "cpu")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere_at_all:create", "can't be loaded"),
        ("scoring.scorers.base:nothing", "can't be loaded"),
        (f"{__name__}:make_nothing", "made a NoneType, not a scorer"),
    ],
)
def test_a_broken_entry_point_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    install(tmp_path, "broken", value, monkeypatch)
    with pytest.raises(InputError) as caught:
        create_scorer(ScorerSpec(scorer="broken"), "cpu")
    assert "scorer 'broken'" in str(caught.value)
    assert said in str(caught.value)


# ---- a scorer that fails fails the trial


class Broken(MeanLight):
    def __init__(self, result: Tensor | Exception) -> None:
        self.result = result

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (torch.tensor([1.0, float("nan")]), "gave nan for a cat: not a finite number"),
        (torch.tensor([1.0]), r"shape \(1,\) for 2 images"),
        (RuntimeError("out of memory"), "failed: out of memory"),
    ],
)
def test_a_scorer_that_fails_is_never_a_zero(result: Tensor | Exception, said: str) -> None:
    with pytest.raises(TrialFailed, match=f"scorer 'mean-light'.*{said}"):
        checked_scores(Broken(result), pictures(2), ["a dog", "a cat"])


def test_good_scores_pass() -> None:
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert checked_scores(MeanLight(), images, ["", ""]).tolist() == [0.0, 1.0]
