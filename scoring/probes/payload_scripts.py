"""`alwayson_scripts` of an A1111 payload: extensions and their arguments.

FreeU is that of sd-webui-freeu, dynamic thresholding that of sd-dynamic-thresholding, CFG rescale that of
CFG_Rescale_webui; their arguments come in the order of their sliders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.a1111 import freeu_share, freeu_stages

# What the web UI adds to every payload; its own API passes over them.
_IDLE = {"seed", "sampler", "extra options", "comments", "api payload"}
_THRESHOLDING = (
    "mimic_scale",
    "threshold_percentile",
    "mimic_mode",
    "mimic_scale_min",
    "cfg_mode",
    "cfg_scale_min",
    "sched_value",
    "separate_feature_channels",
    "scaling_startpoint",
    "variability",
    "interpolate_phi",
)
_FREEU_STATE: Mapping[str, Any] = {
    "start_ratio": 0.0,
    "stop_ratio": 1.0,
    "transition_smoothness": 0.0,
    "version": "1",
}
_STAGE = (
    "backbone_factor",
    "skip_factor",
    "backbone_offset",
    "backbone_width",
    "skip_cutoff",
    "skip_high_end_factor",
)


def read_scripts(scripts: Any, steps: Any, source: str) -> dict[str, Any]:
    """The fields of a probe that the scripts which are on ask for: freeu, thresholding, cfg_rescale.

    Raises InputError naming a script that is on and can't be done here.
    """
    if not isinstance(scripts, Mapping):
        raise InputError(f"{source}: alwayson_scripts must be a mapping, not {shown(scripts)}")
    fields: dict[str, Any] = {}
    for name, script in scripts.items():
        where = f"{source}: alwayson_scripts: {name}"
        args = script.get("args", []) if isinstance(script, Mapping) else script
        if not isinstance(args, list):
            raise InputError(f"{where}: its args must be a list, not {shown(args)}")
        title = str(name).lower()
        if title == "cfg rescale extension":
            fields["cfg_rescale"] = _cfg_rescale(args, where)
        elif title in _IDLE or _is_off(args):
            continue
        elif title == "freeu":
            fields["freeu"] = _freeu(args, steps, where)
        elif title == "dynamic thresholding (cfg scale fix)":
            fields["thresholding"] = _thresholding(args, where)
        else:
            raise InputError(f"{where}: can't be done here; switch it off")
    return fields


def _is_off(args: Sequence[Any]) -> bool:
    """Whether the first argument says so, or else every unit says that it is not enabled."""
    if not args or isinstance(args[0], bool):
        return not args or not args[0]
    units = [arg for arg in args if isinstance(arg, Mapping)]
    return bool(units) and all(unit.get("enabled", unit.get("enable", True)) is False for unit in units)


def _cfg_rescale(args: Sequence[Any], where: str) -> Any:
    rescale, *others = args or [0.0]
    if any(other is True for other in others):
        raise InputError(f"{where}: only the first of its args can be done here; set the others to false")
    return rescale


def _thresholding(args: Sequence[Any], where: str) -> dict[str, Any]:
    if len(args) - 1 > len(_THRESHOLDING):
        raise InputError(
            f"{where}: {len(args)} args where there are {len(_THRESHOLDING) + 1}: enabled, "
            f"{', '.join(_THRESHOLDING)}"
        )
    return dict(zip(_THRESHOLDING, args[1:], strict=False))


def _freeu(args: Sequence[Any], steps: Any, where: str) -> dict[str, Any]:
    """From {start_ratio, stop_ratio, transition_smoothness, version, stage_infos}, or from the same values in
    a row, before them whether it is on; the version was added later."""
    whole: int | None = steps if isinstance(steps, int) else 1
    if isinstance(args[0], Mapping):
        numbers = [args[0].get(key, plain) for key, plain in _FREEU_STATE.items()]
        infos = args[0].get("stage_infos", [])
    else:
        numbers, infos = _freeu_in_a_row(args)
        whole = None  # In a row, shares are never steps.
    start, stop, transition = (freeu_share(number, whole, where) for number in numbers[:3])
    return {
        "start": start,
        "stop": stop,
        "transition": transition,
        "version": _version(numbers[3], where),
        "stages": freeu_stages(_stages(infos), where),
    }


def _freeu_in_a_row(args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    plain = list(_FREEU_STATE.values())
    fifth = args[4] if len(args) > 4 else None
    counted = isinstance(fifth, int | float) and len(args[5:]) % len(_STAGE) == 0
    has_version = isinstance(fifth, str) or counted
    head = list(args[1:5] if has_version else args[1:4])
    return [*head, *plain[len(head) :]], list(args[1 + len(head) :])


def _stages(infos: Any) -> Any:
    """Stages, each a mapping, or all their numbers in a row."""
    if not isinstance(infos, list) or any(isinstance(info, Mapping) for info in infos):
        return infos
    rows = [infos[i : i + len(_STAGE)] for i in range(0, len(infos), len(_STAGE))]
    return [dict(zip(_STAGE, row, strict=False)) for row in rows]


def _version(given: Any, where: str) -> int:
    text = str(given).removeprefix("Version ")
    if text not in ("1", "2"):
        raise InputError(f"{where}: unknown version {shown(given)}; there are 1 and 2")
    return int(text)
