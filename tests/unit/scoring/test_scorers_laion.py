from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import Backbone
from scoring.scorers.laion import (
    Aesthetic,
    aes_b32_head,
    create_aes_b32,
    create_v1,
    create_v2,
    load_head,
    v1_head,
    v2_head,
)
from scoring.scorers.registry import create_scorer
from tests.unit.scoring.scorer_models import CPU, check_batch_free, check_gradient, pictures, save_clip, shake

HEADS = Path(__file__).parents[4] / "shared/data/heads"
V1, V2, AES = "sa_0_4_vit_l_14_linear.pth", "sac+logos+ava1-l14-linearMSE.pth", "aes-B32-v0.safetensors"
real_heads = pytest.mark.skipif(not HEADS.is_dir(), reason="needs the real heads")


def literal_v1(embedding: np.ndarray, w: dict[str, np.ndarray]) -> Any:
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return unit @ w["weight"][0] + w["bias"][0]


def literal_v2(embedding: np.ndarray, w: dict[str, np.ndarray]) -> Any:
    x = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    for i in (0, 2, 4, 6, 7):
        x = x @ w[f"layers.{i}.weight"].T + w[f"layers.{i}.bias"]
    return x[:, 0]


def literal_aes(embedding: np.ndarray, w: dict[str, np.ndarray]) -> Any:
    x = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    x = np.maximum(x @ w["fc1.weight"].T + w["fc1.bias"], 0)
    x = np.maximum(x @ w["fc2.weight"].T + w["fc2.bias"], 0)
    return 1 / (1 + np.exp(-(x @ w["fc3.weight"].T + w["fc3.bias"])))[:, 0]


@real_heads
@pytest.mark.parametrize(
    ("file", "make", "literal", "width"),
    [
        (V1, v1_head, literal_v1, 768),
        (V2, v2_head, literal_v2, 768),
        (AES, aes_b32_head, literal_aes, 512),
    ],
)
def test_real_heads_on_a_fixed_embedding(file: str, make: Any, literal: Any, width: int) -> None:
    path = HEADS / file
    embedding = np.cos(np.arange(3 * width, dtype=np.float64)).reshape(3, width)
    raw = (
        load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, map_location="cpu", weights_only=True)
    )
    expected = literal(embedding, {key: value.double().numpy() for key, value in raw.items()})
    unit = nn.functional.normalize(torch.tensor(embedding), dim=-1).float()
    assert load_head(path, make())(unit).squeeze(-1).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("create_head", "make", "literal", "width"),
    [
        (create_v1, v1_head, literal_v1, 768),
        (create_v2, v2_head, literal_v2, 768),
        (create_aes_b32, aes_b32_head, literal_aes, 512),
    ],
)
def test_an_aesthetic_score_is_the_head_over_the_image_embedding(
    tmp_path: Path, create_head: Any, make: Any, literal: Any, width: int
) -> None:
    folder = save_clip(tmp_path / "clip", width)
    torch.manual_seed(1)
    weights = make().state_dict()
    torch.save(weights, folder / "head.pth")
    scorer: Aesthetic = create_head(ScorerSpec(scorer="x", model=str(folder / "head.pth")), CPU)
    images = pictures(3).requires_grad_()
    scores = scorer.score(images, ["", "", ""])

    embedding = Backbone(folder, CPU).embed_images(images.detach()).double().numpy()
    expected = literal(embedding, {key: value.double().numpy() for key, value in weights.items()})
    assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    scores.sum().backward()
    assert images.grad is not None


def test_a_folder_is_searched_for_the_published_file(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip", 768)
    torch.manual_seed(1)
    torch.save(v2_head().state_dict(), folder / V2)
    torch.manual_seed(2)
    torch.save(v2_head().state_dict(), folder / "chadscorer.pth")
    images = pictures(2)

    def scores(name: str, place: Path, **options: Any) -> list[float]:
        spec = ScorerSpec(scorer=name, model=str(place), **options)
        return create_scorer(spec, "cpu").score(images, ["", ""]).tolist()

    assert scores("laion-v2", folder) == scores("laion-v2", folder / V2)
    assert scores("laion-chad", folder) == scores("laion-chad", folder / "chadscorer.pth")
    assert scores("laion-v2", folder) != scores("laion-chad", folder)
    for name, middle in (("laion-v2", 5.6), ("laion-chad", 6.2)):
        pressed = [1 / (1 + np.exp(middle - x)) for x in scores(name, folder)]
        assert scores(name, folder, sigmoid=True) == pytest.approx(pressed, rel=1e-5)


def test_aesthetic_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip", 512)
    torch.save(shake(aes_b32_head()).state_dict(), folder / "head.pth")
    scorer = create_aes_b32(ScorerSpec(scorer="x", model=str(folder / "head.pth")), CPU)
    check_batch_free(scorer, pictures(35), [""] * 35)


def test_an_aesthetic_scores_gradient_is_its_slope(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip", 768)
    torch.save(shake(v1_head()).state_dict(), folder / "head.pth")
    scorer = create_v1(ScorerSpec(scorer="laion-v1", model=str(folder / "head.pth")), CPU)
    check_gradient(scorer, pictures(2, 16, 16), ["", ""])


def test_a_missing_or_wrong_head_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip", 8)
    torch.save(v1_head().state_dict(), folder / "v1.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save(nn.Linear(1, 1), folder / "code.pth")
    (folder / "empty.pth").touch()
    (folder / "bad.safetensors").write_bytes(b"x" * 20)
    for make, file, said in [
        (
            create_v2,
            "v1.pth",
            "another model: bias is 1, wanted is not there; layers.0.bias is not there, wanted is 1024",
        ),
        (create_v1, "v1.pth", "makes embeddings 8 wide, scorer 'x' reads 768"),
        (create_v1, "none.pth", "no such file; give the published .pth or .safetensors file"),
        (create_v1, "list.pth", "not a state dict of tensors"),
        (create_v1, "code.pth", "not readable as tensors"),
        (create_v1, "empty.pth", "not readable as tensors"),
        (create_v1, "bad.safetensors", "not readable as tensors"),
    ]:
        with pytest.raises(InputError) as caught:
            make(ScorerSpec(scorer="x", model=str(folder / file)), CPU)
        assert said in str(caught.value)
    with pytest.raises(InputError, match="scorer 'x' needs 'model': the head's file"):
        create_v1(ScorerSpec(scorer="x"), CPU)
