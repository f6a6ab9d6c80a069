"""What a person may get wrong in a probe: each a clear error that names it, or a decision that is told."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from scoring.errors import InputError
from scoring.probes import MAX_SEED, Places, Probe, read_probe_file, read_probes

PROBE = {"prompt": "a cat", "seed": 1}
PAYLOAD = {**PROBE, "sampler_name": "Euler", "steps": 20, "cfg_scale": 7, "width": 512, "height": 512}
INFOTEXT = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        # A list of other things.
        (["a cat", "a dog"], "p[0]: a probe is a mapping with 'prompt' and 'seed', not 'a cat'"),
        ([[1]], "p[0]: a probe is a mapping with 'prompt' and 'seed', not [1]"),
        ([None], "p[0]: a probe is a mapping with 'prompt' and 'seed', not None"),
        ([{**PROBE}, 7], "p[1]: a probe is a mapping with 'prompt' and 'seed', not 7"),
        ([], "p: no probes in it; list at least one"),
        ("a cat", "p: a probe is a mapping"),
        (None, "p: a probe is a mapping"),
        (7, "p: a probe is a mapping"),
        ({}, "p: 'prompt' is missing; add it"),
        ({"prompt": "a cat"}, "p: 'seed' is missing; add it"),
        (
            [{"leaves": ["a"], "search": {}}],
            "unknown key 'leaves'; known keys: prompt, negative_prompt",
        ),
        # Steps 0, and other numbers that can't be.
        ({**PROBE, "steps": 0}, "steps: Input should be greater than or equal to 1 (given: 0)"),
        ({**PAYLOAD, "steps": 0}, "steps: Input should be greater than or equal to 1 (given: 0)"),
        ({"infotext": INFOTEXT.replace("Steps: 20", "Steps: 0")}, "steps: Input should be greater than"),
        ({**PROBE, "steps": 1001}, "steps: Input should be less than or equal to 1000"),
        ({**PROBE, "steps": 2.5}, "steps"),
        ({**PROBE, "steps": True}, "steps"),
        ({**PROBE, "cfg_scale": -0.1}, "cfg_scale: Input should be greater than or equal to 0"),
        ({**PROBE, "cfg_scale": float("nan")}, "cfg_scale"),
        ({**PROBE, "cfg_scale": float("inf")}, "cfg_scale"),
        ({"infotext": INFOTEXT.replace("scale: 7", "scale: nan")}, "cfg_scale"),
        ({**PROBE, "seed": MAX_SEED + 1}, "seed"),
        ({**PROBE, "seed": -2}, "seed: Input should be greater than or equal to 0"),
        (
            {"infotext": INFOTEXT.replace("Seed: 1", "Seed: -1")},
            "seed: Input should be greater than or equal to 0",
        ),
        ({**PROBE, "clip_skip": 0}, "clip_skip"),
        ({**PROBE, "prompt": None}, "prompt: Input should be a valid string (given: None)"),
        ({**PROBE, "hiress": 2}, "unknown key 'hiress'; known keys: prompt, negative_prompt, seed"),
        # Width 1001.
        ({**PROBE, "width": 1001}, "width: 1001 is not a multiple of 8; take 1000"),
        ({**PAYLOAD, "width": 1001}, "width: 1001 is not a multiple of 8; take 1000"),
        ({"infotext": INFOTEXT.replace("512x512", "1001x512")}, "width: 1001 is not a multiple of 8"),
        ({**PROBE, "height": 3}, "height: 3 is not a multiple of 8; take 8"),
        ({**PROBE, "height": 0}, "height: Input should be greater than 0"),
        ({**PAYLOAD, "enable_hr": True, "hr_resize_x": 1001}, "hires.resize_x: 1001 is not a multiple of 8"),
        # An unknown sampler, upscaler or key.
        ({**PROBE, "sampler": "Eulr"}, "unknown sampler 'Eulr'; known samplers: "),
        (
            {**PROBE, "sampler": "DPM++ 2M Karras", "schedule": "Exponential"},
            "sampler 'DPM++ 2M Karras' contradicts schedule 'Exponential'; take 'DPM++ 2M' with that",
        ),
        (
            {**PROBE, "hires": {"sampler": "DPM++ 2M Karras", "schedule": "Beta"}},
            "sampler 'DPM++ 2M Karras' contradicts schedule 'Beta'",
        ),
        ({**PAYLOAD, "sampler_name": "Eulr"}, "unknown sampler 'Eulr'; known samplers: "),
        ({"infotext": INFOTEXT.replace("Euler", "Eulr")}, "unknown sampler 'Eulr'; known samplers: "),
        (
            {**PROBE, "hires": {"upscaler": "4x-UltraSharp"}},
            "unknown upscaler '4x-UltraSharp'; known upscalers",
        ),
        ({**PAYLOAD, "enable_hr": True, "hr_upscaler": "x"}, "unknown upscaler 'x'; known upscalers"),
        ({"infotext": f"{INFOTEXT}, Hires upscaler: x"}, "unknown upscaler 'x'; known upscalers"),
        ({**PAYLOAD, "hr_scal": 2}, "unknown key 'hr_scal' in an A1111 payload; take them out"),
        # LoRAs.
        ({**PROBE, "prompt": "<lora:x:1>"}, "the prompt wants <lora:x:1>, which would change the weights"),
        ({**PROBE, "hires": {"negative_prompt": "<hypernet:x:1>"}}, "the prompt wants <hypernet:x:1>"),
        # A missing wildcard file.
        (
            {**PROBE, "prompt": "__hat__", "wildcards": "random"},
            "there is no wildcard file for __hat__; put hat.txt",
        ),
        (
            {**PAYLOAD, "prompt": "__hat__", "wildcard_type": "random"},
            "there is no wildcard file for __hat__",
        ),
        ({**PROBE, "wildcards": "all"}, "wildcards: 'all' is none of none, random, combinatorial"),
        # An infotext that was cut.
        ({"infotext": INFOTEXT[:40]}, "cut"),
        ({"infotext": INFOTEXT + ', FreeU Stages: "[{'}, "the infotext was cut: "),
        ({"infotext": "a cat"}, "not an A1111 infotext, or one that was cut"),
    ],
)
def test_what_is_wrong_is_named(spec: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_probes(spec, "p", Places(wildcards=tmp_path))
    assert str(caught.value).startswith("p")
    assert said in str(caught.value)


@pytest.mark.parametrize("spec", [PROBE, PAYLOAD, {"prompts": ["a cat"], "seeds": [-1]}])
def test_a_seed_of_minus_1_is_drawn_once_fixed_and_told(spec: dict[str, Any]) -> None:
    left = {**spec, "seed": -1} if "seed" in spec else spec
    reading = read_probes(left, "p", Places(draws=Random(5)))
    (probe,) = reading.probes
    assert 0 <= probe.seed <= MAX_SEED
    assert any(line.endswith(f"seed -1: drawn {probe.seed}") for line in reading.lines())
    # Another reading draws again, one from the same draws the same.
    assert read_probes(left, "p", Places(draws=Random(5))).probes == reading.probes
    assert read_probes(left, "p").probes != reading.probes


@pytest.mark.parametrize(
    "spec",
    [{**PROBE, "cfg_scale": 0}, {**PAYLOAD, "cfg_scale": 0}, {"infotext": INFOTEXT.replace(": 7", ": 0")}],
)
def test_cfg_0_is_legal_and_follows_the_negative_prompt_alone(spec: dict[str, Any]) -> None:
    assert read_probes(spec, "p").probes[0].cfg_scale == 0.0


def test_an_unknown_setting_of_an_infotext_is_told() -> None:
    reading = read_probes({"infotext": f"{INFOTEXT}, Frobnication: 3"}, "p")
    assert reading.probes == (Probe(prompt="a cat", seed=1, sampler="Euler"),)
    assert reading.lines() == ["p: not understood, and so not applied: Frobnication: 3"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.json", "{", "not readable as JSON"),
        ("broken.yaml", "a: [", "not readable as YAML"),
        ("broken.toml", "a = ", "not readable as TOML"),
        ("binary.yaml", b"\xff\xfe\x00", "not readable as YAML"),
        ("binary.txt", b"\xff\xfe\x00", "not readable as TXT"),
        ("deep.json", "[" * 100_000, "not readable as JSON"),
        ("empty.yaml", "", "a probe is a mapping"),
        ("empty.txt", "", "not an A1111 infotext, or one that was cut"),
        ("prose.txt", "Dear diary,\ntoday", "not an A1111 infotext, or one that was cut"),
        ("cut.txt", INFOTEXT[:50], "cut"),
        ("two.txt", f"{INFOTEXT}\n\nand more", "two.txt[1]: not an A1111 infotext"),
        ("names.json", json.dumps(["a.png"]), "a probe is a mapping with 'prompt' and 'seed', not 'a.png'"),
        ("payload.msgpack", b"\x80", "MessagePack is not read here; save the payload as JSON, YAML or TOML"),
        ("none.png", None, "none.png: no such file; give a file of probes"),
    ],
)
def test_a_file_that_is_wrong_is_named(
    name: str, content: str | bytes | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_probe_file(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert said in str(caught.value)


def test_a_directory_and_a_png_without_an_infotext_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give a file of probes"):
        read_probe_file(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png: no infotext in it; .* take the file that A1111 wrote"):
        read_probe_file(tmp_path / "x.png")
