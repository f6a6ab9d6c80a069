from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from scoring.errors import InputError
from scoring.rendering.images import to_pil
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import create
from scoring.scorers.preprocessing import as_open_clip
from tests.unit.scoring.scorer_models import CPU, check_batch_free, pictures, save_clip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(24, 32), (33, 20), (16, 16), (8, 12), (100, 64)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_that_of_open_clip(mode: str, size: tuple[int, int], interpolation: str) -> None:
    config = open_clip.transform.PreprocessCfg(size=16, resize_mode=mode, interpolation=interpolation)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    images = pictures(2, *size)
    ours = as_open_clip(images, vars(config))
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
    check_batch_free(scorer, pictures(40), [f"picture {i % 3}" for i in range(40)])


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
