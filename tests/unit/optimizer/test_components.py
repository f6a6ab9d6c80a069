"""Components taken apart and put together, against the tensors they were made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizer.checkpoints import (
    inspect_checkpoint,
    load_components,
    write_checkpoint,
    write_pipeline_config,
)
from optimizer.checkpoints.architectures import build_text_encoder, build_vae
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.names import clip_names
from optimizer.checkpoints.parts import Component, component_of, expected_part, parse_components
from optimizer.component_recipes import component_metadata, describe, read_component_recipe
from optimizer.components import average, components_in, convert, extract, join, prune, swap
from optimizer.formats.merge_metadata import read_ancestry
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import random_tensors, write_header_only, write_random

UNET, TEXT, VAE = (expected_part("emoji", part) for part in ("unet", "text_encoder", "vae"))
Sources = dict[Component, Any]
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """x, y and z: three random models in three precisions."""
    folder = tmp_path_factory.mktemp("models")
    kinds = {"x": torch.float32, "y": torch.float16, "z": torch.bfloat16}
    return {
        name: write_random(folder / f"{name}.safetensors", seed, dtype)
        for seed, (name, dtype) in enumerate(kinds.items(), 1)
    }


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the true shapes of each architecture that are only a header."""
    folder = tmp_path_factory.mktemp("big")
    return {name: write_header_only(folder / f"{name}.safetensors", name) for name in ("sd1", "sd2", "sdxl")}


def same(found: Tensor, wanted: Tensor) -> bool:
    return found.dtype == wanted.dtype and torch.equal(found, wanted)


# --- extract, swap, join ---


