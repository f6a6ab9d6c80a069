"""ImageReward v1.0: how well people like an image for its prompt.

Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", 2023. BLIP's
text encoder reads the prompt and, by cross attention, the image; a head of five linear layers makes a number
of its first output. The authors' package does not import with present transformers, so their weights are
put here into transformers' own BLIP, whose parts are the same under other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import check_prompts, warn_of_cut
from scoring.scorers.laion import five_layers, named
from scoring.scorers.preprocessing import as_open_clip, in_parts
from scoring.scorers.tensor_files import filled, read_file, state_dict
from scoring.scorers.weights import given_path

# ImageReward.py of THUDM/ImageReward: mean and deviation of the raw reward over its data, tokens it reads.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
_HEAD_WIDTH = 64  # of one attention head of the image encoder, in BLIP's ViT-B and ViT-L alike
_IMAGES_AT_ONCE = 16

# What the published file calls each part -> what transformers calls it.
_IMAGE_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)
# In the file and not read by the reward: projections of BLIP's contrastive loss, a constant buffer.
_UNREAD = re.compile(r"blip\.(vision_proj|text_proj)\.|blip\.text_encoder\.embeddings\.position_ids$")


class ImageReward:
    """The reward, about mean 0 and deviation 1 on its own data.

    `folder` holds ImageReward.pt, med_config.json and the vocabulary of BERT, vocab.txt.

    Raises InputError for a folder that lacks one of them or holds others.
    """

    differentiable = True

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        self.name = name
        path = folder / "ImageReward.pt"
        tensors = state_dict(read_file(path), path)
        self._model = filled(_modules(tensors, _config(folder), path), renamed(tensors), path).to(device)
        self._tokenizer = _tokenizer(folder)
        self._device = device

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ValueError unless there is one prompt an image. Of a prompt the first 35 tokens are read,
        and a warning says where it has more."""
        check_prompts(images, prompts)
        for prompt in dict.fromkeys(prompts):
            if len(self._tokenizer(prompt).input_ids) > TOKENS:
                warn_of_cut(prompt)
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self._device)
        numbers = torch.arange(len(images), device=self._device)
        pixels = images.to(self._device, torch.float32)

        def score_part(part: Tensor) -> Tensor:
            return self._score_part(pixels[part], tokens.input_ids[part], tokens.attention_mask[part])

        return in_parts(numbers, _IMAGES_AT_ONCE, score_part)

    def _score_part(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        size = self._model.image.config.image_size
        seen = self._model.image(as_open_clip(images, {**_PREPROCESS, "size": size})).last_hidden_state
        read = self._model.text(tokens, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        rewards: Tensor = self._model.mlp(read[:, 0]).squeeze(-1)
        return (rewards - MEAN) / DEVIATION


_PREPROCESS: Mapping[str, Any] = {
    "resize_mode": "shortest",
    "interpolation": "bicubic",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


def create(spec: ScorerSpec, device: torch.device) -> ImageReward:
    """The entry point of the scorer "image-reward"."""
    folder = given_path(spec, "the folder of ImageReward.pt, med_config.json and BERT's vocab.txt")
    return ImageReward(spec.scorer, folder, device)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ImageReward.pt under the names of our modules: `image.` (BlipVisionModel), `text.`
    (BlipTextModel, which keeps its names) and `mlp.`. What the reward does not read is left out."""
    ours = {}
    for name, tensor in tensors.items():
        if _UNREAD.match(name):
            continue
        if name.startswith("blip.visual_encoder."):
            ours["image." + _image_name(name.removeprefix("blip.visual_encoder."))] = tensor
        elif name.startswith("blip.text_encoder."):
            ours["text." + name.removeprefix("blip.text_encoder.")] = tensor
        else:
            ours[name] = tensor
    return ours


def _image_name(name: str) -> str:
    for published, ours in _IMAGE_NAMES:
        changed, count = re.subn(published, ours, name)
        if count:
            return changed
    return name


def _modules(tensors: Mapping[str, Tensor], med: Mapping[str, Any], path: Path) -> Any:
    """BLIP and the head in the sizes of the file, with random weights."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    try:
        width, _, patch, _ = tensors["blip.visual_encoder.patch_embed.proj.weight"].shape
        positions = tensors["blip.visual_encoder.pos_embed"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: no image encoder of BLIP in it; give the published file") from error
    depth = len({name.split(".")[3] for name in tensors if name.startswith("blip.visual_encoder.blocks.")})
    image = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,  # of BLIP's own ViT; transformers' default is another
    )
    try:
        text = BlipTextConfig(
            vocab_size=med["vocab_size"],
            hidden_size=med["hidden_size"],
            encoder_hidden_size=width,
            intermediate_size=med["intermediate_size"],
            num_hidden_layers=med["num_hidden_layers"],
            num_attention_heads=med["num_attention_heads"],
            max_position_embeddings=med["max_position_embeddings"],
            hidden_act=med["hidden_act"],
            layer_norm_eps=med["layer_norm_eps"],
            is_decoder=True,  # gives the layers their cross attention
        )
    except KeyError as error:
        raise InputError(
            f"{path.parent}/med_config.json: no {error} in it; give the published file"
        ) from error
    return nn.ModuleDict(
        {
            "image": BlipVisionModel(image),
            "text": BlipTextModel(text, add_pooling_layer=False),
            "mlp": named({"layers": five_layers(text.hidden_size)}),
        }
    )


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "med_config.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}; give the published file") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: not an object of names and values; give the published file")
    return read


def _tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer

    path = folder / "vocab.txt"
    if not path.is_file():
        raise InputError(f"{path}: no such file; put the vocabulary of bert-base-uncased there")
    return BertTokenizer(vocab=str(path), do_lower_case=True)
