from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scoring.errors import InputError, TrialFailed
from scoring.rendering.images import to_pil
from scoring.scorers.base import Scorer, ScorerSpec, checked_scores
from scoring.scorers.clip_score import Backbone, create, preprocess
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
from scoring.scorers.registry import create_scorer, scorer_names

HEADS = Path(__file__).parents[4] / "shared/data/heads"
V1, V2, AES = "sa_0_4_vit_l_14_linear.pth", "sac+logos+ava1-l14-linearMSE.pth", "aes-B32-v0.safetensors"
CPU = torch.device("cpu")
real_heads = pytest.mark.skipif(not HEADS.is_dir(), reason="needs the real heads")


def save_clip(folder: Path, width: int = 8, **preprocess_cfg: Any) -> Path:
    """A tiny random open_clip model in the form in which real ones are published."""
    config = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 4, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.4, 0.5], "interpolation": "bicubic", **preprocess_cfg}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": cfg}))
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(n: int, height: int = 24, width: int = 32) -> Tensor:
    """Smooth random pictures whose pixels are whole 8-bit values."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 5, 5, generator=generator)
    large = nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return (large * 255).round() / 255


# ---- the CLIP score


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(24, 32), (33, 20), (16, 16), (8, 12), (100, 64)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_that_of_open_clip(mode: str, size: tuple[int, int], interpolation: str) -> None:
    config = open_clip.transform.PreprocessCfg(size=16, resize_mode=mode, interpolation=interpolation)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    images = pictures(2, *size)
    ours = preprocess(images, vars(config))
    theirs = torch.stack([transform(image) for image in to_pil(images)])
    # PIL rounds to 8 bits after each of its two passes
    assert (ours - theirs).abs().max() <= 2 / 255 / min(config.std)


def test_the_clip_score_is_the_cosine_that_open_clip_gives(clip_folder: Path) -> None:
    images, prompts = pictures(2), ["a cat", "a dog"]
    scores = create(ScorerSpec(scorer="clip", model=str(clip_folder)), CPU).score(images, prompts)

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    with torch.no_grad():
        seen = model.encode_image(torch.stack([transform(image) for image in to_pil(images)]))
        read = model.encode_text(open_clip.tokenize(prompts, context_length=16))
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(torch.cosine_similarity(seen, read).tolist(), abs=5e-3)
    assert scores[0] != scores[1]


def test_scores_do_not_depend_on_the_batch(clip_folder: Path) -> None:
    scorer = create(ScorerSpec(scorer="clip", model=str(clip_folder)), CPU)
    images = pictures(40)
    prompts = [f"picture {i % 3}" for i in range(40)]
    together = scorer.score(images, prompts)
    alone = torch.cat([scorer.score(images[i : i + 1], prompts[i : i + 1]) for i in range(40)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_gradients_reach_the_images(clip_folder: Path) -> None:
    scorer = create(ScorerSpec(scorer="clip", model=str(clip_folder)), CPU)
    with torch.inference_mode():
        scorer.score(pictures(1), ["a cat"])
    images = pictures(1).requires_grad_()
    scorer.score(images, ["a cat"]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_prompt_that_is_cut_is_told(clip_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = create(ScorerSpec(scorer="clip", model=str(clip_folder)), CPU)
    scorer.score(pictures(1), ["cat " * 14])
    assert not caplog.records
    scorer.score(pictures(1), ["cat " * 15])
    assert "CLIP reads only the beginning of the prompt" in caplog.text


def test_images_and_prompts_must_be_as_many(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match="2 images with 1 prompts"):
        create(ScorerSpec(scorer="clip", model=str(clip_folder)), CPU).score(pictures(2), ["a cat"])


def test_a_missing_or_broken_clip_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scorer 'clip' needs 'model': the folder"):
        create(ScorerSpec(scorer="clip"), CPU)
    no_config, no_weights, bad_json, bad_weights, no_dim = (tmp_path / name for name in "abcde")
    for folder in (no_config, no_weights, bad_json, bad_weights, no_dim):
        save_clip(folder)
    (no_config / "open_clip_config.json").unlink()
    (no_weights / "open_clip_model.safetensors").unlink()
    (bad_json / "open_clip_config.json").write_text("{")
    (no_dim / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (bad_weights / "open_clip_model.safetensors").write_bytes(b"x" * 20)
    for folder, said in [
        (tmp_path / "missing", "not a folder; give a folder with open_clip_config.json"),
        (no_config, "no open_clip_config.json in it"),
        (no_weights, "no weights in it"),
        (bad_json, "not JSON"),
        (no_dim, "no 'model_cfg' with an 'embed_dim'"),
        (bad_weights, "open_clip can't load this model"),
    ]:
        with pytest.raises(InputError) as caught:
            create(ScorerSpec(scorer="clip", model=str(folder)), CPU)
        assert said in str(caught.value)
        assert str(folder) in str(caught.value)


# ---- the heads


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


def test_a_missing_or_wrong_head_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip", 8)
    torch.save(v1_head().state_dict(), folder / "v1.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save(nn.Linear(1, 1), folder / "code.pth")
    (folder / "empty.pth").touch()
    (folder / "bad.safetensors").write_bytes(b"x" * 20)
    for make, file, said in [
        (create_v2, "v1.pth", "another head: it has bias 1, weight 1x768, wanted is layers.0.bias 1024"),
        (create_v1, "v1.pth", "makes embeddings 8 wide, scorer 'x' reads 768"),
        (create_v1, "none.pth", "no such file; give the head's .pth or .safetensors file"),
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


# ---- the registry


def install(folder: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package as importlib.metadata sees one, with one scorer."""
    info = folder / "somebody-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[autombw.scorers]\n{name} = {value}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


class Brightness:
    name = "brightness"
    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def make_brightness(spec: ScorerSpec, device: torch.device) -> Scorer:
    return Brightness()


def make_nothing(spec: ScorerSpec, device: torch.device) -> None:
    return None


def test_our_own_scorers_are_installed() -> None:
    assert {"clip", "laion-v1", "laion-v2"} <= set(scorer_names())


def test_a_scorer_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brightness", f"{__name__}:make_brightness", monkeypatch)
    assert "brightness" in scorer_names()
    scorer = create_scorer(ScorerSpec(scorer="brightness"), "cpu")
    assert scorer.score(torch.full((2, 3, 4, 4), 0.25), ["", ""]).tolist() == [0.25, 0.25]


def test_an_unknown_scorer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brightness", f"{__name__}:make_brightness", monkeypatch)
    with pytest.raises(InputError, match=r"unknown scorer 'brihgtness'; known scorers: .*brightness"):
        create_scorer(ScorerSpec(scorer="brihgtness"), "cpu")


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


class Broken(Brightness):
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
    with pytest.raises(TrialFailed, match=f"scorer 'brightness'.*{said}"):
        checked_scores(Broken(result), pictures(2), ["a dog", "a cat"])


def test_good_scores_pass() -> None:
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert checked_scores(Brightness(), images, ["", ""]).tolist() == [0.0, 1.0]
