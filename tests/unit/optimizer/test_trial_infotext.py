"""What a trial renders carries the infotext of its probe, also where only some probes are still to do."""

from __future__ import annotations

from pathlib import Path

from optimizer.trial import Evaluator
from scoring.probes import Probe, to_infotext
from scoring.probes.infotext_reader import read_infotext
from scoring.scorers.base import ScorerSpec

PROBES = [
    Probe(prompt=prompt, seed=seed, steps=2, width=32, height=size, cfg_scale=3.0, sampler="Euler")
    for prompt, seed, size in (("a cat", 1, 32), ("a red apple", 2, 64), ("a dog", 3, 32))
]


def test_every_image_carries_its_own_infotext(tiny_models: Path, tiny_scorers: Path) -> None:
    scorer = ScorerSpec(scorer="clip", model=str(tiny_scorers / "reward"))
    evaluator = Evaluator(tiny_models / "left.safetensors", [scorer])
    for todo in (None, [1, 2]):
        rendered = [one for batch in evaluator.evaluate(PROBES, todo) for one in batch]
        assert {one.probe for one in rendered} == set(todo or range(3))
        for one in rendered:
            assert one.image.info["parameters"] == to_infotext(PROBES[one.probe])
            assert read_infotext(one.image.info["parameters"]).probes == (PROBES[one.probe],)
