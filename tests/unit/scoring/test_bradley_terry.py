"""The Bradley-Terry fit against a literal one, a textbook's table and closed forms."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.optimize import minimize

from scoring.bradley_terry import (
    PRIOR_SPREAD,
    TIES_MEAN,
    TIES_SPREAD,
    Comparison,
    Outcome,
    fit,
)

WIDE = 1e4


def several(first: int, second: int, wins: int, losses: int, ties: int = 0) -> list[Comparison]:
    """Comparisons of two players."""
    outcomes = [Outcome.FIRST] * wins + [Outcome.SECOND] * losses + [Outcome.TIE] * ties
    return [Comparison(first, second, outcome) for outcome in outcomes]


def literal_log_posterior(unknowns: list[float], comparisons: list[Comparison]) -> float:
    """The model as Davidson (1970) writes it, with pi and nu, and the priors, term by term."""
    *strengths, ties = unknowns
    nu = math.exp(ties)
    total = 0.0
    for comparison in comparisons:
        one, other = math.exp(strengths[comparison.first]), math.exp(strengths[comparison.second])
        tie = nu * math.sqrt(one * other)
        chance = {Outcome.FIRST: one, Outcome.SECOND: other, Outcome.TIE: tie}[comparison.outcome]
        total += math.log(chance / (one + other + tie))
    for strength in strengths:
        total -= strength**2 / (2 * PRIOR_SPREAD**2)
    return total - (ties - TIES_MEAN) ** 2 / (2 * TIES_SPREAD**2)


def test_it_finds_what_a_slow_literal_search_finds() -> None:
    random_numbers = random.Random(3)
    comparisons = [
        Comparison(first, second, random_numbers.choice(list(Outcome)))
        for first, second in (random_numbers.sample(range(6), 2) for _ in range(40))
    ]
    found = fit(6, comparisons)
    slow = minimize(
        lambda at: -literal_log_posterior(list(at), comparisons),
        np.zeros(7),
        method="Nelder-Mead",
        options={"maxiter": 40_000, "maxfev": 40_000, "xatol": 1e-7, "fatol": 1e-12, "adaptive": True},
    )
    assert [*found.strengths, found.ties] == pytest.approx(list(slow.x), abs=2e-4)


def test_standard_errors_are_those_of_the_curvature() -> None:
    comparisons = several(0, 1, 5, 2, 2) + several(1, 2, 3, 3, 1)
    found = fit(4, comparisons)
    at = [*found.strengths.tolist(), found.ties]
    step = 1e-3
    curvature = np.empty((5, 5))
    for i in range(5):
        for j in range(5):
            corners = 0.0
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                moved = list(at)
                moved[i] += a * step
                moved[j] += b * step
                corners += a * b * literal_log_posterior(moved, comparisons)
            curvature[i, j] = corners / (4 * step * step)
    assert found.covariance == pytest.approx(np.linalg.inv(-curvature)[:4, :4], abs=1e-4)


def test_the_baseball_table_of_agresti() -> None:
    """Agresti, Categorical Data Analysis, section 10.6: the American League's eastern division of 1987."""
    teams = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
    home_wins = {  # home team -> (won at home, lost at home) against each team in order
        "Milwaukee": [None, (4, 3), (4, 2), (4, 3), (6, 1), (4, 2), (6, 0)],
        "Detroit": [(3, 3), None, (4, 2), (4, 3), (6, 0), (6, 1), (4, 3)],
        "Toronto": [(2, 5), (4, 3), None, (2, 4), (4, 3), (4, 2), (6, 0)],
        "New York": [(3, 3), (5, 1), (2, 5), None, (4, 3), (4, 2), (6, 1)],
        "Boston": [(5, 1), (2, 5), (3, 3), (4, 2), None, (5, 2), (6, 0)],
        "Cleveland": [(2, 5), (3, 3), (3, 4), (4, 3), (4, 2), None, (2, 4)],
        "Baltimore": [(2, 5), (1, 5), (1, 6), (2, 4), (1, 6), (3, 4), None],
    }
    games = [
        game
        for home, row in enumerate(home_wins.values())
        for away, score in enumerate(row)
        if score is not None
        for game in several(home, away, *score)
    ]
    found = fit(7, games, prior_spread=WIDE, ties_spread=WIDE)
    published = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]
    errors = [0.343, 0.340, 0.337, 0.336, 0.334, 0.332, 0.0]
    above_baltimore = [found.above(team, 6) for team in range(len(teams))]
    assert [strength for strength, _ in above_baltimore] == pytest.approx(published, abs=6e-4)
    assert [error for _, error in above_baltimore] == pytest.approx(errors, abs=6e-4)


def test_two_players_have_a_closed_form() -> None:
    """The likelihood's maximum for two: pi_1 / pi_2 = w / l and nu = t / sqrt(w l)."""
    found = fit(2, several(0, 1, 8, 2, 5), prior_spread=WIDE, ties_spread=WIDE)
    assert found.above(0, 1)[0] == pytest.approx(math.log(8 / 2), abs=1e-6)
    assert found.ties == pytest.approx(math.log(5 / math.sqrt(8 * 2)), abs=1e-6)


def test_who_was_never_compared_has_a_finite_score_and_the_priors_error() -> None:
    found = fit(3, several(0, 1, 4, 0))
    assert found.above(2, None) == pytest.approx((0.0, PRIOR_SPREAD))
    score, error = found.above(0, 1)
    assert 0 < score < 3
    assert 0 < error < math.sqrt(2) * PRIOR_SPREAD


def test_nobody_compared_and_nobody_there() -> None:
    assert fit(2, []).above(0, 1) == pytest.approx((0.0, math.sqrt(2)))
    assert fit(0, []).strengths.shape == (0,)


def test_an_anchor_is_exactly_zero() -> None:
    assert fit(2, several(0, 1, 3, 1)).above(1, 1) == (0.0, 0.0)


def test_a_thousand_wins_in_a_row_stay_finite() -> None:
    score, error = fit(2, several(0, 1, 1000, 0)).above(0, 1)
    assert 3 < score < 10
    assert math.isfinite(error)


def test_a_comparison_with_oneself_says_nothing() -> None:
    assert fit(2, [Comparison(1, 1, Outcome.FIRST)]).strengths == pytest.approx([0.0, 0.0])


def test_an_unknown_player_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of 2"):
        fit(2, [Comparison(0, 2, Outcome.TIE)])


def test_the_most_is_learnt_of_the_close_and_the_unknown() -> None:
    known = fit(4, several(0, 1, 10, 10) + several(0, 2, 20, 0))
    assert known.information(0, 3) > known.information(0, 1), "nothing is known of 3"
    strong = fit(3, several(0, 1, 20, 0) + several(1, 2, 1, 1))
    assert strong.information(1, 2) > strong.information(0, 1), "how 0 and 1 stand is clear"
