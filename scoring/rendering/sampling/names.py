"""The samplers by A1111's names, and what A1111 knows of each (modules/sd_samplers_kdiffusion.py of 1.10,
sd_samplers_timesteps.py, sd_samplers_lcm.py). Nothing here needs torch, so that reading probes stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from scoring.errors import InputError

Kind = Literal["sigmas", "timesteps", "lcm"]


@dataclass(frozen=True)
class Sampler:
    """One of A1111's samplers.

    name: without a schedule. automatic: the schedule that A1111 since 1.9 takes where "Automatic" is set.
    schedule: the one that is taken where none is named; for a name that ends with a schedule, that one.
    fixed: whether its name says so, and another schedule contradicts it. second_order: whether A1111 counts
    two UNet calls a step. discard_next_to_last_sigma: whether it takes the levels of one step more and leaves
    out the last one that is not 0. eta: its default, or None where there is no noise to scale.
    brownian: whether its noise is that of a Brownian motion between two levels. kind: "sigmas" for those of
    k-diffusion, "timesteps" for those that choose their own timesteps, "lcm" for 50 levels of the model's.
    """

    name: str
    automatic: str = "Uniform"
    schedule: str = "Uniform"
    fixed: bool = False
    second_order: bool = False
    discard_next_to_last_sigma: bool = False
    eta: float | None = None
    brownian: bool = False
    kind: Kind = "sigmas"


_PLAIN = (
    Sampler("Euler"),
    Sampler("Euler a", eta=1.0),
    Sampler("Heun", second_order=True),
    Sampler("LMS"),
    Sampler("DPM2", "Karras", second_order=True, discard_next_to_last_sigma=True),
    Sampler("DPM2 a", "Karras", second_order=True, discard_next_to_last_sigma=True, eta=1.0),
    Sampler("DPM++ 2S a", "Karras", second_order=True, eta=1.0),
    Sampler("DPM++ 2M", "Karras"),
    Sampler("DPM++ SDE", "Karras", second_order=True, eta=1.0, brownian=True),
    Sampler("DPM++ 2M SDE", "Exponential", eta=1.0, brownian=True),
    Sampler("DPM++ 2M SDE Heun", "Exponential", eta=1.0, brownian=True),
    Sampler("DPM++ 3M SDE", "Exponential", discard_next_to_last_sigma=True, eta=1.0, brownian=True),
    Sampler("DPM fast", eta=1.0),
    Sampler("Restart", "Karras", schedule="Karras", second_order=True),
    Sampler("LCM", kind="lcm"),
    Sampler("DDIM", kind="timesteps", eta=0.0),
    Sampler("PLMS", kind="timesteps"),
    Sampler("UniPC", kind="timesteps"),
)
# The names of A1111 before 1.9, which hold the schedule.
_SUFFIXED = {
    "Karras": (
        "LMS",
        "DPM2",
        "DPM2 a",
        "DPM++ 2S a",
        "DPM++ 2M",
        "DPM++ SDE",
        "DPM++ 2M SDE",
        "DPM++ 2M SDE Heun",
        "DPM++ 3M SDE",
    ),
    "Exponential": ("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"),
}


def _by_name() -> dict[str, Sampler]:
    plain = {sampler.name: sampler for sampler in _PLAIN}
    suffixed = {
        f"{name} {schedule}": replace(plain[name], schedule=schedule, fixed=True)
        for schedule, names in _SUFFIXED.items()
        for name in names
    }
    return {**plain, **suffixed}


SAMPLERS: Mapping[str, Sampler] = _by_name()
"""All names that are accepted: A1111's present ones, and those of before 1.9 that hold the schedule."""


def check_sampler(name: str) -> str:
    """`name` when it is the name of a sampler; raises InputError listing the known names."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; known samplers: {', '.join(SAMPLERS)}")
    return name


def check_schedule(sampler: str, schedule: str | None) -> str | None:
    """`schedule` when it goes with the name `sampler`; None and "Automatic" always do.

    On samplers that choose their own timesteps a schedule has no effect, as in A1111. Raises InputError for
    an unknown sampler and for a schedule that contradicts the sampler's name.
    """
    spec = SAMPLERS[check_sampler(sampler)]
    if schedule in (None, "Automatic"):
        return schedule
    if spec.fixed and schedule != spec.schedule:
        raise InputError(
            f"sampler {sampler!r} contradicts schedule {schedule!r}; "
            f"take {spec.name!r} with that schedule, or leave the schedule out"
        )
    return schedule


def unless_usual(sampler: str, schedule: str | None) -> str | None:
    """None for the schedule that `sampler` runs with anyway: one way to say the same thing.

    Raises InputError as `check_schedule` does.
    """
    return None if check_schedule(sampler, schedule) == SAMPLERS[sampler].schedule else schedule


def named_for_automatic(sampler: str, schedule: str | None) -> str | None:
    """The schedule to name so that A1111 since 1.9, which takes "Automatic" where none is, runs the same.

    None where none has to be named. Raises InputError as `check_schedule` does.
    """
    spec = SAMPLERS[sampler]
    if schedule is None and not spec.fixed and spec.schedule != spec.automatic:
        return spec.schedule
    return check_schedule(sampler, schedule)


def schedule_of(sampler: str, schedule: str | None) -> str:
    """The schedule that `sampler` runs with: `schedule`, or the one that its name or "Automatic" stands for.

    Raises InputError as `check_schedule` does.
    """
    asked = check_schedule(sampler, schedule)
    spec = SAMPLERS[sampler]
    if asked is None or (asked == "Automatic" and spec.fixed):
        return spec.schedule
    return spec.automatic if asked == "Automatic" else asked


def calls(sampler: str, steps: int) -> int:
    """How many UNet calls A1111 counts for `steps` steps, as prompt editing sees them.

    Twice a step by samplers of second order. The calls really made may be fewer: the last step of most takes
    one, and DDIM makes one step less. Raises InputError for an unknown sampler.
    """
    return steps * (2 if SAMPLERS[check_sampler(sampler)].second_order else 1)
