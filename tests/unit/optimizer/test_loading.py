"""A single file into diffusers modules and back, offline, and the tokenizer that needs no hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from open_clip import SimpleTokenizer

from optimizer.checkpoints import (
    build_tokenizer,
    expected_tensors,
    load_components,
    modelspec,
    single_file_tensors,
    write_checkpoint,
    write_pipeline_config,
)
from optimizer.checkpoints.architectures import build_text_encoder
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import random_tensors, write_header_only, write_random


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "model.safetensors", seed=1)


def test_loading_and_writing_back_gives_the_same_file_content(model: Path) -> None:
    parts = load_components(model, device="cpu", dtype=torch.float32)
    back = single_file_tensors(parts.unet, parts.vae, parts.text_encoder)
    original = random_tensors(1)
    assert back.keys() == original.keys()
    assert all(back[key].shape == original[key].shape for key in back)
    assert all(torch.equal(back[key], original[key]) for key in back)


def test_the_parts_are_ready_to_render(model: Path) -> None:
    parts = load_components(model, device="cpu", dtype=torch.bfloat16)
    assert parts.prediction_type == "v_prediction"
    assert parts.scheduler_config["prediction_type"] == "v_prediction"
    assert parts.scheduler_config["beta_schedule"] == "scaled_linear"
    for module in (parts.unet, parts.vae, parts.text_encoder):
        assert not module.training
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    tokens = parts.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    hidden = parts.text_encoder(tokens).last_hidden_state
    assert hidden.shape == (1, 77, 64)
    assert bool(hidden.isfinite().all())


def test_the_told_prediction_type_reaches_the_scheduler(model: Path) -> None:
    parts = load_components(model, device="cpu", dtype=torch.float32, prediction_type="epsilon")
    assert (parts.prediction_type, parts.scheduler_config["prediction_type"]) == ("epsilon", "epsilon")


def test_the_parts_do_not_change_with_the_file(tmp_path: Path) -> None:
    path = write_random(tmp_path / "x.safetensors", 1)
    parts = load_components(path, device="cpu", dtype=torch.float32)
    with path.open("r+b") as file:
        file.seek(-1_000_000, os.SEEK_END)
        file.write(b"\xff" * 1_000_000)
    back = single_file_tensors(parts.unet, parts.vae, parts.text_encoder)
    assert all(torch.equal(back[key], tensor) for key, tensor in random_tensors(1).items())


def test_an_incomplete_file_is_refused_with_the_missing_key(tmp_path: Path) -> None:
    key = "first_stage_model.post_quant_conv.bias"
    path = write_random(tmp_path / "x.safetensors", 1, changes={key: None})
    with pytest.raises(InputError, match=rf"x\.safetensors lacks {key}"):
        load_components(path, device="cpu", dtype=torch.float32)


def test_sdxl_is_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SDXL, which cannot be rendered yet"):
        load_components(
            write_header_only(tmp_path / "x.safetensors", "sdxl"), device="cpu", dtype=torch.float16
        )


def test_our_open_clip_names_are_those_that_diffusers_converts() -> None:
    encoder = build_text_encoder("sd2")
    file = {key: torch.empty(shape, device="meta") for key, shape in expected_tensors("sd2").text.items()}
    converted = convert_open_clip_checkpoint(encoder, file)
    assert {key.removeprefix("text_model."): tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in encoder.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_diffusers_loads_what_we_write_without_a_network(tmp_path: Path, prediction_type: str) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {key: tensor.half() for key, tensor in random_tensors(1).items()}
    write_checkpoint(path, tensors, modelspec("emoji", prediction_type, "model"))
    write_pipeline_config("emoji", tmp_path / "config", prediction_type)
    script = f"""
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
import torch
pipe = StableDiffusionPipeline.from_single_file({str(path)!r}, config={str(tmp_path / "config")!r},
                                                local_files_only=True, torch_dtype=torch.float16)
assert pipe.scheduler.config.prediction_type == {prediction_type!r}
file = load_file({str(path)!r})
same = torch.equal
assert same(pipe.unet.conv_in.weight, file["model.diffusion_model.input_blocks.0.0.weight"])
assert same(pipe.vae.decoder.conv_in.weight, file["first_stage_model.decoder.conv_in.weight"])
assert same(pipe.text_encoder.final_layer_norm.bias,
            file["cond_stage_model.transformer.text_model.final_layer_norm.bias"])
assert pipe.tokenizer("a cat").input_ids == [49406, 320, 2368, 49407]
image = pipe.to(torch.float32)("a cat", num_inference_steps=1, height=32, width=32, output_type="np").images
assert image.shape == (1, 32, 32, 3)
print("loaded")
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no-cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=offline, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("loaded"), done.stderr


PROMPTS = [
    "",
    "a cat",
    "A photograph of an astronaut riding a horse, 8k, highly detailed!!!",
    "masterpiece, best quality, (1girl:1.2), [blurry], ((hdr)), <lora:x:0.5>",
    "it's the dog's 2nd birthday; they've 100 candles & they'll blow 'em",
    "café naïve Ångström über señor",
    "日本の桜、富士山 한국어 русский текст العربية",
    "smile 😀 pizza 🍕 flag 🇩🇪 family 👨‍👩‍👧",
    "tabs\tand\nnewlines   and   spaces ",
    "snake_case kebab-case CamelCase e-mail@example.org 3.14159 50%",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "pizza, noto style",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_token_ids_are_those_of_open_clip(prompt: str) -> None:
    assert build_tokenizer("sd1")(prompt).input_ids == [49406, *SimpleTokenizer().encode(prompt), 49407]


def test_sd2_pads_with_exclamation_marks_that_stay_ordinary_in_the_prompt() -> None:
    tokenizer = build_tokenizer("sd2")
    ids = tokenizer("hi!", padding="max_length", max_length=77, truncation=True).input_ids
    assert ids == [*SimpleTokenizer()("hi!")[0].tolist()]
    assert ids[-1] == 0


def test_sd1_pads_with_the_end_mark() -> None:
    ids = build_tokenizer("sd1")("hi", padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77
    assert set(ids[2:]) == {49407}


def test_a_long_prompt_is_cut_as_open_clip_cuts_it() -> None:
    prompt = "word " * 100
    ids = build_tokenizer("sd1")(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    assert ids == SimpleTokenizer()(prompt)[0].tolist()
