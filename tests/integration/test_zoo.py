"""The zoo as packed in the repository: it assembles, draws, and its reward knows what it sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from examples.emoji.assemble import assemble, assemble_reward, members
from examples.emoji.contact_sheet import draw
from examples.emoji.pack import WEIGHTS, compress, expand
from examples.emoji.train_reward import REWARD
from optimizer.checkpoints import inspect_checkpoint
from scoring.scorers.base import ScorerSpec
from scoring.scorers.registry import create_scorer

CONCEPTS = ("pizza", "strawberry", "frog", "red heart", "sunflower", "soccer ball", "tiger face", "ghost")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    assemble(folder, ["base", "animals"])
    assemble_reward(folder / "reward")
    return folder


def test_a_compressed_difference_is_near_the_difference() -> None:
    difference = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.01
    levels, scale = compress(difference)
    error = (expand(levels, scale) - difference).norm() / difference.norm()
    assert levels.dtype == torch.int8
    assert error < 0.12


def test_there_are_a_base_and_eight_fine_tunes_in_at_most_40_megabytes() -> None:
    assert len(members()) >= 9
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 40e6


def test_a_member_is_a_sound_single_file_checkpoint(zoo: Path) -> None:
    inspection = inspect_checkpoint(zoo / "emoji-animals.safetensors")
    assert inspection.architecture == "emoji"
    assert inspection.prediction_type == "v_prediction"
    assert not inspection.missing_keys
    assert not inspection.extra_keys


@torch.no_grad()
def test_the_reward_prefers_the_prompt_that_was_drawn(zoo: Path) -> None:
    images = draw(zoo / "emoji-base.safetensors", [f"{c}, noto style" for c in CONCEPTS])
    scorer = create_scorer(ScorerSpec(scorer="clip", model=str(zoo / "reward")), "cpu")
    batch = torch.stack([torch.tensor(list(i.getdata())).T.reshape(3, 32, 32) / 255 for i in images])
    by_prompt = [scorer.score(batch, [f"{c}, noto style"] * len(CONCEPTS)) for c in CONCEPTS]
    right = sum(int(scores.argmax() == i) for i, scores in enumerate(by_prompt))
    assert right >= len(CONCEPTS) - 2


def test_the_reward_tells_held_out_pictures_apart() -> None:
    held_out = json.loads((REWARD / "accuracy.json").read_text())["held_out"]
    assert held_out["auc"] > 0.9
    assert held_out["pictures"] > 100
