"""One search of one objective by one arm: what was rendered, what it cost, and how good the best was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from benchmarks.searching.objectives import Objective
from optimizer.blocks import BlockWeights

T = TypeVar("T")


class BudgetSpent(Exception):
    """Every render of the budget is made: ends an arm, and passes through the packages of peers."""


@dataclass
class Run:
    """What one search did. A record is one line of JSON.

    budget: renders it was given; observed: scores in order; slopes: which of them came with slopes, and
    slope_price: what such a score cost, in scores; seconds: CPU time of each proposal; truths: (renders, what
    the best-observed weights are worth) at the objective's marks; best: those weights.
    """

    objective: str
    arm: str
    budget: int
    observed: list[float] = field(default_factory=list)
    slopes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    slope_price: float = 0.0
    truths: list[tuple[int, float]] = field(default_factory=list)
    best: BlockWeights = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def costs(self) -> list[float]:
        """Renders spent up to and with each observation, in scores alone."""
        spent, costs = 0.0, []
        with_slopes = set(self.slopes)
        for number in range(len(self.observed)):
            spent += self.slope_price if number in with_slopes else 1.0
            costs.append(spent)
        return costs


class Recorder:
    """Hands an objective to an arm, until `budget` renders are spent."""

    def __init__(self, objective: Objective, arm: str, budget: int) -> None:
        self.run = Run(objective.name, arm, budget)
        self.blocks = objective.blocks
        self._objective, self._budget, self._spent = objective, budget, 0.0
        self._tried: list[BlockWeights] = []
        self._known: dict[int, float] = {}
        self._since = time.process_time()

    def observe(self, weights: BlockWeights) -> float:
        """The score of the weights. Raises BudgetSpent once the budget does not pay for another one."""
        score = self._paid(1.0, lambda: self._objective.observe(weights))
        self._keep(weights, score)
        return score

    def observe_slopes(self, weights: BlockWeights) -> tuple[float, BlockWeights]:
        """The score and its slopes, at their price. Raises BudgetSpent as `observe`."""
        score, slopes = self._paid(
            self._objective.slope_price, lambda: self._objective.observe_slopes(weights)
        )
        self.run.slopes.append(len(self.run.observed))
        self._keep(weights, score)
        return score, slopes

    def finish(self) -> Run:
        """The run, with what its best weights were worth at every mark that the budget reached."""
        self.run.slope_price = self._objective.measured_price()
        costs = self.run.costs()
        for mark in self._objective.marks:
            within = [number for number, cost in enumerate(costs) if cost <= mark]
            if within and mark <= self._budget:
                best = max(within, key=lambda number: (self.run.observed[number], -number))
                self.run.best = self._tried[best]
                self.run.truths.append((mark, self._worth(best)))
        return self.run

    def _worth(self, number: int) -> float:
        if number not in self._known:
            self._known[number] = self._objective.truth(self._tried[number])
        return self._known[number]

    def _paid(self, price: float, ask: Callable[[], T]) -> T:
        if self._spent + price > self._budget + 1e-9:
            raise BudgetSpent
        self.run.seconds.append(round(time.process_time() - self._since, 4))
        self._spent += price
        answer = ask()
        self._since = time.process_time()
        return answer

    def _keep(self, weights: BlockWeights, score: float) -> None:
        self._tried.append(dict(weights))
        self.run.observed.append(score)
        self._since = time.process_time()
