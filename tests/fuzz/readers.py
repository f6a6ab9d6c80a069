"""Every reader of files that people bring along, with files that it reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from optimizer.checkpoints import inspect_checkpoint, open_checkpoint
from optimizer.formats.mbwrt_history import history_csv, read_history
from optimizer.formats.mbwrt_recipe import prove, read_mbwrt_recipe
from optimizer.formats.merge_metadata import ancestry_of, read_ancestry
from optimizer.formats.presets import read_presets
from scoring.errors import InputError
from scoring.probes import Places, Probe, read_probe_file, to_infotext
from scoring.probes.checked import checked_probe
from scoring.prompts.composition import compose
from scoring.prompts.emphasis import parse_emphasis
from scoring.prompts.schedule import schedule
from scoring.scorers.tensor_files import read_file
from service.jobfile import read_job_file
from service.jobs import parse_request
from service.manifest import read_manifest
from service.planning import lay_bracket, leaf_names
from service.settings import load_settings
from tests.fuzz.mutations import chunks_of, png_of
from tests.unit.optimizer.formats.mbwrt_files import recipe_text, weights_of

PAYLOAD = {
    "prompt": "a (red:1.2) apple, [a:b:0.5] AND a pear",
    "negative_prompt": "blurry",
    "seed": 7,
    "steps": 20,
    "sampler_name": "DPM++ 2M Karras",
    "cfg_scale": 7,
    "width": 512,
    "height": 768,
    "n_iter": 2,
    "batch_size": 2,
    "enable_hr": True,
    "hr_scale": 1.5,
    "hr_upscaler": "Latent",
    "denoising_strength": 0.6,
    "override_settings": {"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": 31337},
    "alwayson_scripts": {"FreeU": {"args": [True, 0, 1, 0]}},
}
JOB = {
    "name": "four",
    "leaves": ["one", "two", "three"],
    "bracket": {"kind": "balanced", "first": "01b"},
    "probes": {"defaults": {"steps": 12}, "prompts": ["a red apple"], "seeds": [1, 2]},
    "scorers": [{"scorer": "clip", "model": "reward", "weight": 1.0}],
    "search": {"sampler": "gp", "trials": 40, "seed": 7, "start": ["GRAD_V"]},
    "nodes": {"03b": {"search": {"trials": 80}}},
}
YAML_PROBES = """\
- &one
  prompt: a red apple
  seed: 1
  steps: 12
- <<: *one
  seed: 2
- defaults: {steps: 9, cfg_scale: 5, width: 64, height: 64, wildcards: random}
  prompts: ["{a|an|the} apple", "a cat"]
  seeds: [1, 2, 3]
