from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.cards import OUR_CARDS, check_optimised, is_guard
from scoring.scorers.guards import GUARDS
from scoring.scorers.registry import create_scorer
from tests.unit.scoring.scorer_models import check_batch_free, pictures


def guard(name: str) -> Scorer:
    return create_scorer(ScorerSpec(scorer=name), "cpu")


def score(name: str, image: Tensor) -> float:
    return float(guard(name).score(image.unsqueeze(0), [""])[0])


def rows(image: Tensor) -> list[list[tuple[float, ...]]]:
    """The pixels on 0..255, row by row, as plain numbers."""
    _, height, width = image.shape
    return [
        [tuple(255 * float(image[c, y, x]) for c in range(3)) for x in range(width)] for y in range(height)
    ]


def greys(image: Tensor) -> list[list[float]]:
    return [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in rows(image)]


def literal_sharpness(image: Tensor) -> float:
    grey = greys(image)
    height, width = len(grey), len(grey[0])

    def at(y: int, x: int) -> float:
        mirrored_y = -y if y < 0 else 2 * (height - 1) - y if y >= height else y
        mirrored_x = -x if x < 0 else 2 * (width - 1) - x if x >= width else x
        return grey[mirrored_y][mirrored_x]

    laplacian = [
        at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) - 4 * at(y, x)
        for y in range(height)
        for x in range(width)
    ]
    return statistics.pvariance(laplacian)


def literal_contrast(image: Tensor) -> float:
    return statistics.pstdev([value / 255 for row in greys(image) for value in row])


def literal_colourfulness(image: Tensor) -> float:
    pixels = [pixel for row in rows(image) for pixel in row]
    rg = [r - g for r, g, _ in pixels]
    yb = [0.5 * (r + g) - b for r, g, b in pixels]
    deviation = math.sqrt(statistics.pvariance(rg) + statistics.pvariance(yb))
    mean = math.sqrt(statistics.fmean(rg) ** 2 + statistics.fmean(yb) ** 2)
    return deviation + 0.3 * mean


def literal_brightness(image: Tensor) -> float:
    return statistics.fmean([value / 255 for row in greys(image) for value in row])


LITERAL = {
    "sharpness": literal_sharpness,
    "contrast": literal_contrast,
    "colourfulness": literal_colourfulness,
    "brightness": literal_brightness,
}


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_is_its_formula(name: str) -> None:
    images = pictures(2, 9, 13)
    scores = guard(name).score(images, ["", ""]).tolist()
    assert scores == pytest.approx([LITERAL[name](image) for image in images], rel=1e-4)


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_does_not_depend_on_the_batch(name: str) -> None:
    check_batch_free(guard(name), pictures(7), [""] * 7)


def test_numbers_worked_out_by_hand() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 4, 4)
    assert score("brightness", red) == pytest.approx(0.299)
    # one colour alone: no deviation; rg = 255, yb = 127.5
    assert score("colourfulness", red) == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-5)
    assert score("contrast", red) == pytest.approx(0, abs=1e-6)
    board = (torch.arange(8).view(8, 1) + torch.arange(8)).remainder(2).float().expand(3, 8, 8)
    assert score("contrast", board) == pytest.approx(0.5, abs=1e-5)
    # every Laplacian is +-4 x 255
    assert score("sharpness", board) == pytest.approx((4 * 255) ** 2, rel=1e-4)
    assert score("colourfulness", board) == pytest.approx(0, abs=1e-3)
    assert score("sharpness", red) == pytest.approx(0, abs=1e-3)


def test_blurring_lowers_the_sharpness() -> None:
    torch.manual_seed(0)
    noise = torch.rand(3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    assert score("sharpness", blurred) < score("sharpness", noise) / 10


def test_guards_are_known_as_such_and_not_optimised() -> None:
    assert {name for name in OUR_CARDS if is_guard(name)} == set(GUARDS)
    assert check_optimised("laion-v2") == "laion-v2"
    assert check_optimised("somebody's") == "somebody's"
    for name in GUARDS:
        assert not guard(name).differentiable
        with pytest.raises(InputError, match=f"'{name}' is a guard: .*name it under `watch:`"):
            check_optimised(name)
