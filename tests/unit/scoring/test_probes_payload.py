"""Payloads of A1111's API."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from scoring.errors import InputError
from scoring.probes import (
    MAX_SEED,
    DynamicThresholding,
    FreeU,
    FreeUStage,
    Hires,
    Places,
    Probe,
    Reading,
    read_probe_file,
    read_probes,
)

PAYLOADS = Path(__file__).parents[4] / "shared/data/autombw/payloads"

PAYLOAD: dict[str, Any] = {
    "enable_hr": False,
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
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
ONE = {**PAYLOAD, "batch_size": 1, "n_iter": 1}


def _read(**change: Any) -> Reading:
    return read_probes({**ONE, **change}, "p.json", Places(draws=Random(1)))


def _probe(**change: Any) -> Probe:
    (probe,) = _read(**change).probes
    return probe


def test_n_iter_times_batch_size_are_consecutive_seeds() -> None:
    probes = read_probes(PAYLOAD, "p.json").probes
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
        rng="NV",
    )


def test_a_variation_keeps_the_seed_and_counts_its_own() -> None:
    probes = read_probes({**PAYLOAD, "n_iter": 1, "subseed": 9, "subseed_strength": 0.25}, "p").probes
    assert [(p.seed, p.variation_seed, p.variation_strength) for p in probes] == [(5, 9, 0.25), (5, 10, 0.25)]
    assert _probe(subseed=9).variation_seed == 0, "without a strength it says nothing"


@pytest.mark.parametrize("seed", [-1, None, ""])
def test_a_seed_that_is_left_to_chance_is_drawn_once_and_told(seed: object) -> None:
    reading = _read(seed=seed, n_iter=3)
    first = reading.probes[0].seed
    assert [p.seed for p in reading.probes] == [first, first + 1, first + 2]
    assert f"p.json: seed -1: drawn {first}" in reading.lines()


def test_a_drawn_seed_leaves_room_for_those_after_it() -> None:
    class Last(Random):
        def randint(self, a: int, b: int) -> int:
            return b

    probes = read_probes({**ONE, "seed": -1, "n_iter": 1000}, "p", Places(draws=Last())).probes
    assert probes[-1].seed == MAX_SEED


def test_hires_fix() -> None:
    probe = _probe(
        enable_hr=True,
        hr_scale=2.5,
        hr_upscaler="Latent (nearest-exact)",
        hr_second_pass_steps=20,
        hr_sampler_name="DPM++ 2M",
        hr_scheduler="karras",
        hr_prompt="a lion",
        hr_negative_prompt="",
    )
    assert probe.hires == Hires(
        upscaler="Latent (nearest-exact)",
        scale=2.5,
        steps=20,
        denoising_strength=0.7,
        sampler="DPM++ 2M",
        schedule="Karras",
        prompt="a lion",
    )
    resized = _probe(enable_hr=True, hr_resize_x=1536, hr_resize_y=864).hires
    assert resized == Hires(resize_x=1536, resize_y=864, denoising_strength=0.7)


def test_a_first_phase_makes_width_and_height_the_size_of_the_result() -> None:
    reading = _read(enable_hr=True, firstphase_width=672, firstphase_height=384, hr_scale=3)
    (probe,) = reading.probes
    assert (probe.width, probe.height) == (672, 384)
    assert probe.hires is not None
    assert (probe.hires.resize_x, probe.hires.resize_y) == (1344, 768)
    assert any("the first pass is 672 x 384, the result 1344 x 768" in line for line in reading.lines())


def test_what_a1111_would_take_is_taken_and_told() -> None:
    reading = read_probes({"prompt": "a", "n_iter": 1, "seed": 1, "enable_hr": True}, "p")
    (probe,) = reading.probes
    assert (probe.sampler, probe.steps, probe.cfg_scale, probe.width, probe.height) == (
        "Euler",
        50,
        7,
        512,
        512,
    )
    assert probe.hires == Hires(upscaler="Latent", scale=2.0, denoising_strength=0.75)
    text = "\n".join(reading.lines())
    assert "not given, and so A1111's own: sampler_name Euler, steps 50, cfg_scale 7.0, width 512" in text
    assert "hr_scale 2.0, hr_upscaler Latent, denoising_strength 0.75" in text


def test_the_sampler_may_hold_the_schedule_or_name_it() -> None:
    assert _probe(sampler_name="DPM++ 2M Karras").schedule is None
    named = _probe(sampler_name="DPM++ 2M", scheduler="sgm_uniform")
    assert (named.sampler, named.schedule) == ("DPM++ 2M", "SGM Uniform")
    # A name of before version 1.9 that we have no sampler for.
    split = _probe(sampler_name="Euler Exponential")
    assert (split.sampler, split.schedule) == ("Euler", "Exponential")
    assert _probe(sampler_name=None, sampler_index="Heun").sampler == "Heun"


def test_settings_of_the_web_ui() -> None:
    probe = _probe(
        override_settings={
            "CLIP_stop_at_last_layers": 2,
            "eta_noise_seed_delta": 31337,
            "randn_source": "CPU",
            "eta_ancestral": 0.5,
            "eta_ddim": 0.25,
            "samples_format": "png",
        }
    )
    assert (probe.clip_skip, probe.ensd, probe.rng, probe.eta) == (2, 31337, "CPU", 0.5)
    assert _probe(sampler_name="DDIM", override_settings={"eta_ddim": 0.25}).eta == 0.25
    assert _probe(eta=0).eta == 0.0
    assert _probe(eta=None).eta is None


def test_the_rng_is_the_default_of_a1111_unless_it_is_named() -> None:
    unsaid, said = _read(), _read(override_settings={"randn_source": "CPU"})
    assert unsaid.probes[0].rng == "NV"
    assert unsaid.lines() == ["p.json: names no RNG: A1111's default, GPU, which is NV here"]
    assert (said.probes[0].rng, said.lines()) == ("CPU", [])


def test_the_model_of_a_payload_is_provenance() -> None:
    reading = _read(override_settings={"sd_model_checkpoint": "209-AstolfoMix", "randn_source": "NV"})
    assert reading.provenance == ({"Model": "209-AstolfoMix"},)
    assert reading.lines() == [
        "p.json: sd_model_checkpoint and sd_vae are not used: the job names its models",
        "made in A1111 with Model: 209-AstolfoMix",
    ]


FREEU = FreeU(
    version=2,
    start=0.25,
    stop=1.0,
    transition=0.5,
    stages=(
        FreeUStage(backbone_factor=1.1, skip_factor=0.9),
        FreeUStage(backbone_factor=1.2, skip_factor=0.2),
    ),
)
FLAT = [1.1, 0.9, 0.0, 0.5, 0.0, 1.0, 1.2, 0.2, 0.0, 0.5, 0.0, 1.0]
STAGES = [{"backbone_factor": 1.1, "skip_factor": 0.9}, {"backbone_factor": 1.2, "skip_factor": 0.2}]


@pytest.mark.parametrize(
    "args",
    [
        [True, 0.25, 1, 0.5, "2", *FLAT],
        [True, 0.25, 1.0, 0.5, "Version 2", *STAGES],
        [
            {
                "enable": True,
                "start_ratio": 12,  # a step of 48
                "stop_ratio": 1.0,
                "transition_smoothness": 0.5,
                "version": "2",
                "stage_infos": STAGES,
            }
        ],
    ],
)
def test_freeu(args: list[Any]) -> None:
    assert _probe(alwayson_scripts={"FreeU": {"args": args}}).freeu == FREEU


def test_freeu_of_before_it_had_versions() -> None:
    freeu = _probe(alwayson_scripts={"freeu": {"args": [True, 0.25, 1, 0.5, *FLAT]}}).freeu
    assert freeu == FREEU.model_copy(update={"version": 1})


def test_dynamic_thresholding_and_cfg_rescale() -> None:
    probe = _probe(
        alwayson_scripts={
            "Dynamic Thresholding (CFG Scale Fix)": {
                "args": [True, 1, 99, "Linear Down", 2, "Constant", 0, 4, False, "ZERO", "STD", 0.3]
            },
            "CFG Rescale Extension": {"args": [0.7, False]},
        }
    )
    assert probe.cfg_rescale == 0.7
    assert probe.thresholding == DynamicThresholding(
        mimic_scale=1,
        threshold_percentile=99,
        mimic_mode="Linear Down",
        mimic_scale_min=2,
        separate_feature_channels=False,
        scaling_startpoint="ZERO",
        variability="STD",
        interpolate_phi=0.3,
    )


def test_scripts_that_are_off_are_passed_over() -> None:
    off = {
        "ControlNet": {"args": [{"enabled": False}, {"enabled": False}]},
        "ADetailer": {"args": [False, False, {"ad_model": "x"}]},
        "Seed": {"args": [-1, False, -1, 0, 0, 0]},
        "Sampler": {"args": [20, "DPM++ 2M", "Automatic"]},
        "Extra options": {"args": []},
        "FreeU": {"args": [False, 0, 1, 0, "1", *FLAT]},
        "Dynamic Thresholding (CFG Scale Fix)": {"args": [False, 7]},
    }
    assert _probe(alwayson_scripts=off) == _probe()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tiling": True, "restore_faces": True},
            "can't be done: restore_faces=True, tiling=True; switch it off",
        ),
        ({"reverse_scoring": True}, "set `reverse: true` for the scorer in the job"),
        ({"wildcard_type": "all"}, "wildcards: 'all' is none of none, random, combinatorial"),
        ({"freeu": 1}, "unknown key 'freeu'"),
        ({"seed": MAX_SEED, "n_iter": 2}, f"seed must be -1 or a whole number from 0 to {MAX_SEED - 1}"),
        ({"seed": "5"}, "seed must be -1 or a whole number"),
        ({"n_iter": 0}, "n_iter must be a whole number from 1 to 1000, not 0"),
        ({"batch_size": "2"}, "batch_size must be a whole number"),
        ({"sampler_name": "DPM++ 9M"}, "unknown sampler 'DPM++ 9M'"),
        ({"scheduler": "turbo"}, "unknown schedule 'turbo'; known schedules: Automatic"),
        (
            {"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"},
            "hires.upscaler: unknown upscaler 'R-ESRGAN 4x+'",
        ),
        ({"enable_hr": True, "hr_checkpoint_name": "x"}, "can't be done: hr_checkpoint_name='x'"),
        ({"firstphase_width": 512, "firstphase_height": 512}, "firstphase_width and firstphase_height are"),
        ({"enable_hr": True, "firstphase_width": 512}, "give both and set enable_hr to true"),
        ({"init_images": ["x"]}, "can't be done: init_images=['x']"),
        ({"styles": ["x"]}, "can't be done: styles=['x']"),
        ({"script_name": "x/y/z plot"}, "can't be done: script_name='x/y/z plot'"),
        (
            {"override_settings": {"img2img_fix_steps": True}},
            "override_settings: can't be done: img2img_fix_steps",
        ),
        ({"override_settings": {"randn_source": "TPU"}}, "unknown RNG 'TPU'; take one of CPU, GPU, NV"),
        ({"override_settings": []}, "override_settings must be a mapping"),
        (
            {"alwayson_scripts": {"ADetailer": {"args": [True]}}},
            "alwayson_scripts: ADetailer: can't be done here",
        ),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}},
            "ControlNet: can't be done here",
        ),
        ({"alwayson_scripts": {"FreeU": {"args": 3}}}, "its args must be a list"),
        ({"alwayson_scripts": {"FreeU": {"args": [True, "x", 1, 0, "1"]}}}, "'x', which is no number"),
        ({"alwayson_scripts": {"FreeU": {"args": [True, 0, 1, 0, "3"]}}}, "unknown version '3'"),
        ({"prompt": "a <lora:x:1>"}, "the prompt wants <lora:x:1>"),
    ],
)
def test_what_a_payload_asks_too_much_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(**change)
    assert str(caught.value).startswith("p.json: ")
    assert said in str(caught.value)


@pytest.mark.skipif(not PAYLOADS.is_dir(), reason="needs the real payloads")
def test_the_real_payloads_load() -> None:
    readings = {path.name: read_probe_file(path) for path in sorted(PAYLOADS.glob("*.json"))}
    assert len(readings) == 14
    assert sum(len(reading.probes) for reading in readings.values()) == 13 + 9
    assert {probe.sampler for reading in readings.values() for probe in reading.probes} == {"Euler"}
    nine = readings["test-9img.json"].probes
    assert [probe.seed for probe in nine] == list(range(3425689549, 3425689549 + 9))
    assert nine[0].hires == Hires(upscaler="Latent", scale=1.5, denoising_strength=0.7)
    assert readings["test-1img.json"].probes == (nine[0].model_copy(update={"hires": None}),)
    wrc = readings["sd1_wrc.json"].probes[0]
    assert (wrc.width, wrc.height, wrc.steps, wrc.cfg_scale) == (1024, 576, 48, 4.0)
    assert wrc.hires == Hires(scale=2.5, denoising_strength=0.7)
