"""Our own forms of probes, in YAML and JSON."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from scoring.errors import InputError
from scoring.probes import (
    DynamicThresholding,
    FreeU,
    FreeUStage,
    Hires,
    Places,
    Probe,
    read_probe_file,
    read_probes,
)


def test_a_probe_needs_only_a_prompt_and_a_seed() -> None:
    probe = Probe(prompt="a cat", seed=1)
    assert (probe.sampler, probe.steps, probe.cfg_scale) == ("DPM++ 2M Karras", 20, 7.0)
    assert (probe.width, probe.height, probe.clip_skip, probe.negative_prompt) == (512, 512, 1, "")
    assert probe.rng == "CPU"


def test_probes_are_values() -> None:
    assert Probe(prompt="a", seed=1) == Probe(prompt="a", seed=1)
    assert len({Probe(prompt="a", seed=1), Probe(prompt="a", seed=1)}) == 1
    with pytest.raises(ValidationError):
        Probe(prompt="a", seed=1).seed = 2


def test_every_part_of_a_probe_can_be_written_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("""
        - prompt: a cat
          seed: 1
          rng: NV
          hires: {upscaler: Latent (nearest-exact), scale: 1.5, steps: 64, denoising_strength: 0.7}
          freeu: {version: 2, stages: [{backbone_factor: 1.1, skip_factor: 0.9}, {skip_factor: 0.2}]}
          thresholding: {mimic_scale: 1, separate_feature_channels: false, interpolate_phi: 0.3}
    """)
    assert read_probe_file(tmp_path / "p.yaml").probes == (
        Probe(
            prompt="a cat",
            seed=1,
            rng="NV",
            hires=Hires(upscaler="Latent (nearest-exact)", scale=1.5, steps=64, denoising_strength=0.7),
            freeu=FreeU(
                version=2,
                stages=(FreeUStage(backbone_factor=1.1, skip_factor=0.9), FreeUStage(skip_factor=0.2)),
            ),
            thresholding=DynamicThresholding(
                mimic_scale=1, separate_feature_channels=False, interpolate_phi=0.3
            ),
        ),
    )


def test_prompts_times_seeds() -> None:
    probes = read_probes(
        {"defaults": {"steps": 8, "width": 64, "height": 64}, "prompts": ["a", "b"], "seeds": [1, 2]}, "p"
    ).probes
    assert [(p.prompt, p.seed) for p in probes] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert all(p.steps == 8 and p.width == 64 for p in probes)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"prompts": [], "seeds": [1]}, "'prompts' must be a list with at least one entry"),
        ({"prompts": "a cat", "seeds": [1]}, "'prompts' must be a list"),
        ({"defaults": {}, "seeds": [1]}, "'prompts' must be a list with at least one entry, not None"),
        ({"prompts": ["a"]}, "'seeds' must be a list with at least one entry, not None"),
        ({"prompts": ["a"], "seeds": [1], "steps": 8}, "unknown key 'steps' beside defaults"),
        ({"prompts": ["a"], "seeds": [1], "defaults": 3}, "'defaults' must be a mapping"),
        ({"prompts": ["a"], "seeds": [1], "defaults": {"seed": 3}}, "put it in 'seeds'"),
        ({"prompts": ["a", False], "seeds": [1]}, "prompts[1] with seeds[0]: prompt"),
        ({"infotext": "x", "seed": 1}, "key 'seed' beside 'infotext'"),
        ({"infotext": 3}, "'infotext' must be a text, not 3"),
    ],
)
def test_a_form_that_is_wrong_is_refused(spec: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_probes(spec, "p")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"hires": {"scal": 2}}, "unknown key 'hires.scal'; known keys: upscaler, scale"),
        ({"hires": {"scale": 0.5}}, "hires.scale: Input should be greater than or equal to 1"),
        (
            {"freeu": {"stages": [{"skip": 1}]}},
            "unknown key 'freeu.stages.0.skip'; known keys: backbone_factor",
        ),
        ({"freeu": {"version": 3}}, "freeu.version: Input should be 1 or 2"),
        ({"thresholding": {"variability": "X"}}, "thresholding.variability: Input should be 'AD' or 'STD'"),
        ({"rng": "GPU"}, "rng: Input should be 'CPU' or 'NV'"),
    ],
)
def test_a_wrong_part_is_named(part: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_probes({"prompt": "a", "seed": 1, **part}, "p")
    assert said in str(caught.value)


def test_every_mistake_of_a_probe_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        read_probes([{"prompt": "ok", "seed": 0}, {"steps": 0, "width": 9}], "p")
    message = str(caught.value)
    assert message.startswith("p[1]: ")
    assert all(name in message for name in ("'prompt' is missing", "'seed' is missing", "steps", "width"))


def test_a_list_may_mix_all_forms() -> None:
    reading = read_probes(
        [
            {"prompt": "x", "seed": 1},
            {"prompt": "y", "sampler_name": "Euler", "seed": 2, "n_iter": 2},
            {"infotext": "z\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 4, Size: 64x64"},
            {"prompts": ["v", "w"], "seeds": [5]},
        ],
        "p",
    )
    assert [p.prompt + str(p.seed) for p in reading.probes] == ["x1", "y2", "y3", "z4", "v5", "w5"]
    assert reading.counted_by_a1111 == {1, 2, 3}


def test_a_seed_of_minus_1_is_drawn_once_and_told() -> None:
    reading = read_probes(
        [{"prompt": "a", "seed": -1}, {"prompt": "b", "seed": -1}], "p", Places(draws=Random(3))
    )
    first, second = (probe.seed for probe in reading.probes)
    assert first != second
    assert reading.lines() == [f"p[0]: seed -1: drawn {first}", f"p[1]: seed -1: drawn {second}"]
    again = read_probes([{"prompt": "a", "seed": -1}], "p", Places(draws=Random(3)))
    assert again.probes[0].seed == first


def test_yaml_json_and_toml_files_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("{prompt: a cat, seed: 1}\n")
    (tmp_path / "p.json").write_text('{"prompt": "a cat", "seed": 1}')
    (tmp_path / "p.toml").write_text('prompt = "a cat"\nseed = 1\n')
    yaml, json, toml = (
        read_probe_file(tmp_path / f"p.{suffix}").probes for suffix in ("yaml", "json", "toml")
    )
    assert yaml == json == toml == (Probe(prompt="a cat", seed=1),)


def test_notes_that_say_the_same_are_one_line() -> None:
    payload = {"prompt": "y", "sampler_name": "Euler", "seed": 2, "steps": 9, "cfg_scale": 7}
    reading = read_probes([{**payload, "width": 64, "height": 64}] * 5, "/folder/p.yaml")
    assert reading.lines() == ["p.yaml[0] and 4 more: names no RNG: A1111's default, GPU, which is NV here"]
