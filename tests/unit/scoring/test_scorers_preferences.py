"""PickScore, HPS and the SigLIP aesthetic predictor, each against its authors' own path."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionModel,
)

from scoring.errors import InputError
from scoring.rendering.images import to_pil
from scoring.scorers import hps
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.registry import create_scorer
from tests.unit.scoring.models import clip_tokenizer
from tests.unit.scoring.scorer_models import (
    check_batch_free,
    check_gradient,
    clip_config,
    pictures,
    shake,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PROMPTS = ["a cat", "a dog on a very red sofa"]


def scorer(name: str, place: Path) -> Scorer:
    return create_scorer(ScorerSpec(scorer=name, model=str(place)), "cpu")


# ---- PickScore


@pytest.fixture(scope="module")
def pick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pick")
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "vocab_size": 49408}
    config = CLIPConfig(
        text_config={**SMALL, **ids},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    model = shake(CLIPModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(torch.tensor(100.0).log())
    model.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder


def test_pickscore_is_the_scaled_cosine_of_its_authors(pick: Path) -> None:
    images = pictures(2, 40, 24)
    model, processor = CLIPModel.from_pretrained(pick).eval(), CLIPProcessor.from_pretrained(pick)
    given = processor(
        text=PROMPTS, images=to_pil(images), padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**given).logits_per_image.diagonal()
    ours = scorer("pickscore", pick).score(images, PROMPTS)
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1.0)  # of 100: 8 bits of a resize
    assert float(theirs.abs().max()) > 5
    swapped = scorer("pickscore", pick).score(images, PROMPTS[::-1])
    assert not torch.allclose(ours, swapped, atol=1.0)


def test_pickscore_of_unresized_images_is_exact(pick: Path) -> None:
    images = pictures(2, 16, 16)
    model, processor = CLIPModel.from_pretrained(pick).eval(), CLIPProcessor.from_pretrained(pick)
    with torch.no_grad():
        given = processor(text=PROMPTS, images=to_pil(images), padding=True, return_tensors="pt")
        theirs = model(**given).logits_per_image.diagonal()
    assert scorer("pickscore", pick).score(images, PROMPTS).tolist() == pytest.approx(
        theirs.tolist(), abs=1e-3
    )


def test_pickscore_does_not_depend_on_the_batch(pick: Path) -> None:
    check_batch_free(scorer("pickscore", pick), pictures(20), [f"picture {i % 3} of {i}" for i in range(20)])


def test_pickscores_gradient_is_its_slope(pick: Path) -> None:
    check_gradient(scorer("pickscore", pick), pictures(2, 16, 16), PROMPTS)


def test_pickscore_tells_of_a_prompt_that_is_cut(pick: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer("pickscore", pick).score(pictures(1), ["cat " * 75])
    assert "reads only the beginning" not in caplog.text
    scorer("pickscore", pick).score(pictures(1), ["cat " * 76])
    assert "reads only the beginning" in caplog.text


# ---- HPS v2.1


@pytest.fixture
def hps_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in the form of the published one, of an architecture that open_clip is told of."""
    (tmp_path / "tiny-hps.json").write_text(json.dumps(clip_config(12)))
    open_clip.add_model_config(tmp_path / "tiny-hps.json")
    monkeypatch.setattr(hps, "ARCHITECTURE", "tiny-hps")
    model = shake(open_clip.CLIP(**clip_config(12)))
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 1, "name": "hps", "state_dict": model.state_dict()}, path)
    return path


def test_hps_is_the_cosine_of_its_authors(hps_file: Path) -> None:
    images = pictures(2, 40, 24)
    model, _, transform = open_clip.create_model_and_transforms("tiny-hps")
    model.load_state_dict(torch.load(hps_file)["state_dict"])
    with torch.no_grad():
        seen, read, _ = model.eval()(
            torch.stack([transform(image) for image in to_pil(images)]),
            open_clip.get_tokenizer("tiny-hps")(PROMPTS),
        )
    theirs = (seen @ read.T).diagonal()
    assert scorer("hps-v2.1", hps_file).score(images, PROMPTS).tolist() == pytest.approx(
        theirs.tolist(), abs=1e-2
    )
    assert scorer("hps-v2.1", hps_file.parent).score(images, PROMPTS).tolist() == pytest.approx(
        theirs.tolist(), abs=1e-2
    )


