from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scoring.errors import InputError
from scoring.probes import MAX_SEED, Probe, expand_probes, load_probes

PAYLOADS = Path(__file__).parents[4] / "shared/data/autombw/payloads"

PAYLOAD = {
    "enable_hr": False,
    "denoising_strength": 0.7,
    "hr_upscaler": "Latent",
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "seed": 5,
    "sampler_name": "Euler",
    "batch_size": 2,
    "n_iter": 3,
    "steps": 48,
    "cfg_scale": 4,
    "width": 1344,
    "height": 768,
    "restore_faces": False,
    "tiling": False,
    "wildcard_type": "none",
    "reverse_scoring": False,
}


def test_a_probe_needs_only_a_prompt_and_a_seed() -> None:
    probe = Probe(prompt="a cat", seed=1)
    assert (probe.sampler, probe.steps, probe.cfg_scale) == ("DPM++ 2M Karras", 20, 7.0)
    assert (probe.width, probe.height, probe.clip_skip, probe.negative_prompt) == (512, 512, 1, "")


def test_probes_are_values() -> None:
    assert Probe(prompt="a", seed=1) == Probe(prompt="a", seed=1)
    assert len({Probe(prompt="a", seed=1), Probe(prompt="a", seed=1)}) == 1
    with pytest.raises(ValidationError):
        Probe(prompt="a", seed=1).seed = 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sampler": "Eulr"}, "unknown sampler 'Eulr'; known samplers: Euler, Euler a"),
        ({"width": 500}, "width: 500 is not a multiple of 8; take 496"),
        ({"height": 3}, "height: 3 is not a multiple of 8; take 8"),
        ({"height": 0}, "height: Input should be greater than 0"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1 (given: 0)"),
        ({"steps": 1001}, "steps: Input should be less than or equal to 1000"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"cfg_scale": -0.1}, "cfg_scale"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"cfg_scale": float("inf")}, "cfg_scale"),
        ({"clip_skip": 0}, "clip_skip"),
        ({"prompt": None}, "prompt: Input should be a valid string (given: None)"),
        ({"hiress": 2}, "unknown key 'hiress'; known keys: prompt, negative_prompt, seed"),
    ],
)
def test_a_wrong_probe_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"^job\.yaml: ") as caught:
        expand_probes({"prompt": "a cat", "seed": 1, **wrong}, "job.yaml")
    assert said in str(caught.value)


def test_every_mistake_of_a_probe_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        expand_probes([{"prompt": "ok", "seed": 0}, {"steps": 0, "width": 9}], "p")
    message = str(caught.value)
    assert message.startswith("p[1]: ")
    assert all(name in message for name in ("'prompt' is missing", "'seed' is missing", "steps", "width"))


def test_prompts_times_seeds() -> None:
    probes = expand_probes(
        {"defaults": {"steps": 8, "width": 64, "height": 64}, "prompts": ["a", "b"], "seeds": [1, 2]}, "p"
    )
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
        ([], "no probes in it"),
        ({}, "'prompt' is missing"),
        (["a cat", "a dog"], "p[0]: a probe is a mapping with 'prompt' and 'seed', not 'a cat'"),
        ([[1]], "p[0]: a probe is a mapping"),
        ("a cat", "a probe is a mapping"),
        (None, "a probe is a mapping"),
        (7, "a probe is a mapping"),
    ],
)
def test_other_things_than_probes_are_refused(spec: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        expand_probes(spec, "p")
    assert said in str(caught.value)


def test_an_a1111_payload_is_n_iter_times_batch_size_consecutive_seeds() -> None:
    probes = expand_probes(PAYLOAD, "p.json")
    assert [p.seed for p in probes] == [5, 6, 7, 8, 9, 10]
    assert probes[0] == Probe(
        prompt="a cat",
        negative_prompt="a dog",
        seed=5,
        sampler="Euler",
        steps=48,
        cfg_scale=4.0,
        width=1344,
        height=768,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"enable_hr": True}, "not supported yet: enable_hr=True; switch it off"),
        ({"tiling": True, "restore_faces": True}, "restore_faces=True, tiling=True"),
        ({"wildcard_type": "random"}, "wildcard_type='random'"),
        ({"reverse_scoring": True}, "reverse_scoring=True"),
        ({"freeu": 1}, "unknown key 'freeu'"),
        ({"seed": -1}, "seed -1 is a new image every time"),
        ({"seed": MAX_SEED}, "seed"),
        ({"n_iter": 0}, "n_iter must be a whole number from 1 to 1000, not 0"),
        ({"batch_size": "2"}, "batch_size must be a whole number"),
        ({"sampler_name": "DPM++ 3M"}, "unknown sampler 'DPM++ 3M'"),
        ({"width": 1001}, "width: 1001 is not a multiple of 8"),
    ],
)
def test_what_a_payload_asks_too_much_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        expand_probes({**PAYLOAD, **change}, "p.json")
    assert str(caught.value).startswith("p.json: ")
    assert said in str(caught.value)


def test_a_payload_must_say_what_it_was_rendered_with() -> None:
    short = {key: value for key, value in PAYLOAD.items() if key not in ("steps", "cfg_scale")}
    with pytest.raises(InputError, match="lacks keys 'steps', 'cfg_scale'"):
        expand_probes(short, "p.json")


def test_a_list_may_mix_probes_and_payloads() -> None:
    assert len(expand_probes([PAYLOAD, {"prompt": "x", "seed": 1}], "p")) == 7


def test_yaml_and_json_files_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("- {prompt: a cat, seed: 1}\n")
    (tmp_path / "p.json").write_text('[{"prompt": "a cat", "seed": 1}]')
    assert load_probes(tmp_path / "p.yaml") == load_probes(tmp_path / "p.json")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.yaml").write_text("")
    for name in ("broken.json", "broken.yaml", "binary.yaml", "empty.yaml", "missing.yaml", "."):
        with pytest.raises(InputError, match=str(tmp_path)):
            load_probes(tmp_path / name)


@pytest.mark.skipif(not PAYLOADS.is_dir(), reason="needs the real payloads")
def test_real_payloads_load_or_say_what_is_unsupported() -> None:
    files = sorted(PAYLOADS.glob("*.json"))
    assert len(files) == 14
    for path in files:
        if json.loads(path.read_text())["enable_hr"]:
            with pytest.raises(InputError, match="not supported yet: enable_hr=True"):
                load_probes(path)
        else:
            (probe,) = load_probes(path)
            assert (probe.sampler, probe.steps, probe.width) == ("Euler", 48, 1024)
