"""ImageReward's wiring: a random file in the published naming, judged by our modules and by a forward pass
written out from the published names, layer by layer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm
from torchvision import transforms  # type: ignore[import-untyped]

from scoring.errors import InputError
from scoring.rendering.images import to_pil
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.image_reward import renamed
from scoring.scorers.registry import create_scorer
from tests.unit.scoring.scorer_models import check_batch_free, check_gradient, pictures

Tensors = dict[str, Tensor]

WIDTH, HEADS, DEPTH, PATCH, SIZE = 128, 2, 2, 8, 16  # of the image encoder; 64 a head, as BLIP has it
TEXT, TEXT_HEADS, TEXT_DEPTH, HIDDEN = 24, 3, 2, 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "red", "##der", "on"]
MED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": TEXT,
    "initializer_range": 0.02,
    "intermediate_size": HIDDEN,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": TEXT_HEADS,
    "num_hidden_layers": TEXT_DEPTH,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS) + 2,  # [DEC] and [ENC]
    "encoder_width": 768,
    "add_cross_attention": True,
}


def published() -> Tensors:
    """Random tensors under the names of ImageReward.pt."""
    torch.manual_seed(0)
    tensors: Tensors = {}

    def linear(name: str, into: int, out: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(out, into) / math.sqrt(into) * 1.5
        tensors[f"{name}.bias"] = torch.randn(out) * 0.3

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"] = 1 + torch.randn(width) * 0.3
        tensors[f"{name}.bias"] = torch.randn(width) * 0.3

    image = "blip.visual_encoder"
    tensors[f"{image}.cls_token"] = torch.randn(1, 1, WIDTH)
    tensors[f"{image}.pos_embed"] = torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH)
    tensors[f"{image}.patch_embed.proj.weight"] = torch.randn(WIDTH, 3, PATCH, PATCH) / PATCH
    tensors[f"{image}.patch_embed.proj.bias"] = torch.randn(WIDTH) * 0.3
    for i in range(DEPTH):
        block = f"{image}.blocks.{i}"
        norm(f"{block}.norm1", WIDTH)
        linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        norm(f"{block}.norm2", WIDTH)
        linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH)
        linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
    norm(f"{image}.norm", WIDTH)

    text = "blip.text_encoder"
    tensors[f"{text}.embeddings.position_ids"] = torch.arange(40).unsqueeze(0)
    tensors[f"{text}.embeddings.word_embeddings.weight"] = torch.randn(len(WORDS) + 2, TEXT)
    tensors[f"{text}.embeddings.position_embeddings.weight"] = torch.randn(40, TEXT)
    norm(f"{text}.embeddings.LayerNorm", TEXT)
    for i in range(TEXT_DEPTH):
        layer = f"{text}.encoder.layer.{i}"
        for kind, source in (("attention", TEXT), ("crossattention", WIDTH)):
            linear(f"{layer}.{kind}.self.query", TEXT, TEXT)
            linear(f"{layer}.{kind}.self.key", source, TEXT)
            linear(f"{layer}.{kind}.self.value", source, TEXT)
            linear(f"{layer}.{kind}.output.dense", TEXT, TEXT)
            norm(f"{layer}.{kind}.output.LayerNorm", TEXT)
        linear(f"{layer}.intermediate.dense", TEXT, HIDDEN)
        linear(f"{layer}.output.dense", HIDDEN, TEXT)
        norm(f"{layer}.output.LayerNorm", TEXT)
    linear("blip.vision_proj", WIDTH, 8)
    linear("blip.text_proj", TEXT, 8)
    widths = (TEXT, 1024, 128, 64, 16, 1)
    for number, i in zip((0, 2, 4, 6, 7), range(5), strict=True):
        linear(f"mlp.layers.{number}", widths[i], widths[i + 1])
    return tensors


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of one sequence (T, width) over another, one head and one position at a time."""
    size = query.shape[1] // heads
    rows = []
    for q in query:
        parts = []
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            weights = torch.stack([torch.dot(q[own], k[own]) / math.sqrt(size) for k in key]).softmax(0)
            parts.append(sum(w * v[own] for w, v in zip(weights, value, strict=True)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def literal_reward(w: Tensors, pixels: Tensor, tokens: list[int]) -> float:
    """The reward of one normalised image (3, SIZE, SIZE) for unpadded tokens, from the published names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    image = "blip.visual_encoder"
    patches = conv2d(
        pixels[None], w[f"{image}.patch_embed.proj.weight"], w[f"{image}.patch_embed.proj.bias"], stride=PATCH
    )
    x = torch.cat([w[f"{image}.cls_token"][0], patches[0].flatten(1).T]) + w[f"{image}.pos_embed"][0]
    for i in range(DEPTH):
        block = f"{image}.blocks.{i}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).split(WIDTH, dim=1)
        x = x + linear(f"{block}.attn.proj", attend(q, k, v, HEADS))
        hidden = gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6)))
        x = x + linear(f"{block}.mlp.fc2", hidden)
    seen = norm(f"{image}.norm", x, 1e-6)

    text = "blip.text_encoder"
    words = w[f"{text}.embeddings.word_embeddings.weight"][tokens]
    y = words + w[f"{text}.embeddings.position_embeddings.weight"][: len(tokens)]
    y = norm(f"{text}.embeddings.LayerNorm", y, 1e-12)
    for i in range(TEXT_DEPTH):
        layer = f"{text}.encoder.layer.{i}"
        for kind, source in (("attention", None), ("crossattention", seen)):
            part = f"{layer}.{kind}"
            other = y if source is None else source
            q, k, v = (
                linear(f"{part}.self.query", y),
                linear(f"{part}.self.key", other),
                linear(f"{part}.self.value", other),
            )
            out = linear(f"{part}.output.dense", attend(q, k, v, TEXT_HEADS))
            y = norm(f"{part}.output.LayerNorm", out + y, 1e-12)
        hidden = gelu(linear(f"{layer}.intermediate.dense", y))
        y = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", hidden) + y, 1e-12)
    z = y[0]
    for number in (0, 2, 4, 6, 7):
        z = linear(f"mlp.layers.{number}", z)
    return (float(z) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("image-reward")
    torch.save(published(), place / "ImageReward.pt")
    (place / "med_config.json").write_text(json.dumps(MED))
    (place / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return place


def scorer(folder: Path, **options: Any) -> Scorer:
    return create_scorer(ScorerSpec(scorer="image-reward", model=str(folder), **options), "cpu")


def test_the_reward_is_that_of_the_published_model(folder: Path) -> None:
    images = pictures(2, SIZE, SIZE)
    prompts = ["A redder cat", "dog on a bicycle"]
    tokens = [
        [2, 5, 8, 9, 6, 3],
        [2, 7, 10, 5, 1, 3],
    ]  # [CLS] a red ##der cat [SEP], [CLS] dog on a [UNK] [SEP]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    expected = [
        literal_reward(published(), (image - mean) / std, row)
        for image, row in zip(images, tokens, strict=True)
    ]
    scores = scorer(folder).score(images, prompts).tolist()
    assert scores == pytest.approx(expected, abs=2e-4)
    assert abs(expected[0] - expected[1]) > 0.05
    pressed = scorer(folder, sigmoid=True).score(images, prompts).tolist()
    assert pressed == pytest.approx([1 / (1 + math.exp(-x)) for x in expected], abs=1e-4)


def test_images_are_prepared_as_the_authors_do(folder: Path) -> None:
    images, prompts = pictures(2, 40, 24), ["a cat", "a dog"]
    prepare = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
        ]
    )
    prepared = torch.stack([prepare(image) for image in to_pil(images)])
    judge = scorer(folder)
    theirs, ours = judge.score(prepared, prompts), judge.score(images, prompts)
    # they round to 8 bits, which this wild model makes much of; another crop it makes more of
    assert (ours - theirs).abs().max() < 0.3
    assert (ours - judge.score(images.roll(1, -1), prompts)).abs().min() > 0.6


def test_the_reward_does_not_depend_on_the_batch(folder: Path) -> None:
    prompts = ["a cat on a red dog" if i % 2 else "dog" for i in range(20)]
    check_batch_free(scorer(folder), pictures(20), prompts)


def test_the_rewards_gradient_is_its_slope(folder: Path) -> None:
    check_gradient(scorer(folder), pictures(2, SIZE, SIZE), ["a cat", "a red dog"])


def test_a_prompt_longer_than_35_tokens_is_cut_and_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge, image = scorer(folder), pictures(1)
    whole = judge.score(image, ["cat " * 33])
    assert not caplog.records
    assert torch.equal(judge.score(image, ["cat " * 33 + "dog"]), whole)
    assert "reads only the beginning of the prompt" in caplog.text


def test_every_tensor_but_the_unread_ones_is_used() -> None:
    tensors = published()
    unread = {"blip.vision_proj", "blip.text_proj", "blip.text_encoder.embeddings.position_ids"}
    used = {name for name in tensors if not any(name.startswith(part) for part in unread)}
    assert len(renamed(tensors)) == len(used)


def test_a_missing_or_broken_part_is_refused_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        return place

    no_vocabulary, no_config, no_model, other, lacking, short = (broken(name) for name in "abcdef")
    (no_vocabulary / "vocab.txt").unlink()
    (no_config / "med_config.json").unlink()
    (no_model / "ImageReward.pt").unlink()
    torch.save({"weight": torch.ones(1)}, other / "ImageReward.pt")
    torch.save({**published(), "blip.new": torch.ones(1)}, lacking / "ImageReward.pt")
    (short / "med_config.json").write_text('{"hidden_size": 24}')
    for place, said in [
        (no_vocabulary, "vocab.txt: no such file; put the vocabulary of bert-base-uncased there"),
        (no_config, "med_config.json: not readable as JSON"),
        (no_model, "ImageReward.pt: no such file"),
        (other, "no image encoder of BLIP in it"),
        (lacking, "another model: blip.new is 1, wanted is not there"),
        (short, "med_config.json: no 'vocab_size' in it"),
    ]:
        with pytest.raises(InputError) as caught:
            scorer(place)
        assert said in str(caught.value)
