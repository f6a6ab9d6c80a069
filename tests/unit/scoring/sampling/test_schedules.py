"""Schedules and noise levels against formulas written out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate, optimize

from scoring.errors import InputError
from scoring.rendering.sampling.levels import NoiseLevels
from scoring.rendering.sampling.schedules import SCHEDULES
from tests.unit.scoring.models import SCHEDULER

LEVELS = NoiseLevels.of(SCHEDULER)


def training_sigmas() -> list[float]:
    """Stable Diffusion's: betas whose roots are even, alpha_bar their running product."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    product, sigmas = 1.0, []
    for t in range(1000):
        product *= 1 - (low + (high - low) * t / 999) ** 2
        sigmas.append(math.sqrt((1 - product) / product))
    return sigmas


TRAINED = training_sigmas()
LOW, HIGH = TRAINED[0], TRAINED[-1]


def at(time: float) -> float:
    """Log-linear between training steps."""
    below = min(math.floor(time), 998)
    share = time - below
    return float(TRAINED[below] ** (1 - share) * TRAINED[below + 1] ** share)


def test_training_levels_are_those_of_stable_diffusion() -> None:
    assert LEVELS.sigmas.tolist() == pytest.approx(TRAINED, rel=2e-5)
    assert LEVELS.lowest == pytest.approx(0.0292, abs=1e-4)
    assert LEVELS.highest == pytest.approx(14.6146, abs=1e-3)


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0, 500.0, 671.23, 998.999, 999.0])
def test_times_are_not_rounded(time: float) -> None:
    assert LEVELS.sigma_of(time) == pytest.approx(at(time), rel=2e-5)
    assert LEVELS.t_of(torch.tensor(LEVELS.sigma_of(time))).item() == pytest.approx(time, abs=1e-4)
    assert LEVELS.t_of_alpha_line(LEVELS.sigma_of_alpha_line(time)).item() == pytest.approx(time, abs=1e-6)


def test_beyond_the_table_the_nearest_time_is_told() -> None:
    assert LEVELS.t_of(0.001).item() == 0
    assert LEVELS.t_of(90.0).item() == 999


def test_unipcs_levels_are_linear_in_log_alpha() -> None:
    logs = [-0.5 * math.log(1 + TRAINED[t] ** 2) for t in (700, 701)]
    expected = math.sqrt(math.exp(-2 * (0.75 * logs[0] + 0.25 * logs[1])) - 1)
    assert LEVELS.sigma_of_alpha_line(700.25) == pytest.approx(expected, rel=2e-5)


def test_a_model_of_zero_terminal_snr_has_a_finite_last_level() -> None:
    levels = NoiseLevels.of({**SCHEDULER, "rescale_betas_zero_snr": True})
    roots = [1 / math.sqrt(1 + sigma**2) for sigma in TRAINED]
    scaled = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    for t in (0, 400, 900):
        assert levels.sigmas[t].item() == pytest.approx(math.sqrt(1 / scaled[t] ** 2 - 1), rel=1e-3)
    assert levels.highest == pytest.approx(4518.77, abs=0.05)


def test_a_config_without_betas_is_refused() -> None:
    with pytest.raises(InputError, match="lacks beta_end, beta_schedule"):
        NoiseLevels.of({"beta_start": 0.1})


def test_every_nth_level_knows_only_its_own_times() -> None:
    """A1111's LCM: times 19, 39, ... 999."""
    levels = LEVELS.every(20)
    assert levels.times.tolist() == [19 + 20 * i for i in range(50)]
    assert levels.sigmas[3].item() == LEVELS.sigmas[79].item()
    assert levels.t_of((TRAINED[659] * TRAINED[679] ** 3) ** 0.25).item() == 679


def beta_quantile(share: float) -> float:
    """Of Beta(0.6, 0.6), by quadrature and bisection."""

    def mass(x: float) -> float:
        # u = t**0.6 takes the pole at 0 away.
        below = min(x, 0.5) ** 0.6
        return float(integrate.quad(lambda u: (1 - u ** (1 / 0.6)) ** -0.4 / 0.6, 0, below)[0])

    whole = 2 * mass(0.5)
    if share > 0.5:
        return 1 - beta_quantile(1 - share)
    return 0.0 if share == 0 else optimize.brentq(lambda x: mass(x) / whole - share, 0, 0.5, xtol=1e-14)


def expected(schedule: str, n: int) -> list[float]:
    shares = [0.0] if n == 1 else [i / (n - 1) for i in range(n)]
    if schedule in ("Uniform", "Normal"):
        return [*(at(999 * (1 - share)) for share in shares), 0]
    if schedule == "Karras":
        return [*((HIGH ** (1 / 7) + share * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7 for share in shares), 0]
    if schedule in ("Exponential", "Polyexponential"):
        return [*(HIGH * (LOW / HIGH) ** share for share in shares), 0]
    if schedule == "SGM Uniform":
        return [*(at(999 * (1 - i / n)) for i in range(n)), 0]
    if schedule == "KL Optimal":
        return [math.tan(i / n * math.atan(LOW) + (1 - i / n) * math.atan(HIGH)) for i in range(n + 1)]
    if schedule == "Simple":
        return [*(TRAINED[999 - int(i * 1000 / n)] for i in range(n)), 0]
    if schedule == "DDIM":
        return [*(TRAINED[t] for t in reversed(range(1, 1000, 1000 // n))), 0]
    assert schedule == "Beta"
    return [*(LOW + beta_quantile(1 - share) * (HIGH - LOW) for share in shares), 0]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"Align Your Steps"}))
def test_schedule(schedule: str, n: int) -> None:
    found = SCHEDULES[schedule](n, LEVELS)
    assert found.tolist() == pytest.approx(expected(schedule, n), rel=1e-4)
    assert found.dtype == torch.float64


def test_align_your_steps() -> None:
    table = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    assert SCHEDULES["Align Your Steps"](11, LEVELS).tolist() == pytest.approx([*table, 0])
    halves = [math.sqrt(a * b) for a, b in pairwise(table)]
    both = [sigma for pair in zip(table, [*halves, 0], strict=True) for sigma in pair]
    assert SCHEDULES["Align Your Steps"](21, LEVELS).tolist() == pytest.approx(both)