def test_an_extracted_component_is_its_tensors_and_nothing_else(
    files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "vae.safetensors"
    extract(files["y"], ["vae"], out, metadata={})
    found, whole = load_file(out), load_file(files["y"])
    assert found.keys() == VAE.keys()
    assert all(same(found[key], whole[key]) for key in VAE)
    (held,) = components_in(out)
    assert (held.component, held.tensors, held.dtypes) == ("vae", len(VAE), (torch.float16,))
    assert held.fits == ("emoji",)


def test_a_join_takes_each_component_from_its_own_file_to_the_bit(
    files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "joined.safetensors"
    sources: Sources = {"unet": files["x"], "text_encoder": files["y"], "vae": files["z"]}
    assert join(sources, out, metadata={}) == "emoji"
    found, parts = load_file(out), {part: load_file(path) for part, path in sources.items()}
    assert found.keys() == {*UNET, *TEXT, *VAE}
    assert all(same(found[key], parts[cast("Component", component_of(key))][key]) for key in found)


def test_a_join_loads_and_renders(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "joined.safetensors"
    sources: Sources = {"unet": files["x"], "text_encoder": files["y"], "vae": files["z"]}
    join(sources, out, metadata={}, dtype=torch.float16)
    parts = load_components(out, device="cpu", dtype=torch.float32)
    x, y, z = (load_components(files[name], device="cpu", dtype=torch.float32) for name in "xyz")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[49406, 320, 2368, 49407]])
    with torch.no_grad():
        text = parts.text_encoder(tokens).last_hidden_state
        torch.testing.assert_close(text, y.text_encoder(tokens).last_hidden_state)
        noise, theirs = (model(latents, 500, text).sample for model in (parts.unet, x.unet))
        # x was fp32 and went through half precision, z was bfloat16, which half precision mostly holds.
        torch.testing.assert_close(noise, theirs, rtol=0.02, atol=0.02)
        image, wanted = (model.decode(latents).sample for model in (parts.vae, z.vae))
        torch.testing.assert_close(image, wanted, rtol=0.02, atol=0.02)


def test_a_join_may_take_the_mean_of_several(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "joined.safetensors"
    sources: Sources = {
        "unet": [files["x"]],
        "text_encoder": [files["x"], files["y"], files["z"]],
        "vae": files["y"],
    }
    join(sources, out, metadata={}, dtype=torch.float32)
    found, loaded = load_file(out), [load_file(files[name]) for name in "xyz"]
    for key in TEXT:
        mean = torch.stack([file[key].double() for file in loaded]).mean(0)
        torch.testing.assert_close(found[key].double(), mean, rtol=1e-6, atol=1e-8)
    assert all(same(found[key], loaded[0][key]) for key in UNET)
    assert all(same(found[key], loaded[1][key].float()) for key in VAE)


def test_swap_changes_one_component_and_the_rest_stays(files: dict[str, Path], tmp_path: Path) -> None:
    betas = {"betas": torch.linspace(0.1, 0.2, 10, dtype=torch.float64), "model_ema.decay": torch.ones(1)}
    base = write_random(tmp_path / "base.safetensors", 1, changes=betas)
    swap(base, "text_encoder", files["y"], tmp_path / "o.safetensors", metadata={})
    found, x, y = load_file(tmp_path / "o.safetensors"), load_file(base), load_file(files["y"])
    assert found.keys() == x.keys() - {"model_ema.decay"}
    assert all(same(found[key], (y if key in TEXT else x)[key]) for key in found)


def test_what_belongs_to_a_text_encoder_beside_its_weights_goes_with_it(tmp_path: Path) -> None:
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    a = write_random(tmp_path / "a.safetensors", 1, changes={ids: torch.arange(77)[None]})
    b = write_random(tmp_path / "b.safetensors", 2)
    swap(b, "text_encoder", a, tmp_path / "o.safetensors", metadata={}, dtype=torch.float16)
    assert same(load_file(tmp_path / "o.safetensors")[ids], torch.arange(77)[None])
    swap(a, "text_encoder", b, tmp_path / "o.safetensors", metadata={})
    assert ids not in load_file(tmp_path / "o.safetensors")


# --- components in files of their own ---


def bare_ldm_vae(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    bare = {key.removeprefix("first_stage_model."): tensors[key] for key in VAE}
    return {**bare, "loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}


def diffusers_vae(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return cast(
        "dict[str, Tensor]",
        convert_ldm_vae_checkpoint({key: tensors[key] for key in VAE}, build_vae("emoji").config),
    )


@pytest.mark.parametrize("layout", [bare_ldm_vae, diffusers_vae])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_bare_vae_file_is_baked_in(
    layout: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    suffix: str,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    bare = {key: tensor.contiguous() for key, tensor in layout(load_file(files["y"])).items()}
    path = tmp_path / f"vae{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": bare}, path)
    else:
        save_file(bare, path)
    join(
        {"unet": files["x"], "text_encoder": files["x"], "vae": path}, tmp_path / "o.safetensors", metadata={}
    )
    found, y = load_file(tmp_path / "o.safetensors"), load_file(files["y"])
    assert found.keys() == {*UNET, *TEXT, *VAE}
    assert all(same(found[key], y[key]) for key in VAE)


def test_a_bare_text_encoder_and_a_bare_unet_are_known(files: dict[str, Path], tmp_path: Path) -> None:
    y = load_file(files["y"])
    names = clip_names(build_text_encoder("emoji"))
    hugging = {f"text_model.{name.removeprefix('text_model.')}": y[key] for name, key in names.items()}
    save_file(hugging, tmp_path / "clip.safetensors")
    unet = {key.removeprefix("model.diffusion_model."): y[key] for key in UNET}
    save_file(unet, tmp_path / "unet.safetensors")
    sources: Sources = {
        "unet": tmp_path / "unet.safetensors",
        "text_encoder": tmp_path / "clip.safetensors",
        "vae": files["y"],
    }
    join(sources, tmp_path / "o.safetensors", metadata={})
    found = load_file(tmp_path / "o.safetensors")
    assert found.keys() == y.keys()
    assert all(same(found[key], y[key]) for key in y)


# --- precision and EMA ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_conversion_rounds_once_and_keeps_what_is_no_weight(
    dtype: torch.dtype, files: dict[str, Path], tmp_path: Path
) -> None:
    others = {"betas": torch.linspace(0.1, 0.2, 10, dtype=torch.float64), "global_step": torch.tensor(7)}
    source = write_random(tmp_path / "s.safetensors", 1, changes=others)
    convert(source, tmp_path / "o.safetensors", metadata={}, dtype=dtype)
    found, was = load_file(tmp_path / "o.safetensors"), load_file(source)
    assert found.keys() == was.keys()
    assert all(same(found[key], was[key] if key in others else was[key].to(dtype)) for key in was)


def test_a_number_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    large = random_tensors(1)[FIRST].clone()
    large[0, 0, 0, 0] = -70000.0
    source = write_random(tmp_path / "s.safetensors", 1, changes={FIRST: large})
    with pytest.raises(InputError, match=rf"{FIRST} holds 70000, and float16 ends at 65504; choose bfloat16"):
        convert(source, tmp_path / "o.safetensors", metadata={}, dtype=torch.float16)
    assert not (tmp_path / "o.safetensors").exists()
    convert(source, tmp_path / "o.safetensors", metadata={}, dtype=torch.bfloat16)


@pytest.mark.parametrize(("ema", "seed"), [("drop", 1), ("use", 2)])
def test_pruning_leaves_the_unet_or_puts_its_ema_copy_there(
    ema: Literal["drop", "use"], seed: int, tmp_path: Path
) -> None:
    copies = {f"model_ema.{key[6:].replace('.', '')}": random_tensors(2)[key] for key in UNET}
    source = write_random(
        tmp_path / "s.safetensors", 1, changes={**copies, "model_ema.decay": torch.ones(())}
    )
    prune(source, tmp_path / "o.safetensors", metadata={}, ema=ema)
    found = load_file(tmp_path / "o.safetensors")
    assert found.keys() == random_tensors(1).keys()
    assert all(same(found[key], random_tensors(seed if key in UNET else 1)[key]) for key in found)


def test_a_file_of_ema_copies_alone_becomes_a_plain_one(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    copies = {f"model_ema.{key[6:].replace('.', '')}": tensors[key] for key in UNET}
    rest = {key: tensor for key, tensor in tensors.items() if key not in UNET}
    write_checkpoint(tmp_path / "s.safetensors", {**rest, **copies}, {})
    choices: tuple[Literal["drop", "use"], ...] = ("drop", "use")
    for ema in choices:
        prune(tmp_path / "s.safetensors", tmp_path / "o.safetensors", metadata={}, ema=ema)
        found = load_file(tmp_path / "o.safetensors")
        assert found.keys() == tensors.keys()
        assert all(same(found[key], tensors[key]) for key in tensors)


def test_there_is_no_ema_copy_to_use(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no EMA copy of its UNet"):
        prune(files["x"], tmp_path / "o.safetensors", metadata={}, ema="use")


# --- the mean of other components ---


def test_a_uniform_merge_of_unet_and_text_encoder(files: dict[str, Path], tmp_path: Path) -> None:
    several, out = [files["x"], files["y"]], tmp_path / "o.safetensors"
    average(several, ["unet", "text_encoder"], out, metadata={}, dtype=torch.float32)
    found, x, y = load_file(out), load_file(files["x"]), load_file(files["y"])
    assert all(torch.equal(found[key], (x[key] + y[key].float()) / 2) for key in (*UNET, *TEXT))
    assert all(same(found[key], x[key]) for key in VAE)


def test_a_uniform_merge_of_a_text_encoder_alone_takes_extracted_files(
    files: dict[str, Path], tmp_path: Path
) -> None:
    for name in "xy":
        extract(files[name], ["text_encoder"], tmp_path / f"{name}.safetensors", metadata={})
    several = [tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    average(several, ["text_encoder"], tmp_path / "o.safetensors", metadata={}, dtype=torch.float32)
    found, x, y = load_file(tmp_path / "o.safetensors"), load_file(files["x"]), load_file(files["y"])
    assert found.keys() == TEXT.keys()
    assert all(torch.equal(found[key], (x[key] + y[key].float()) / 2) for key in TEXT)


# --- bad input ---


def test_sd1_with_sd2_in_a_join_names_both(big: dict[str, Path], tmp_path: Path) -> None:
    sources: Sources = {"unet": big["sd1"], "text_encoder": big["sd2"], "vae": big["sd1"]}
    words = (
        r"text encoder of sd2\.safetensors is that of SD2\.x \(1024 wide\), and SD1\.x needs its own \(768"
    )
    with pytest.raises(InputError, match=words):
        join(sources, tmp_path / "o.safetensors", metadata={})
    with pytest.raises(InputError, match=r"UNet of sd1.*"):
        join({"unet": [big["sd2"], big["sd1"]], "text_encoder": big["sd2"], "vae": big["sd2"]},
             tmp_path / "o.safetensors", metadata={})  # fmt: skip
    assert not (tmp_path / "o.safetensors").exists()


def test_sd1_with_sd2_in_a_uniform_merge_of_any_component(big: dict[str, Path], tmp_path: Path) -> None:
    for component in ("unet", "text_encoder", "vae"):
        with pytest.raises(InputError, match=r"sd1\.safetensors is SD1\.x and sd2\.safetensors is SD2\.x"):
            average([big["sd1"], big["sd2"]], [component], tmp_path / "o.safetensors", metadata={})


def test_sdxl_s_vae_has_sd1_s_shapes_and_is_refused(big: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"VAE of sdxl\.safetensors is that of SDXL, whose latents SD1\.x"):
        swap(big["sd1"], "vae", big["sdxl"], tmp_path / "o.safetensors", metadata={})


def test_sd1_and_sd2_share_a_vae(big: dict[str, Path]) -> None:
    assert components_in(big["sd1"])[2].fits[:2] == ("sd1", "sd2")
    assert [held.fits for held in components_in(big["sd2"])[:2]] == [("sd2",), ("sd2",)]
    assert [held.component for held in components_in(big["sdxl"])] == ["unet", "text_encoder", "vae"]


def test_a_component_that_a_model_does_not_have(files: dict[str, Path], tmp_path: Path) -> None:
    extract(files["x"], ["unet"], tmp_path / "unet.safetensors", metadata={})
    with pytest.raises(
        InputError, match=r"unet\.safetensors has no VAE, only UNet; take the VAE from another"
    ):
        swap(files["x"], "vae", tmp_path / "unet.safetensors", tmp_path / "o.safetensors", metadata={})
    with pytest.raises(InputError, match=r"has no text encoder, only UNet"):
        extract(tmp_path / "unet.safetensors", ["text_encoder"], tmp_path / "o.safetensors", metadata={})
    assert not (tmp_path / "o.safetensors").exists()


def test_a_component_that_is_not_whole(files: dict[str, Path], tmp_path: Path) -> None:
    key = next(key for key in TEXT if "layers.1.mlp.fc2.weight" in key)
    broken = write_random(tmp_path / "broken.safetensors", 1, changes={key: None})
    assert [held.fits for held in components_in(broken)] == [("emoji",), (), ("emoji",)]
    with pytest.raises(InputError, match=f"text encoder of broken.* it lacks {key}"):
        swap(files["x"], "text_encoder", broken, tmp_path / "o.safetensors", metadata={})


def test_a_bare_text_encoder_of_another_width(files: dict[str, Path], tmp_path: Path) -> None:
    tokens = {"text_model.embeddings.token_embedding.weight": torch.zeros(10, 512)}
    save_file(tokens, tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match=r"text encoder 512 wide, which no architecture takes .*SD1\.x 768"):
        swap(files["x"], "text_encoder", tmp_path / "wide.safetensors", tmp_path / "o", metadata={})


def test_names_that_are_no_component() -> None:
    with pytest.raises(
        InputError, match="'clip' is no component; the components are unet, text_encoder, vae"
    ):
        parse_components(["unet", "clip"])
    with pytest.raises(InputError, match="name a component"):
        parse_components([])
    assert parse_components(["vae", "unet", "vae"]) == ("unet", "vae")


def test_a_join_says_what_it_is_not_told(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is said of the vae"):
        join({"unet": files["x"], "text_encoder": files["x"]}, tmp_path / "o.safetensors", metadata={})


def test_something_else_is_no_component(files: dict[str, Path], tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="no checkpoint and no UNet, text encoder or VAE that is known"):
        components_in(tmp_path / "odd.safetensors")


# --- recipes ---


def test_the_metadata_says_what_came_from_where(files: dict[str, Path], tmp_path: Path) -> None:
    sources: Sources = {"unet": [files["x"]], "text_encoder": [files["y"]], "vae": [files["z"]]}
    recipe = describe("join", "joined", sources, HashCache(None))
    out = tmp_path / "joined.safetensors"
    join({part: paths[0] for part, paths in sources.items()}, out, metadata=component_metadata(recipe))
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    back = read_component_recipe(metadata)
    assert back is not None
    assert {part: [parent.name for parent in parents] for part, parents in back.parents.items()} == {
        "unet": ["x.safetensors"], "text_encoder": ["y.safetensors"], "vae": ["z.safetensors"]
    }  # fmt: skip
    a1111, models = json.loads(metadata["sd_merge_recipe"]), json.loads(metadata["sd_merge_models"])
    hashes = [inspect_checkpoint(files[name]).sha256 for name in "xyz"]
    assert [a1111[f"{place}_model_hash"] for place in ("primary", "secondary", "tertiary")] == hashes
    assert (a1111["interp_method"], a1111["bake_in_vae"]) == ("No interpolation", "z.safetensors")
    assert [models[digest]["name"] for digest in hashes] == [f"{name}.safetensors" for name in "xyz"]
    assert metadata["prediction_type"] == "v_prediction"
    merge = read_ancestry(out).model.merge
    assert merge is not None
    assert [parent.sha256 for parent in merge.parents] == hashes


def test_a_recipe_nests_those_of_its_parents(files: dict[str, Path], tmp_path: Path) -> None:
    first = component_metadata(
        describe("uniform", "mean", {"unet": [files["x"], files["y"]]}, HashCache(None), dtype="float16")
    )
    average([files["x"], files["y"]], ["unet"], tmp_path / "mean.safetensors", metadata=first)
    mean = tmp_path / "mean.safetensors"
    sources: Sources = {"unet": [mean], "text_encoder": [mean]}
    second = component_metadata(describe("join", "j", {**sources, "vae": [files["z"]]}, HashCache(None)))
    models = json.loads(second["sd_merge_models"])
    assert {model["name"] for model in models.values()} == {
        f"{n}.safetensors" for n in ("mean", "x", "y", "z")
    }
    merged = next(model for model in models.values() if model["name"] == "mean.safetensors")
    assert merged["sd_merge_recipe"]["interp_method"] == "Uniform merge of 2 (unet)"
    assert merged["sd_merge_recipe"]["multiplier"] == 0.5


def test_conversion_keeps_the_metadata_that_was_there(tmp_path: Path) -> None:
    source = write_random(tmp_path / "s.safetensors", 1, metadata={"sd_merge_recipe": '{"type": "webui"}'})
    sources: Sources = {"unet": [source], "text_encoder": [source], "vae": [source]}
    found = component_metadata(describe("convert", "o", sources, HashCache(None), dtype="float16"))
    assert found["sd_merge_recipe"] == '{"type": "webui"}'


def test_a_damaged_recipe_is_an_error() -> None:
    with pytest.raises(InputError, match="autombw_components is damaged"):
        read_component_recipe({"autombw_components": "{"})
    assert read_component_recipe({}) is None


def test_a_hash_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_random(tmp_path / "a.safetensors", 1)
    digest = HashCache(tmp_path / "cache").sha256(path)
    assert digest == inspect_checkpoint(path).sha256
    monkeypatch.setattr("optimizer.checkpoints.hashes.sha256_of", lambda path: "made again")
    assert HashCache(tmp_path / "cache").sha256(path) == digest
    write_random(path, 2)
    assert HashCache(tmp_path / "cache").sha256(path) == "made again"
    (tmp_path / "cache" / "hashes.json").write_text("{")
    assert HashCache(tmp_path / "cache").sha256(path) == "made again"


@pytest.mark.slow
def test_diffusers_loads_a_join_without_a_network(files: dict[str, Path], tmp_path: Path) -> None:
    out, config = tmp_path / "joined.safetensors", tmp_path / "config"
    sources: Sources = {"unet": files["x"], "text_encoder": files["y"], "vae": files["z"]}
    described = describe("join", "joined", {part: [path] for part, path in sources.items()}, HashCache(None))
    join(sources, out, metadata=component_metadata(described), dtype=torch.float16)
    write_pipeline_config("emoji", config)
    script = f"""
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
import torch
pipe = StableDiffusionPipeline.from_single_file({str(out)!r}, config={str(config)!r}, local_files_only=True,
                                                torch_dtype=torch.float16)
x, y, z = (load_file(path) for path in {[str(files[name]) for name in "xyz"]!r})
same = torch.equal
assert same(pipe.unet.conv_in.weight, x["model.diffusion_model.input_blocks.0.0.weight"].half())
assert same(pipe.vae.decoder.conv_in.weight, z["first_stage_model.decoder.conv_in.weight"].half())
assert same(pipe.text_encoder.final_layer_norm.bias,
            y["cond_stage_model.transformer.text_model.final_layer_norm.bias"])
image = pipe.to(torch.float32)("a cat", num_inference_steps=1, height=32, width=32, output_type="np").images
assert image.shape == (1, 32, 32, 3)
print("loaded")
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no-cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=offline, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("loaded"), done.stderr
