from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from scoring.errors import InputError
from scoring.rendering.images import to_pil
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.registry import create_scorer
from tests.unit.scoring.scorer_models import check_batch_free, check_gradient, pictures, shake

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}


def save_vit(folder: Path, labels: tuple[str, ...] = ("hq", "lq"), **config: Any) -> Path:
    """A tiny model of the class of aesthetic-shadow-v2."""
    id2label = dict(enumerate(labels))
    shake(ViTForImageClassification(ViTConfig(**SMALL, id2label=id2label, **config))).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_beit(folder: Path, labels: tuple[str, ...]) -> Path:
    """A tiny model of the class of cafe_aesthetic and cafe_waifu."""
    config = BeitConfig(
        **SMALL,
        id2label=dict(enumerate(labels)),
        use_absolute_position_embeddings=True,
        use_relative_position_bias=True,
        layer_scale_init_value=1.0,
    )
    shake(BeitForImageClassification(config)).save_pretrained(folder)
    BeitImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def scorer(name: str, folder: Path, **options: Any) -> Scorer:
    return create_scorer(ScorerSpec(scorer=name, model=str(folder), **options), "cpu")


def theirs(folder: Path, label: str, images: torch.Tensor) -> list[float]:
    """The label's score by transformers' own pipeline, from PIL images."""
    judge = pipeline("image-classification", model=str(folder), device="cpu")
    answers = [judge(image, top_k=None) for image in to_pil(images)]
    return [next(row["score"] for row in rows if row["label"] == label) for rows in answers]


@pytest.mark.parametrize(
    ("name", "label", "labels"),
    [
        ("cafe-aesthetic", "aesthetic", ("aesthetic", "not_aesthetic")),
        ("cafe-waifu", "waifu", ("not_waifu", "waifu")),
        ("aesthetic-shadow-v2", "hq", ("lq", "hq")),
    ],
)
def test_the_score_is_the_labels_probability_by_transformers_pipeline(
    tmp_path: Path, name: str, label: str, labels: tuple[str, ...]
) -> None:
    folder = save_vit(tmp_path, labels) if "shadow" in name else save_beit(tmp_path, labels)
    images = pictures(3, 40, 48)
    scores = scorer(name, folder).score(images, ["", "", ""]).tolist()
    assert scores == pytest.approx(theirs(folder, label, images), abs=5e-3)
    assert max(scores) - min(scores) > 0.02


def test_the_older_form_of_an_image_processors_file_is_read(tmp_path: Path) -> None:
    folder, images = save_beit(tmp_path, ("aesthetic", "not_aesthetic")), pictures(2, 40, 48)
    today = scorer("cafe-aesthetic", folder).score(images, ["", ""])
    older = {
        "feature_extractor_type": "BeitFeatureExtractor",
        "do_resize": True,
        "size": 32,
        "resample": 3,
        "do_center_crop": False,
        "crop_size": 32,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(older))
    assert scorer("cafe-aesthetic", folder).score(images, ["", ""]).tolist() == today.tolist()


def test_any_classifier_and_any_label(tmp_path: Path) -> None:
    folder, images = save_vit(tmp_path, ("good", "bad", "ugly")), pictures(2)
    for label in ("good", "bad", "ugly"):
        scores = scorer("image-classifier", folder, label=label).score(images, ["", ""])
        assert scores.tolist() == pytest.approx(theirs(folder, label, images), abs=5e-3)


def test_labels_that_exclude_nothing_are_judged_each_by_itself(tmp_path: Path) -> None:
    folder = save_vit(tmp_path, ("a", "b"), problem_type="multi_label_classification")
    images = pictures(2)
    scores = scorer("image-classifier", folder, label="b").score(images, ["", ""])
    assert scores.tolist() == pytest.approx(theirs(folder, "b", images), abs=5e-3)
    both = scores + scorer("image-classifier", folder, label="a").score(images, ["", ""])
    assert not torch.allclose(both, torch.ones(2), atol=1e-2)


def test_a_classifiers_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    judge = scorer("aesthetic-shadow-v2", save_vit(tmp_path))
    check_batch_free(judge, pictures(19, 40, 24), [""] * 19)


def test_a_classifiers_gradient_is_its_slope(tmp_path: Path) -> None:
    judge = scorer("aesthetic-shadow-v2", save_vit(tmp_path))
    check_gradient(judge, pictures(2, 32, 32), ["", ""])


def test_a_label_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    folder = save_vit(tmp_path, ("good", "bad"))
    with pytest.raises(InputError, match=r"no label 'hq'; its labels: good, bad"):
        scorer("aesthetic-shadow-v2", folder)
    with pytest.raises(InputError, match="'image-classifier' needs `label`"):
        scorer("image-classifier", folder)
    with pytest.raises(InputError, match="'sharpness' is no classifier; leave out `label`"):
        create_scorer(ScorerSpec(scorer="sharpness", label="good"), "cpu")


def test_a_missing_or_broken_classifier_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scorer 'cafe-waifu' needs 'model': the folder"):
        create_scorer(ScorerSpec(scorer="cafe-waifu"), "cpu")
    empty, lacking, unprepared = tmp_path / "empty", tmp_path / "lacking", tmp_path / "unprepared"
    empty.mkdir()
    save_vit(lacking)
    # one layer more than the file has weights for: transformers would make them up
    config = json.loads((lacking / "config.json").read_text())
    (lacking / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    (save_vit(unprepared) / "preprocessor_config.json").unlink()
    for folder, said in [
        (tmp_path / "none", "not a folder"),
        (empty, "transformers can't load this model"),
        (lacking, "the weights lack 16 tensors of a AutoModelForImageClassification, such as vit."),
        (unprepared, "transformers can't load its image processor"),
    ]:
        with pytest.raises(InputError) as caught:
            scorer("aesthetic-shadow-v2", folder)
        assert said in str(caught.value)
        assert str(folder) in str(caught.value)
