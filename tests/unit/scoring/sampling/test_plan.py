"""Names, and passes: which levels a sampler runs over, where it begins, and what it returns."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.rendering.sampling import SAMPLERS, calls, check_sampler, schedule_of
from scoring.rendering.sampling.levels import NoiseLevels
from scoring.rendering.sampling.noise_source import BrownianNoise, StepNoise
from scoring.rendering.sampling.plan import ALGORITHMS, Pass, plan
from scoring.rendering.sampling.schedules import SCHEDULES
from tests.unit.scoring.models import SCHEDULER

LEVELS = NoiseLevels.of(SCHEDULER)
SEEDED = [lambda seed: torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed))] * 2


def sigmas_at(*times: int) -> list[float]:
    return [float(LEVELS.sigmas[t]) for t in times]


def run(made: Pass, latents: Tensor | None = None, seen: list[float] | None = None) -> Tensor:
    """Renders an image that the model always knows to be 0.3; noise is all ones."""

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        if seen is not None:
            seen.append(float(made.t_of(sigma)))
        return torch.full_like(x, 0.3)

    x = made.begin(torch.ones(2, 4, 2, 3), latents)
    return made.sample(model, x, made.noise(lambda: torch.ones(2, 4, 2, 3), [1, 2], SEEDED, x))


# ---- names


def test_names_of_before_and_after_1_9() -> None:
    assert schedule_of("DPM++ 2M Karras", None) == "Karras"
    assert schedule_of("DPM++ 2M Karras", "Automatic") == "Karras"
    assert schedule_of("DPM++ 2M Karras", "Karras") == "Karras"
    assert schedule_of("DPM++ 2M", None) == "Uniform"
    assert schedule_of("DPM++ 2M", "Automatic") == "Karras"
    assert schedule_of("DPM++ 2M SDE", "Automatic") == "Exponential"
    assert schedule_of("Euler", "Automatic") == "Uniform"
    assert schedule_of("Restart", None) == "Karras"
    assert schedule_of("Euler", "Beta") == "Beta"
    assert schedule_of("DPM++ 3M SDE Exponential", None) == "Exponential"


def test_a_name_that_contradicts_the_schedule() -> None:
    with pytest.raises(
        InputError, match=r"'DPM\+\+ 2M Karras' contradicts schedule 'Beta'; take 'DPM\+\+ 2M'"
    ):
        plan("DPM++ 2M Karras", "Beta")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown sampler 'Eulr'; known samplers: Euler, Euler a, "):
        check_sampler("Eulr")
    with pytest.raises(InputError, match="unknown schedule 'Karas'; known schedules: Automatic, Uniform, "):
        plan("Euler", "Karas")


def test_every_name_has_an_algorithm_and_a_schedule() -> None:
    assert {sampler.name for sampler in SAMPLERS.values()} == set(ALGORITHMS)
    for name, sampler in SAMPLERS.items():
        assert {sampler.automatic, sampler.schedule} <= set(SCHEDULES)
        assert name in (sampler.name, f"{sampler.name} {sampler.schedule}")


def test_calls_that_a1111_counts() -> None:
    assert {name: calls(name, 20) for name in ("Euler", "Heun", "DPM++ SDE Karras", "DPM2 a", "DDIM")} == {
        "Euler": 20,
        "Heun": 40,
        "DPM++ SDE Karras": 40,
        "DPM2 a": 40,
        "DDIM": 20,
    }


def test_eta_is_the_samplers_own_where_none_is_given() -> None:
    assert (plan("Euler a").eta, plan("DDIM").eta, plan("Euler a", eta=0.3).eta) == (1.0, 0.0, 0.3)
    assert plan("Euler a", eta=0.0).eta == 0.0


def test_names_need_no_torch() -> None:
    heavy = "{'torch', 'diffusers', 'scipy'}"
    check = f"import sys, scoring.rendering.sampling; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


# ---- the first pass


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_arrives_at_the_image(name: str) -> None:
    """The image's share of the last level's noise is at most that level, for those that do not end at 0."""
    made = plan(name).first_pass(LEVELS, 24)
    left = 0.06 if made.sampler.name == "DPM fast" else 0.05 if made.sampler.kind == "timesteps" else 1e-5
    assert (run(made) - 0.3).abs().max() <= left


def test_dpm2_leaves_out_the_next_to_last_level() -> None:
    whole = SCHEDULES["Karras"](6, LEVELS).tolist()
    assert plan("DPM2 Karras").first_pass(LEVELS, 5).sigmas.tolist() == [*whole[:-2], 0]
    assert len(plan("DPM++ 2M Karras").first_pass(LEVELS, 5).sigmas) == 6


def test_samplers_of_k_diffusion_begin_with_sigma_times_noise() -> None:
    made = plan("Euler").first_pass(LEVELS, 5)
    torch.testing.assert_close(made.begin(torch.ones(1, 1, 1, 1)), torch.full((1, 1, 1, 1), LEVELS.highest))


def test_ddim_runs_over_every_nth_step_plus_one() -> None:
    """A1111 makes one step less than it is asked for, down to time 1, and begins with the noise itself."""
    made = plan("DDIM").first_pass(LEVELS, 5)
    assert made.sigmas.tolist() == pytest.approx(sigmas_at(801, 601, 401, 201, 1))
    seen: list[float] = []
    run(made, seen=seen)
    assert seen == pytest.approx([801, 601, 401, 201])
    begun = made.begin(torch.ones(1, 1, 1, 1)) / math.sqrt(1 + sigmas_at(801)[0] ** 2)
    torch.testing.assert_close(begun, torch.ones(1, 1, 1, 1))


def test_steps_that_do_not_divide_1000_give_more_timesteps() -> None:
    assert len(plan("PLMS").first_pass(LEVELS, 64).sigmas) == 67  # 0, 15, ... 990


def test_ddim_keeps_a_rest_of_the_noise_at_time_1() -> None:
    """With the image known, x = image + sigma * the first noise; returned at unit variance."""
    made = plan("DDIM").first_pass(LEVELS, 4)
    first, last = sigmas_at(751, 1)
    eps = (math.sqrt(1 + first**2) - 0.3) / first
    expected = (0.3 + last * eps) / math.sqrt(1 + last**2)
    torch.testing.assert_close(run(made), torch.full((2, 4, 2, 3), expected))


def test_unipc_is_even_in_time_down_to_0() -> None:
    seen: list[float] = []
    run(plan("UniPC").first_pass(LEVELS, 5), seen=seen)
    assert seen == pytest.approx([999, 799.2, 599.4, 399.6, 199.8], abs=1e-3)


def test_lcm_knows_50_levels() -> None:
    seen: list[float] = []
    made = plan("LCM").first_pass(LEVELS, 4)
    run(made, seen=seen)
    assert seen == [999, 679, 339, 19]  # the nearest of 19, 39, ... to 999, 672.3, 345.7, 19
    assert made.sigmas[0].item() == pytest.approx(LEVELS.highest)


@pytest.mark.parametrize("name", ["DDIM", "PLMS", "DPM fast"])
def test_one_step_is_refused_where_it_would_return_noise(name: str) -> None:
    with pytest.raises(InputError, match="take 2 steps or more"):
        plan(name).first_pass(LEVELS, 1)


# ---- the second pass


def test_the_second_pass_runs_the_end_of_a_longer_schedule() -> None:
    """20 steps at strength 0.7: the last 20 of int(20 / 0.7) = 28."""
    made = plan("Euler").second_pass(LEVELS, 20, 0.7)
    assert made.sigmas.tolist() == SCHEDULES["Uniform"](28, LEVELS).tolist()[8:]
    assert len(made.sigmas) == 21
    begun = made.begin(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 5.0))
    assert begun.item() == pytest.approx(5 + made.sigmas[0].item())


def test_strength_1_is_the_whole_schedule() -> None:
    made = plan("DPM++ 2M Karras").second_pass(LEVELS, 10, 1.0)
    assert torch.equal(made.sigmas, plan("DPM++ 2M Karras").first_pass(LEVELS, 10).sigmas)


def test_dpm2_leaves_out_the_next_to_last_level_of_the_longer_schedule() -> None:
    whole = SCHEDULES["Karras"](21, LEVELS).tolist()
    made = plan("DPM2 Karras").second_pass(LEVELS, 10, 0.5)
    assert made.sigmas.tolist() == [*whole[10:-2], 0]
    assert len(made.sigmas) == 11


@pytest.mark.parametrize("name", ["Euler a", "DDIM", "UniPC", "DPM++ 2M SDE Karras"])
def test_strength_0_leaves_the_image_alone(name: str) -> None:
    latents = torch.randn(2, 4, 2, 3)
    torch.testing.assert_close(run(plan(name).second_pass(LEVELS, 20, 0.0), latents), latents)


def test_ddim_is_noised_one_level_above_where_it_begins() -> None:
    """A1111: timesteps of int(10 / 0.5) = 20 steps are 1, 51, ... 951; noise at the 10th, the run over 9."""
    made = plan("DDIM").second_pass(LEVELS, 10, 0.5)
    assert made.sigmas.tolist() == pytest.approx(sigmas_at(*range(401, 0, -50)))
    above, begin = sigmas_at(451, 401)
    scaled = (2.0 + above) / math.sqrt(1 + above**2)  # sqrt(alpha_bar) * image + sqrt(1 - alpha_bar) * noise
    begun = made.begin(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0))
    assert begun.item() == pytest.approx(scaled * math.sqrt(1 + begin**2))


def test_unipcs_second_pass_is_even_in_time_from_there() -> None:
    seen: list[float] = []
    run(plan("UniPC").second_pass(LEVELS, 10, 0.5), torch.zeros(2, 4, 2, 3), seen)
    assert seen == pytest.approx([401 * (1 - i / 9) for i in range(9)], abs=1e-3)


@pytest.mark.parametrize(("name", "steps"), [("DDIM", 2), ("PLMS", 2), ("UniPC", 1), ("DPM fast", 1)])
def test_a_second_pass_without_a_step_is_refused(name: str, steps: int) -> None:
    with pytest.raises(InputError, match="steps or more"):
        plan(name).second_pass(LEVELS, steps, 0.5)


# ---- noise


def test_only_samplers_of_the_sde_get_brownian_motions() -> None:
    kinds = {}
    for name, sampler in SAMPLERS.items():
        made = plan(name).first_pass(LEVELS, 8)
        source = made.noise(lambda: torch.ones(2, 4, 2, 3), [1, 2], SEEDED, torch.zeros(1))
        kinds[sampler.name] = type(source)
    brownian = {"DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"}
    assert kinds == {name: BrownianNoise if name in brownian else StepNoise for name in ALGORITHMS}


def test_dpmpp_sde_keeps_the_images_variance() -> None:
    """With Brownian noise, whose two parts within a step are not independent."""
    made = plan("DPM++ SDE Karras").first_pass(LEVELS, 30)

    def seeded(seed: int) -> Tensor:
        return torch.randn(4, 50, 50, generator=torch.Generator().manual_seed(seed))

    first = torch.randn(2, 4, 50, 50, generator=torch.Generator().manual_seed(99))
    x = made.begin(first)
    source = made.noise(lambda: first, [1, 2], [seeded, seeded], x)
    found = made.sample(lambda x, sigma: x * 0.5 / (0.5 + sigma**2), x, source)
    assert found.var().item() == pytest.approx(0.5, rel=0.06)
