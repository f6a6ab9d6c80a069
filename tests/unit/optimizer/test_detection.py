"""The prediction type by one step, on a trained model and on what it would give as the other kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.emoji.assemble import assemble
from optimizer.checkpoints import load_unet
from optimizer.checkpoints.detection import detect_prediction, likeness_to_noise
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import write_header_only


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo model, which was trained to predict the velocity."""
    (path,) = assemble(tmp_path_factory.mktemp("zoo"), ["base"])
    return path


def test_a_trained_model_is_told_from_its_noise_predicting_twin(trained: Path) -> None:
    found = detect_prediction(trained)
    assert (found.type, found.assumed) == ("v_prediction", False)
    unet = load_unet(trained, device="cpu", dtype=torch.float32)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = float(torch.cumprod(1 - betas, 0)[-1])

    def noise_of(x: Tensor) -> Tensor:
        """The same model's noise: e = sqrt(a) v + sqrt(1 - a) x_t."""
        v: Tensor = unet(x, 999, torch.zeros(1, 77, 64)).sample
        noise: Tensor = a**0.5 * v + (1 - a) ** 0.5 * x
        return noise

    for seed in range(3):
        assert likeness_to_noise(noise_of, seed) > 0.9
        assert detect_prediction(trained, seed=seed).type == "v_prediction"
        assert abs(likeness_to_noise(lambda x: unet(x, 999, torch.zeros(1, 77, 64)).sample, seed)) < 0.3


def test_sdxl_is_not_asked(tmp_path: Path) -> None:
    path = write_header_only(tmp_path / "xl.safetensors", "sdxl")
    with pytest.raises(InputError, match="SDXL, whose prediction type is not detected; tell it"):
        detect_prediction(path)