def test_hps_does_not_depend_on_the_batch_and_has_gradients(hps_file: Path) -> None:
    judge = scorer("hps-v2.1", hps_file)
    check_batch_free(judge, pictures(35), [f"picture {i % 3}" for i in range(35)])
    check_gradient(judge, pictures(2, 16, 16), PROMPTS)


def test_hps_ships_with_the_architecture_of_the_published_file() -> None:
    assert hps.ARCHITECTURE == "ViT-H-14"
    assert open_clip.get_model_config("ViT-H-14")["embed_dim"] == 1024


def test_another_file_is_no_hps(hps_file: Path) -> None:
    folder = hps_file.parent
    torch.save({"weight": torch.ones(1)}, folder / "other.pt")
    torch.save({"state_dict": {"weight": torch.ones(1)}}, folder / "wrong.pt")
    for name, said in [
        ("none.pt", "no such file"),
        ("other.pt", "no 'state_dict' in it"),
        ("wrong.pt", "another model: "),
    ]:
        with pytest.raises(InputError) as caught:
            scorer("hps-v2.1", folder / name)
        assert said in str(caught.value)


# ---- aesthetic predictor V2.5


class LiteralHead(nn.Module):
    """The head as its author wrote it: the names of the published file come from these modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scoring_head = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.5),
            nn.Linear(1024, 128),
            nn.Dropout(0.5),
            nn.Linear(128, 64),
            nn.Dropout(0.5),
            nn.Linear(64, 16),
            nn.Dropout(0.2),
            nn.Linear(16, 1),
        )


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: both towers of SigLIP in one file, and the head beside them."""
    folder = tmp_path_factory.mktemp("siglip")
    config = SiglipConfig(
        text_config={**SMALL, "vocab_size": 50},
        vision_config={**SMALL, "image_size": 28, "patch_size": 14},
    )
    shake(SiglipModel(config)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    torch.manual_seed(2)
    torch.save(LiteralHead(16).state_dict(), folder / "aesthetic_predictor_v2_5.pth")
    return folder


def test_the_v2_5_score_is_the_head_over_siglips_pooled_output(siglip: Path) -> None:
    images = pictures(3, 40, 24)
    model = SiglipVisionModel.from_pretrained(siglip).eval()
    head = LiteralHead(16)
    head.load_state_dict(torch.load(siglip / "aesthetic_predictor_v2_5.pth"))
    with torch.no_grad():
        given = SiglipImageProcessorPil.from_pretrained(siglip)(images=to_pil(images), return_tensors="pt")
        pooled = model(torch.as_tensor(given.pixel_values)).pooler_output
        theirs = head.eval().scoring_head(pooled / pooled.norm(dim=-1, keepdim=True))[:, 0]
    for place in (siglip, siglip / "aesthetic_predictor_v2_5.pth"):
        ours = scorer("aesthetic-v2-5", place).score(images, ["", "", ""])
        assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-3)


def test_v2_5_does_not_depend_on_the_batch_and_has_gradients(siglip: Path) -> None:
    judge = scorer("aesthetic-v2-5", siglip)
    check_batch_free(judge, pictures(20), [""] * 20)
    check_gradient(judge, pictures(2, 28, 28), ["", ""])


def test_a_head_of_another_width_is_refused(siglip: Path) -> None:
    torch.save(LiteralHead(8).state_dict(), siglip / "narrow.pth")
    with pytest.raises(
        InputError, match=r"another model: scoring_head.0.weight is 1024x8, wanted is 1024x16"
    ):
        scorer("aesthetic-v2-5", siglip / "narrow.pth")
