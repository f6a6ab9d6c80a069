"""What a sampler is told of trials that wait for their score."""

from __future__ import annotations

from optimizer.pending import with_pending
from optimizer.search import SearchSettings, ToldTrial, propose

BLOCKS = ["IN00", "M00"]
DONE = [ToldTrial(n, {"IN00": n / 3, "M00": 0.5}, n / 10) for n in range(4)]
WAITING = [ToldTrial(4, {"IN00": 0.9, "M00": 0.1}, None)]


def settings(sampler: str) -> SearchSettings:
    return SearchSettings.model_validate({"sampler": sampler, "trials": 20})


def test_a_waiting_trial_is_believed_to_be_as_good_as_the_mean() -> None:
    assert [trial.score for trial in with_pending(settings("gp"), DONE, WAITING)] == [0, 0.1, 0.2, 0.3, 0.15]


def test_cmaes_learns_from_true_scores_alone() -> None:
    assert with_pending(settings("cmaes"), DONE, WAITING)[-1].score is None


def test_nothing_is_believed_before_the_first_score() -> None:
    assert with_pending(settings("gp"), [], WAITING) == WAITING


def test_trials_of_one_round_differ() -> None:
    waiting: list[ToldTrial] = []
    told = [ToldTrial(n, {"IN00": n / 11, "M00": (5 * n % 12) / 12}, -abs(n - 6) / 6) for n in range(12)]
    for number in (12, 13, 14):
        known = with_pending(settings("gp"), told, waiting)
        weights = propose(settings("gp"), BLOCKS, number, known, noisy=True)
        waiting.append(ToldTrial(number, weights, None))
    points = [tuple(round(trial.weights[block], 2) for block in BLOCKS) for trial in waiting]
    assert len(set(points)) == 3
