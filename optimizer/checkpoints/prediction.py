"""What a UNet predicts (the noise or the velocity), and how we know: the file itself rarely says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from optimizer.checkpoints.architectures import PredictionType, config
from scoring.errors import InputError

_NAMES: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "vpred": "v_prediction",
}
_METADATA_KEYS = ("prediction_type", "modelspec.prediction_type")
_V_IN_NAME = re.compile(r"v[-_. ]?pred|(?<![a-z0-9])768[-_. ]?v(?![a-z0-9])|v2[-_.][01][-_.]768", re.I)
_SD2_BASE_IN_NAME = re.compile(r"v2[-_.][01].*512|512[-_. ]?base", re.I)


@dataclass(frozen=True)
class Prediction:
    """The prediction type and how it is known; `assumed` when nothing in the file says it."""

    type: PredictionType
    known_by: str
    assumed: bool = False


def parse_prediction_type(value: str) -> PredictionType:
    """`epsilon`, `v`, `v_prediction` and their spellings; InputError for anything else."""
    try:
        return _NAMES[value.strip().lower()]
    except KeyError:
        raise InputError(f"unknown prediction type {value!r}; give epsilon or v_prediction") from None


def find_prediction(
    architecture: str,
    name: str,
    metadata: Mapping[str, str],
    keys: Iterable[str],
    told: str | None = None,
) -> Prediction:
    """The prediction type: told, else by metadata, marker tensor or file name, else the usual one."""
    if told is not None:
        return Prediction(parse_prediction_type(told), "told by the user")
    for key in _METADATA_KEYS:
        if metadata.get(key, "").strip().lower() in _NAMES:
            return Prediction(parse_prediction_type(metadata[key]), f"metadata {key}")
    if "v_pred" in keys:
        return Prediction("v_prediction", "marker tensor v_pred")
    if _V_IN_NAME.search(name):
        return Prediction("v_prediction", f"file name {name}")
    if architecture == "sd2" and _SD2_BASE_IN_NAME.search(name):
        return Prediction("epsilon", f"file name {name}")
    return _usual(architecture)


def _usual(architecture: str) -> Prediction:
    usual = cast("PredictionType", config(architecture, "scheduler")["prediction_type"])
    if architecture == "emoji":
        return Prediction(usual, "architecture: the emoji zoo is trained so")
    reason = {
        "sd1": "SD1.x is epsilon unless its file says otherwise",
        "sd2": "the file does not say; SD2.x at 768 px is v_prediction, SD2.x base at 512 px is epsilon; "
        "tell it in the job (prediction_type), or find it with `autombw inspect --detect-prediction`",
        "sdxl": "SDXL is epsilon unless its file says otherwise",
    }[architecture]
    return Prediction(usual, f"assumed: {reason}", assumed=True)
