"""Whatever stands in a file, it gives probes or one clear error, never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.errors import InputError
from scoring.probes import Reading, read_probes
from scoring.probes.infotext_others import PROVENANCE
from scoring.probes.infotext_reader import read_infotext
from scoring.probes.payload import PAYLOAD_KEYS
from scoring.probes.probe import DynamicThresholding, FreeU, FreeUStage, Hires, Probe

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", "Euler", "Karras", "random", "Latent", "1", "-1", "0.5", "__a__", "{a|b}", "{", "x"]
    )
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["args", "enable", "stage_infos", "prompt", "x"]) | st.integers(), inner
        )
    ),
    max_leaves=6,
)
SCRIPTS = st.dictionaries(
    st.sampled_from(["FreeU", "Dynamic Thresholding (CFG Scale Fix)", "CFG Rescale Extension", "ControlNet"]),
    st.fixed_dictionaries({"args": st.lists(ANY, max_size=12)}) | ANY,
)
OPTIONS = (
    "CLIP_stop_at_last_layers",
    "eta_noise_seed_delta",
    "randn_source",
    "eta_ancestral",
    "k_sched_type",
    "sd_vae",
    "emphasis",
)
FIELDS = sorted({*Probe.model_fields, "wildcards", "infotext", "prompts", "seeds", "defaults"})
PARTS = sorted({key for part in (Hires, FreeU, FreeUStage, DynamicThresholding) for key in part.model_fields})


def _read(spec: Any) -> None:
    refused = ""
    try:
        reading = read_probes(spec, "p")
    except InputError as error:
        refused = str(error)
    assert refused.startswith("p") if refused else (isinstance(reading, Reading) and reading.probes)


@pytest.mark.parametrize("key", sorted(PAYLOAD_KEYS))
@given(value=ANY)
@settings(max_examples=8, deadline=None)
def test_any_value_of_a_key_of_a_payload(key: str, value: Any) -> None:
    _read({"prompt": "a", "seed": 1, "sampler_name": "Euler", "enable_hr": True, key: value})


@pytest.mark.parametrize("key", OPTIONS)
@given(value=ANY)
@settings(max_examples=8, deadline=None)
def test_any_value_of_a_setting_of_a_payload(key: str, value: Any) -> None:
    _read({"prompt": "a", "seed": 1, "sampler_name": "Euler", "override_settings": {key: value}})


@given(SCRIPTS)
@settings(max_examples=100, deadline=None)
def test_any_scripts_of_a_payload(scripts: dict[str, Any]) -> None:
    _read({"prompt": "a", "seed": 1, "sampler_name": "Euler", "alwayson_scripts": scripts})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(FIELDS), ANY | st.dictionaries(st.sampled_from(PARTS), ANY)) | ANY,
        max_size=2,
    )
)
@settings(max_examples=40, deadline=None)
def test_any_list_of_probes(spec: list[Any]) -> None:
    _read(spec)


KEYS = st.sampled_from(
    [
        *(
            "Steps",
            "Sampler",
            "CFG scale",
            "Seed",
            "Size",
            "Schedule type",
            "Clip skip",
            "RNG",
            "ENSD",
            "Eta",
        ),
        *(
            "Denoising strength",
            "Hires upscale",
            "Hires resize",
            "Hires steps",
            "First pass size",
            "Hires prompt",
        ),
        *("FreeU Stages", "FreeU Schedule", "FreeU Version", "Dynamic thresholding enabled", "Mimic mode"),
        *("Variation seed", "CFG Rescale", "Tiling", "NGMS", "Frobnication", *PROVENANCE),
    ]
)
VALUES = st.sampled_from(
    [
        "1",
        "0",
        "-1",
        "0.5",
        "nan",
        "Euler",
        "512x512",
        "0x0",
        "True",
        "",
        '"',
        '"[{}]"',
        '"0.0, 1.0, 0.0"',
        "[",
        "x",
    ]
) | st.text(max_size=8)
PLAIN = {"Steps": "9", "Sampler": "Euler", "CFG scale": "7", "Seed": "1", "Size": "64x64"}


@given(st.text(max_size=20), st.dictionaries(KEYS, VALUES), st.sampled_from([", ", ",", "\n"]))
@settings(max_examples=150, deadline=None)
def test_any_infotext(prompt: str, changes: dict[str, str], comma: str) -> None:
    line = comma.join(f"{key}: {value}" for key, value in {**PLAIN, **changes}.items())
    for text in (f"{prompt}\n{line}", line, prompt):
        refused = ""
        try:
            reading = read_infotext(text, "p")
        except InputError as error:
            refused = str(error)
        assert refused.startswith("p: ") if refused else len(reading.probes) == 1