"""
MANIFEST = {
    "format": 1,
    "created_at": "2026-11-01T00:00:00Z",
    "database_url": "sqlite:////data/autombw.sqlite3",
    "database_sha256": "0" * 64,
    "files": [{"path": f"renders/aa/{'a' * 64}.png", "sha256": "a" * 64, "size": 3, "state": "present"}],
}
RECIPES = {
    "sd_merge_recipe": json.dumps(
        {"type": "webui", "primary_model_hash": "a" * 64, "secondary_model_hash": "b" * 64, "multiplier": 0.5}
    ),
    "sd_merge_models": json.dumps(
        {"a" * 64: {"name": "one", "legacy_hash": "abcd", "sd_merge_recipe": None}}
    ),
    "sd_mbwrt_recipe": json.dumps({"mbwrt_weights": "0.5,0.5", "mbwrt_weights_seq": "IN00,IN01"}),
    "autombw_recipe": json.dumps({"version": 1, "a": {"name": "one", "sha256": "a" * 64}}),
}


@dataclass(frozen=True)
class Reader:
    """A reader. suffix: of the files it is given; seeds: files that it reads, or refuses for one reason."""

    suffix: str
    read: Callable[[Path], object]
    seeds: Sequence[bytes]


def readers(shared: Path | None = None) -> dict[str, Reader]:
    """All readers by name. shared: a folder of real histories, recipes and payloads, used where it is."""
    more = _real(shared) if shared and shared.is_dir() else {}
    probe = Probe(prompt="a red apple, <b>", negative_prompt="blurry", seed=3, width=64, height=64)
    infotext = to_infotext(probe)
    tensors = _tensors()
    payloads = [json.dumps(PAYLOAD).encode(), *more.get("json", [])]
    weights = weights_of()
    histories = [
        history_csv([(weights, 0.5), (weights_of(1), 0.25)], 3.0, 4.0).encode(),
        *more.get("csv", []),
    ]
    recipes = [recipe_text(weights, log=weights).encode(), *more.get("txt", [])]
    presets = (
        b"preset_name\tpreset_weights\nGRAD\t" + b",".join([b"0.5"] * 25) + b"\nB:" + b",".join([b"1"] * 26)
    )
    return {
        "payload": Reader(".json", _probes, payloads),
        "YAML probes": Reader(".yaml", _probes, [YAML_PROBES.encode(), yaml.safe_dump(PAYLOAD).encode()]),
        "TOML probes": Reader(".toml", _probes, [b'prompt = "a"\nseed = 1\nsteps = 9\n']),
        "infotext": Reader(".txt", _probes, [infotext.encode(), f"{infotext}\n\n{infotext}".encode()]),
        "PNG": Reader(".png", _probes, [_image("PNG", infotext), _image("PNG", infotext, behind=True)]),
        "JPEG": Reader(".jpg", _probes, [_image("JPEG", infotext)]),
        "WebP": Reader(".webp", _probes, [_image("WEBP", infotext)]),
        "prompt": Reader(
            ".prompt", _prompt, [str(PAYLOAD["prompt"]).encode(), b"((a)) [b|c|d] BREAK e:1.5 \\(f\\)"]
        ),
        "history": Reader(".csv", read_history, histories),
        "recipe.txt": Reader(".txt", lambda path: prove(read_mbwrt_recipe(path)), recipes),
        "presets": Reader(".tsv", read_presets, [presets]),
        "merge metadata": Reader(".json", read_ancestry, [json.dumps({"__metadata__": RECIPES}).encode()]),
        "safetensors": Reader(".safetensors", _checkpoint, [save(tensors, metadata=RECIPES), save(tensors)]),
        "ckpt": Reader(
            ".ckpt", _checkpoint, [_saved({"state_dict": tensors}), _saved(tensors, zipped=False)]
        ),
        "tensor file": Reader(".pt", read_file, [_saved(tensors), _saved(tensors, zipped=False)]),
        "job file": Reader(".yaml", _job, [yaml.safe_dump(JOB).encode(), json.dumps(JOB).encode()]),
        "settings": Reader(".yaml", load_settings, [b"port: 8188\nmodels_dir: models\nlease_seconds: 30\n"]),
        "manifest": Reader(".json", _manifest, [json.dumps(MANIFEST).encode()]),
    }


def _probes(path: Path) -> object:
    return read_probe_file(path, Places(path.parent, Random(0)))


def _prompt(path: Path) -> object:
    text = checked_probe(
        {"prompt": path.read_text(encoding="utf-8", errors="replace"), "seed": 1}, "p"
    ).prompt
    return [parse_emphasis(part.text) for stage in schedule(text, 20) for part in compose(stage.text)]


def _checkpoint(path: Path) -> object:
    with open_checkpoint(path) as file:
        for key, entry in list(file.entries.items())[:4]:
            file.tensor(key)
            file.flat(key, 0, min(2, entry.numel), torch.empty(64, dtype=torch.uint8))
        metadata = dict(file.metadata)
    ancestry_of(metadata, path.name)
    # Few tensors are no whole model: that is said, and its header was looked at.
    with suppress(InputError):
        inspect_checkpoint(path, statistics=False)
    return metadata


def _job(path: Path) -> object:
    request = parse_request(read_job_file(path), path.name)
    json.dumps(request.model_dump(mode="json"))
    return lay_bracket(request, leaf_names(request))


def _manifest(path: Path) -> object:
    path.rename(path.parent / "manifest.json")
    return read_manifest(path.parent)


def _tensors() -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    names = ("input_blocks.0.0.weight", "middle_block.1.norm.weight", "out.2.bias", "time_embed.0.weight")
    return {f"model.diffusion_model.{name}": torch.randn(4, 4, generator=drawn) for name in names} | {
        "first_stage_model.decoder.conv_in.weight": torch.ones(2, 2, dtype=torch.float16),
        "model_ema.decay": torch.tensor(0.5),
    }


def _saved(value: object, *, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _image(form: str, infotext: str, *, behind: bool = False) -> bytes:
    out = io.BytesIO()
    image = Image.effect_noise((64, 64), 40.0).convert("RGB")
    if form == "PNG":
        chunks = PngInfo()
        chunks.add_text("parameters", infotext, zip=behind)
        if behind:
            chunks.add_itxt("parameters", infotext.replace("red", "rouge à lèvres"))
        image.save(out, form, pnginfo=chunks)
        data = out.getvalue()
        return _text_behind(data) if behind else data
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + infotext.encode("utf-16-be")
    image.save(out, form, exif=exif)
    return out.getvalue()


def _text_behind(data: bytes) -> bytes:
    """The PNG with its text chunks moved behind the pixels."""
    chunks = chunks_of(data)
    texts = [chunk for chunk in chunks if chunk[0] in (b"tEXt", b"zTXt", b"iTXt")]
    others = [chunk for chunk in chunks if chunk not in texts]
    return png_of([*others[:-1], *texts, others[-1]])


def _real(folder: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for path in _files(folder):
        found.setdefault(path.suffix[1:], []).append(path.read_bytes())
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.*")) if path.stat().st_size < 100_000)
