"""Small random models of the SD1, SD2 and zoo shapes, and how diffusers' own pipeline renders with them."""

from __future__ import annotations

import gzip
import json
from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scoring.probes import Probe
from scoring.rendering.components import Components, PredictionType
from tests.unit.scoring.diffusers_samplers import first_noise, make_scheduler, seeded

ARCHITECTURES = Path(__file__).parents[3] / "optimizer/architectures"
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
_TEXT_WIDTH = 16


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """The tokenizer of every SD1 and SD2 model, from the vocabulary that open_clip carries."""
    packed = (files("open_clip") / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    vocab = dict(SimpleTokenizer().encoder)
    vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
    vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
    return CLIPTokenizer(vocab=vocab, merges=[tuple(line.split()) for line in lines], model_max_length=77)


def _text_encoder(layers: int, act: str) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=_TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            hidden_act=act,
            projection_dim=_TEXT_WIDTH,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        cross_attention_dim=_TEXT_WIDTH,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        **options,
    )


def _components(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, prediction: PredictionType
) -> Components:
    for module in (unet, vae, text):
        module.eval()
    return Components(unet, vae, text, clip_tokenizer(), prediction, SCHEDULER)


def sd1() -> Components:
    torch.manual_seed(1)
    return _components(_unet(attention_head_dim=8), _vae(), _text_encoder(3, "quick_gelu"), "epsilon")


def sd2() -> Components:
    torch.manual_seed(2)
    unet = _unet(attention_head_dim=[2, 2, 4, 4], use_linear_projection=True)
    return _components(unet, _vae(), _text_encoder(3, "gelu"), "v_prediction")


def emoji() -> Components:
    """The zoo's own architecture with random weights."""
    return _of_architecture("emoji")


def sd2_of_full_size() -> Components:
    """SD2.1 with random weights: 1.3 billion of them."""
    return _of_architecture("sd2")


def _of_architecture(name: str) -> Components:
    def config(part: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((ARCHITECTURES / name / part / "config.json").read_text())
        return read

    torch.manual_seed(3)
    unet = UNet2DConditionModel.from_config(config("unet"))
    vae = AutoencoderKL.from_config(config("vae"))
    return _components(unet, vae, CLIPTextModel(CLIPTextConfig(**config("text_encoder"))), "v_prediction")


def _without_last_layers(text_encoder: CLIPTextModel, skipped: int) -> CLIPTextModel:
    """What clip skip means; the pipeline's own `clip_skip` fails with transformers 5 (no `text_model`)."""
    if not skipped:
        return text_encoder
    shorter = deepcopy(text_encoder)
    shorter.encoder.layers = shorter.encoder.layers[:-skipped]
    return shorter


def pipeline(components: Components, probe: Probe) -> StableDiffusionPipeline:
    """diffusers' own pipeline with the sampler and clip skip of `probe`."""
    built = StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=_without_last_layers(components.text_encoder, probe.clip_skip - 1),
        tokenizer=components.tokenizer,
        unet=components.unet,
        scheduler=make_scheduler(probe.sampler, components),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    built.set_progress_bar_config(disable=True)
    return built


def pipeline_image(
    components: Components, probe: Probe, reused: StableDiffusionPipeline | None = None
) -> Tensor:
    """What diffusers' own pipeline renders for one probe: (3, H, W) in [0, 1]."""
    run = reused or pipeline(components, probe)
    height, width = (side // components.pixels_per_latent for side in (probe.height, probe.width))
    noise, generator = seeded(probe.seed, (1, components.unet.config.in_channels, height, width))
    run.scheduler.set_timesteps(probe.steps)
    images = run(
        probe.prompt,
        negative_prompt=probe.negative_prompt,
        height=probe.height,
        width=probe.width,
        num_inference_steps=probe.steps,
        guidance_scale=probe.cfg_scale,
        latents=first_noise(probe.sampler, run.scheduler, noise),
        generator=generator,
        output_type="pt",
    ).images
    image: Tensor = images[0]
    return image
