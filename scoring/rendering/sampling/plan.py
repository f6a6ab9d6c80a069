"""A sampler and a schedule by their names, ready to run: a pass has its levels, its beginning and its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.rendering.sampling import dpm_solver, multistep, runge_kutta, unipc
from scoring.rendering.sampling.levels import NoiseLevels
from scoring.rendering.sampling.names import SAMPLERS, Sampler, schedule_of
from scoring.rendering.sampling.noise_source import BrownianNoise, NoiseSource, Seeded, StepNoise
from scoring.rendering.sampling.schedules import SCHEDULES, Schedule
from scoring.rendering.sampling.steps import Algorithm, Model

ALGORITHMS: Mapping[str, Algorithm] = {
    "Euler": runge_kutta.sample_euler,
    "Euler a": runge_kutta.sample_euler_ancestral,
    "Heun": runge_kutta.sample_heun,
    "LMS": multistep.sample_lms,
    "DPM2": runge_kutta.sample_dpm_2,
    "DPM2 a": runge_kutta.sample_dpm_2_ancestral,
    "DPM++ 2S a": dpm_solver.sample_dpmpp_2s_ancestral,
    "DPM++ 2M": dpm_solver.sample_dpmpp_2m,
    "DPM++ SDE": dpm_solver.sample_dpmpp_sde,
    "DPM++ 2M SDE": dpm_solver.sample_dpmpp_2m_sde,
    "DPM++ 2M SDE Heun": dpm_solver.sample_dpmpp_2m_sde_heun,
    "DPM++ 3M SDE": dpm_solver.sample_dpmpp_3m_sde,
    "DPM fast": dpm_solver.sample_dpm_fast,
    "Restart": runge_kutta.sample_restart,
    "LCM": runge_kutta.sample_lcm,
    "DDIM": runge_kutta.sample_euler_ancestral,
    "PLMS": multistep.sample_plms,
    "UniPC": unipc.sample_unipc,
}
"""The algorithm of every sampler, by its name without a schedule."""

_LCM_LEVELS = 50


@dataclass(frozen=True)
class Pass:
    """One run of a sampler over `sigmas`: call `begin`, then `sample`.

    sampler: what A1111 knows of it. sigmas: 1-d float64, falling; a single one means that nothing is done.
    levels: the model's. noised_at: the level of the noise that an image is given; for DDIM, PLMS and UniPC it
    is one above that at which they begin, as in A1111. eta: of the noise added on the way.
    """

    sampler: Sampler
    sigmas: Tensor
    levels: NoiseLevels
    noised_at: float
    eta: float

    def begin(self, noise: Tensor, latents: Tensor | None = None) -> Tensor:
        """Where it begins: noise (N, C, h, w) of unit variance, on top of `latents` where they are given.

        Samplers of k-diffusion begin with sigma * noise, the others with noise of the variance of a noised
        image of unit variance, as A1111 (sample, sample_img2img).
        """
        first = float(self.sigmas[0])
        if self.sampler.kind != "timesteps":
            return noise * first if latents is None else latents + noise * first
        if len(self.sigmas) == 1 and latents is not None:
            return latents
        scale = math.sqrt(1 + first**2)
        if latents is None:
            return noise * scale
        return (latents + noise * self.noised_at) * (scale / math.sqrt(1 + self.noised_at**2))

    def noise(
        self, draw: Callable[[], Tensor], seeds: Sequence[int], seeded: Sequence[Seeded], like: Tensor
    ) -> NoiseSource:
        """The noise for `sample`: that of `draw`, or one Brownian motion per image for DPM++ SDE and kin.

        The arguments are those of `BrownianNoise`.
        """
        if self.sampler.brownian and len(self.sigmas) > 1:
            return BrownianNoise(draw, seeds, seeded, self.sigmas, like)
        return StepNoise(draw)

    def sample(self, model: Model, x: Tensor, noise: NoiseSource) -> Tensor:
        """The latents that `begin` gave, to those of images: (N, C, h, w)."""
        x = ALGORITHMS[self.sampler.name](model, x, self.sigmas, noise=noise, eta=self.eta)
        if self.sampler.kind != "timesteps":
            return x
        # They end above level 0, at x of unit variance.
        return x / math.sqrt(1 + float(self.sigmas[-1]) ** 2)

    def t_of(self, sigma: Tensor) -> Tensor:
        """What the UNet is told at noise level `sigma`: 0-dim float64 on the CPU, often fractional."""
        return self.levels.t_of_alpha_line(sigma) if self.sampler.name == "UniPC" else self.levels.t_of(sigma)


@dataclass(frozen=True)
class Sampling:
    """A sampler with its schedule. eta: 0..1, of the noise added on the way."""

    sampler: Sampler
    schedule: Schedule
    eta: float

    def first_pass(self, levels: NoiseLevels, steps: int) -> Pass:
        """The pass from noise to an image in `steps` steps (>= 1), for a model with these levels.

        Raises InputError for DDIM and PLMS (A1111 returns the noise) and DPM fast with fewer than 2 steps.
        """
        if self.sampler.kind == "timesteps":
            times = _timesteps(levels, steps)
            if len(times) < 2 and self.sampler.name != "UniPC":
                raise InputError(
                    f"sampler {self.sampler.name!r} makes no step of {steps} (A1111 returns the noise); "
                    "take 2 steps or more"
                )
            sigmas = self._own_sigmas(levels, times, levels.times[-1].item())
        else:
            levels = _levels_for(self.sampler, levels)
            sigmas = self._sigmas(levels, steps)
        return self._pass(levels, sigmas)

    def second_pass(self, levels: NoiseLevels, steps: int, denoising_strength: float) -> Pass:
        """The pass that makes the share `denoising_strength` (0..1) of an image anew in `steps` steps (>= 1).

        As A1111's hires fix: the schedule is that of steps / strength steps, and its last `steps` are run
        (sd_samplers_common.py, setup_img2img_steps); of DDIM, PLMS and UniPC, which begin below the level
        of the noise, two fewer are (sd_samplers_timesteps.py, sample_img2img). At strength 0 nothing
        is done.
        Raises InputError where so few steps leave none to those, and for DPM fast with fewer than 2.
        """
        if denoising_strength <= 0:
            return Pass(self.sampler, torch.zeros(1, dtype=torch.float64), levels, 0.0, self.eta)
        total = int(steps / min(denoising_strength, 0.999))
        if self.sampler.kind == "timesteps":
            return self._second_of_timesteps(levels, steps, total)
        levels = _levels_for(self.sampler, levels)
        return self._pass(levels, self._sigmas(levels, total)[total - steps :])

    def _pass(self, levels: NoiseLevels, sigmas: Tensor) -> Pass:
        if self.sampler.name == "DPM fast" and int((sigmas > 0).sum()) < 2:
            raise InputError(
                "sampler 'DPM fast' runs from one level above 0 to another; take 2 steps or more"
            )
        return Pass(self.sampler, sigmas, levels, float(sigmas[0]), self.eta)

    def _second_of_timesteps(self, levels: NoiseLevels, steps: int, total: int) -> Pass:
        times = _timesteps(levels, total)
        run = times[: steps - 1]
        if len(run) < (1 if self.sampler.name == "UniPC" else 2):
            raise InputError(
                f"sampler {self.sampler.name!r} makes no second pass in {steps} steps; take 3 steps or more"
            )
        sigmas = self._own_sigmas(levels, run, float(run[-1]))
        return Pass(self.sampler, sigmas, levels, levels.sigma_of(times[steps - 1]), self.eta)

    def _sigmas(self, levels: NoiseLevels, steps: int) -> Tensor:
        if not self.sampler.discard_next_to_last_sigma:
            return self.schedule(steps, levels)
        sigmas = self.schedule(steps + 1, levels)
        return torch.cat([sigmas[:-2], sigmas[-1:]])

    def _own_sigmas(self, levels: NoiseLevels, times: list[int], first: float) -> Tensor:
        """DDIM's and PLMS' levels are those of their timesteps; UniPC's are even in time, `first` to 0."""
        if self.sampler.name == "UniPC":
            count = len(times)
            even = (first * (1 - i / count) for i in range(count + 1))
            sigmas = [levels.sigma_of_alpha_line(time) for time in even]
        else:
            sigmas = [levels.sigma_of(time) for time in reversed(times)]
        return torch.tensor(sigmas, dtype=torch.float64)


