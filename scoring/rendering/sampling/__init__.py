"""A1111's samplers and schedules, in k-diffusion's space: x = image + sigma * noise.

The names are exported here and need no torch; what runs them is in `plan`.
"""

from scoring.rendering.sampling.names import (
    SAMPLERS,
    Sampler,
    calls,
    check_sampler,
    check_schedule,
    named_for_automatic,
    schedule_of,
    unless_usual,
)

__all__ = [
    "SAMPLERS",
    "Sampler",
    "calls",
    "check_sampler",
    "check_schedule",
    "named_for_automatic",
    "schedule_of",
    "unless_usual",
]
