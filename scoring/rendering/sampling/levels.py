"""The noise levels that a model was trained with, and the times the UNet knows them by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError

_BETAS = ("beta_start", "beta_end", "beta_schedule")
_OPTIONS = (*_BETAS, "num_train_timesteps", "trained_betas", "rescale_betas_zero_snr")
# A1111's modules/sd_models.py (rescale_zero_terminal_snr_abar): alpha_bar that keeps sigma finite, 4518.8.
_LAST_ALPHA_BAR_OF_ZERO_SNR = 4.8973451890853435e-08


@dataclass(frozen=True)
class NoiseLevels:
    """A table of noise levels.

    sigmas: (T,) float64, rising; sigma**2 = (1 - alpha_bar) / alpha_bar. times: (T,) float64, rising: what
    the UNet is told at each. quantised: whether it is told only those, or anything between.
    """

    sigmas: Tensor
    times: Tensor
    quantised: bool = False

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any]) -> NoiseLevels:
        """Those of a diffusers scheduler config.

        Of a model that was trained to zero terminal SNR (Lin et al. 2024) the last level is finite, as
        A1111's. Raises InputError for a config without betas.
        """
        from diffusers import DDPMScheduler

        missing = [key for key in _BETAS if key not in scheduler_config]
        if missing:
            raise InputError(
                f"the model's scheduler config lacks {', '.join(missing)}; "
                "take them from the scheduler_config.json of the model's architecture"
            )
        options = {key: scheduler_config[key] for key in _OPTIONS if scheduler_config.get(key) is not None}
        alpha_bar = DDPMScheduler(**options).alphas_cumprod.double()
        if options.get("rescale_betas_zero_snr"):
            alpha_bar[-1] = _LAST_ALPHA_BAR_OF_ZERO_SNR
        times = torch.arange(len(alpha_bar), dtype=torch.float64)
        return cls(((1 - alpha_bar) / alpha_bar).sqrt(), times)

    def every(self, stride: int) -> NoiseLevels:
        """Every `stride`-th level counted from the highest, and the UNet told only their times."""
        chosen = torch.arange(len(self.sigmas) - 1, -1, -stride).flip(0)
        return NoiseLevels(self.sigmas[chosen], self.times[chosen], quantised=True)

    @property
    def lowest(self) -> float:
        return float(self.sigmas[0])

    @property
    def highest(self) -> float:
        return float(self.sigmas[-1])

    def sigma_of(self, time: float) -> float:
        """The noise level at `time`, log-linear between those of the table (k-diffusion's `t_to_sigma`)."""
        return math.exp(_between(time, self.times, self.sigmas.log()))

    def t_of(self, sigma: Tensor | float) -> Tensor:
        """What the UNet is told at noise level `sigma`: 0-dim float64, not rounded unless `quantised`.

        Log-linear between the levels of the table, as k-diffusion's `sigma_to_t`; beyond them, the nearest.
        """
        log_sigma = math.log(float(sigma))
        if self.quantised:
            return self.times[(self.sigmas.log() - log_sigma).abs().argmin()]
        return torch.tensor(_between(log_sigma, self.sigmas.log(), self.times), dtype=torch.float64)

    def sigma_of_alpha_line(self, time: float) -> float:
        """As `sigma_of`, but linear in log(alpha), as UniPC has it (its `NoiseScheduleVP`)."""
        return math.sqrt(math.expm1(-2 * _between(time, self.times, self._log_alphas)))

    def t_of_alpha_line(self, sigma: Tensor | float) -> Tensor:
        """The inverse of `sigma_of_alpha_line`."""
        log_alpha = -0.5 * math.log1p(float(sigma) ** 2)
        time = _between(-log_alpha, -self._log_alphas, self.times)
        return torch.tensor(time, dtype=torch.float64)

    @property
    def _log_alphas(self) -> Tensor:
        return -0.5 * (self.sigmas**2).log1p()


def _between(x: float, xs: Tensor, ys: Tensor) -> float:
    """`ys` over the rising `xs`, linear between them and level beyond them, at `x`."""
    right = min(max(int(torch.searchsorted(xs, x)), 1), len(xs) - 1)
    low, high = float(xs[right - 1]), float(xs[right])
    share = min(max((x - low) / (high - low), 0.0), 1.0)
    return (1 - share) * float(ys[right - 1]) + share * float(ys[right])