def plan(sampler: str, schedule: str | None = None, eta: float | None = None) -> Sampling:
    """What runs under these names of A1111's.

    schedule: one of A1111's labels; None = the one that the sampler's name ends with, or else "Uniform";
    "Automatic" = the one that A1111 since 1.9 chooses for the sampler. eta: 0..1; the sampler's default where
    None. Raises InputError for an unknown sampler or schedule and for two that contradict each other.
    """
    label = schedule_of(sampler, schedule)
    if label not in SCHEDULES:
        raise InputError(f"unknown schedule {label!r}; known schedules: Automatic, {', '.join(SCHEDULES)}")
    spec = SAMPLERS[sampler]
    default = 0.0 if spec.eta is None else spec.eta
    return Sampling(spec, SCHEDULES[label], default if eta is None else eta)


def _levels_for(sampler: Sampler, levels: NoiseLevels) -> NoiseLevels:
    """LCM knows 50 of the model's levels, the others all of them."""
    return levels.every(len(levels.sigmas) // _LCM_LEVELS) if sampler.kind == "lcm" else levels


def _timesteps(levels: NoiseLevels, steps: int) -> list[int]:
    """A1111's timesteps (sd_samplers_timesteps.py, get_timesteps): rising.

    More than `steps` where that does not divide the number of training steps.
    """
    count = len(levels.times)
    return [min(t + 1, count - 1) for t in range(0, count, max(count // steps, 1))]
