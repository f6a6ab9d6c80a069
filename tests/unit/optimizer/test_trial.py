"""One checkpoint alone and a pair, evaluated with real files, a real renderer and a real scorer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from optimizer.blocks import block_of, uniform
from optimizer.checkpoints import expected_tensors, inspect_checkpoint
from optimizer.exporting import export_recipe
from optimizer.recipes import Parent, Recipe, read_recipe
from optimizer.rendered import Rendered
from optimizer.trial import Evaluator, PairEvaluator
from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.scorers.base import ScorerSpec

PROBES = [
    Probe(prompt=prompt, seed=seed, steps=3, width=32, height=32, cfg_scale=3.0, sampler="Euler")
    for prompt, seed in (("a cat", 1), ("a red apple", 2), ("a dog", 3))
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scorers(tiny_scorers: Path) -> list[ScorerSpec]:
    return [ScorerSpec(scorer="clip", model=str(tiny_scorers / "reward"))]


@pytest.fixture
def paths(tiny_models: Path) -> tuple[Path, Path]:
    return tiny_models / "left.safetensors", tiny_models / "right.safetensors"


def told(batches: Iterator[list[Rendered]]) -> dict[int, tuple[Any, dict[str, float]]]:
    return {one.probe: (np.asarray(one.image).tolist(), one.scores) for batch in batches for one in batch}


def test_a_checkpoint_alone_is_the_end_of_its_pair(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    pair = PairEvaluator(*paths, scorers)
    ends = [told(Evaluator(path, scorers).evaluate(PROBES)) for path in paths]
    for alpha, alone in zip((0.0, 1.0), ends, strict=True):
        assert told(pair.evaluate(uniform(pair.blocks, alpha), PROBES)) == alone
    assert sorted(ends[0]) == [0, 1, 2]
    assert ends[0] != ends[1]


def test_only_what_is_to_do_is_yielded_and_the_stages_are_timed(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    alone, pair = Evaluator(paths[0], scorers, max_batch=2), PairEvaluator(*paths, scorers, max_batch=2)
    halves = uniform(pair.blocks, 0.5)
    whole = told(pair.evaluate(halves, PROBES))
    assert told(pair.evaluate(halves, PROBES, [1])) == {1: whole[1]}
    assert sorted(told(alone.evaluate(PROBES, [0, 2]))) == [0, 2]
    assert alone.seconds.merge == 0
    assert min(alone.seconds.render, alone.seconds.score, pair.seconds.render, pair.seconds.merge) > 0


def test_what_is_raised_between_steps_passes_through(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    alone, pair = Evaluator(paths[0], scorers), PairEvaluator(*paths, scorers)
    with pytest.raises(KeyboardInterrupt):
        list(alone.evaluate(PROBES, between_steps=stop))
    with pytest.raises(KeyboardInterrupt):
        list(pair.evaluate(uniform(pair.blocks, 0.5), PROBES, between_steps=stop))
    assert told(pair.evaluate(uniform(pair.blocks, 0.0), PROBES)) == told(alone.evaluate(PROBES))


def read_into(seen: list[int], batches: Iterator[list[Rendered]]) -> None:
    for batch in batches:
        seen += [one.probe for one in batch]


class Spy:
    """A scorer of its own that keeps what it was given and fails on demand."""

    name, differentiable = "spy", False

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.threads: list[str] = []

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) - 1 == self.fails_at:
            raise RuntimeError("broken")
        return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("overlap", [True, False])
def test_whether_a_batch_is_scored_while_the_next_is_rendered_changes_no_number(
    paths: tuple[Path, Path], scorers: list[ScorerSpec], overlap: bool
) -> None:
    evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=overlap)
    spy = Spy()
    evaluator.scorers["spy"] = spy
    rendering: list[tuple[bool, bool]] = []

    def note() -> None:
        rendering.append((threading.current_thread().name.startswith("render"), torch.is_grad_enabled()))

    batches = list(evaluator.evaluate(PROBES, between_steps=note))
    assert [one.probe for batch in batches for one in batch] == [0, 1, 2]
    found = {probe: (image, scores["clip"]) for probe, (image, scores) in told(iter(batches)).items()}
    alone = told(Evaluator(paths[0], scorers, max_batch=1).evaluate(PROBES))
    assert found == {probe: (image, scores["clip"]) for probe, (image, scores) in alone.items()}
    assert set(rendering) == {(overlap, False)}
    assert set(spy.threads) == {threading.current_thread().name}


def test_a_batch_is_handed_over_while_the_next_is_rendered(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=True)
    handed_over = threading.Event()
    in_time: list[bool] = []
    steps: list[None] = []

    def between_steps() -> None:
        steps.append(None)
        if len(steps) == PROBES[0].steps + 1:  # the second batch has begun
            in_time.append(handed_over.wait(10))

    for _ in evaluator.evaluate(PROBES, between_steps=between_steps):
        handed_over.set()
    assert in_time == [True]


def test_an_interrupt_of_a_batch_loses_none_before_it(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    for overlap in (True, False):
        evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=overlap)
        steps: list[None] = []

        def stop(steps: list[None] = steps) -> None:
            steps.append(None)
            if len(steps) == 2 * PROBES[0].steps + 1:
                raise KeyboardInterrupt

        seen: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            read_into(seen, evaluator.evaluate(PROBES, between_steps=stop))
        assert seen == [0, 1]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_scorer_that_fails_ends_the_render_and_nothing_runs_on(
    paths: tuple[Path, Path], scorers: list[ScorerSpec], overlap: bool
) -> None:
    evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=overlap)
    evaluator.scorers["spy"] = Spy(fails_at=1)
    calls: list[None] = []
    evaluator.components.unet.register_forward_pre_hook(lambda *_: calls.append(None))
    many = [PROBES[0].model_copy(update={"seed": seed}) for seed in range(20)]
    seen: list[int] = []
    with pytest.raises(TrialFailed, match="scorer 'spy' failed: broken"):
        read_into(seen, evaluator.evaluate(many))
    made = len(calls)
    assert seen == [0]
    assert made <= 3 * PROBES[0].steps
    time.sleep(0.1)
    assert len(calls) == made
    evaluator.scorers["spy"] = Spy()
    assert sorted(told(evaluator.evaluate(PROBES))) == [0, 1, 2]


def test_scorers_that_do_not_fit_beside_a_render_run_between_its_steps(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=True)
    rendering = threading.Event()
    handle = evaluator.components.unet.register_forward_pre_hook(lambda *_: rendering.set())
    evaluator.components.unet.register_forward_hook(lambda *_: rendering.clear())
    held: list[bool] = []

    class Large(Spy):
        """Needs all the memory: it runs out of it while the UNet computes."""

        def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            if not held:
                assert rendering.wait(10)
                held.append(True)
                raise torch.OutOfMemoryError("CUDA out of memory")
            held.append(rendering.is_set())
            time.sleep(0.05)
            assert not rendering.is_set()
            return super().score(images, prompts)

    evaluator.scorers["large"] = Large()
    found = told(evaluator.evaluate(PROBES))
    handle.remove()
    assert sorted(found) == [0, 1, 2]
    assert held == [True, False, False, False]
    assert evaluator.seconds.overlap == 0 or evaluator.seconds.overlap < evaluator.seconds.score
    assert evaluator.notices == [
        "out of memory: a batch can't be scored while the next one is rendered; from now on it is scored "
        "between two steps"
    ]


def test_whoever_stops_reading_stops_the_render(paths: tuple[Path, Path], scorers: list[ScorerSpec]) -> None:
    pair = PairEvaluator(*paths, scorers, max_batch=1, overlap=True)
    calls: list[None] = []
    pair.merge.unet.register_forward_pre_hook(lambda *_: calls.append(None))
    for _ in pair.evaluate(uniform(pair.blocks, 0.5), PROBES):
        break
    made = len(calls)
    time.sleep(0.1)
    assert len(calls) == made < 3 * PROBES[0].steps


@pytest.mark.parametrize("overlap", [True, False])
def test_the_time_that_rendering_waits_is_no_time_of_rendering(
    paths: tuple[Path, Path], scorers: list[ScorerSpec], overlap: bool
) -> None:
    evaluator = Evaluator(paths[0], scorers, max_batch=1, overlap=overlap)
    list(evaluator.evaluate(PROBES))
    waited = 3 * len(PROBES) * 0.05
    started = time.monotonic()
    list(evaluator.evaluate(PROBES, between_steps=lambda: time.sleep(0.05)))
    wall = time.monotonic() - started
    seconds = evaluator.seconds
    busy = seconds.render + seconds.score - seconds.overlap
    assert 0 < busy <= wall
    assert seconds.render < wall - waited * 0.9
    assert overlap or seconds.overlap == 0
    if not overlap:
        assert busy <= wall - waited


def test_inspections_that_are_there_are_used(paths: tuple[Path, Path], scorers: list[ScorerSpec]) -> None:
    a, b = (inspect_checkpoint(path, statistics=False) for path in paths)
    pair = PairEvaluator(*paths, scorers, inspections=(a, b))
    # The files were not hashed: these inspections have no hash, and no other ones were made.
    assert pair.inspections == (a, b)
    assert pair.inspections[0].sha256 is None
    twice = inspect_checkpoint(paths[0])
    with pytest.raises(InputError, match="hold the same bytes"):
        PairEvaluator(*paths, scorers, inspections=(twice, twice))


def test_wrong_weights_are_refused_and_the_stages_are_those_of_no_trial(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    pair = PairEvaluator(*paths, scorers)
    list(pair.evaluate(uniform(pair.blocks, 0.5), PROBES[:1]))
    with pytest.raises(InputError, match="block M00 is 2"):
        list(pair.evaluate({**uniform(pair.blocks, 0.5), "M00": 2.0}, PROBES))
    assert (pair.seconds.merge, pair.seconds.render, pair.seconds.score) == (0, 0, 0)


def test_a_score_that_is_no_number_names_the_scorer_and_the_probe(
    tmp_path: Path, paths: tuple[Path, Path], tiny_scorers: Path
) -> None:
    folder = shutil.copytree(tiny_scorers / "reward", tmp_path / "reward")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.conv1.weight"].fill_(float("nan"))
    save_file(weights, folder / "open_clip_model.safetensors")
    evaluator = Evaluator(paths[0], [ScorerSpec(scorer="clip", model=str(folder))])
    with pytest.raises(TrialFailed, match=r"scorer 'clip' gave nan for probe 1 \('a red apple', seed 2\)"):
        list(evaluator.evaluate([PROBES[0].model_copy(update={"steps": 2}), PROBES[1]], [1]))


def test_a_merge_that_changes_nothing_fails_the_trial(
    tmp_path: Path, paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    a, b = (load_file(path) for path in paths)
    twin = tmp_path / "twin.safetensors"
    save_file({key: a[key] if block_of(key) == "M00" else b[key] for key in a}, twin)
    pair = PairEvaluator(paths[0], twin, scorers)
    one = PROBES[:1]
    assert "M00" not in pair.blocks
    halves = uniform(pair.blocks, 0.5)
    first = told(pair.evaluate({**halves, "M00": 0.2}, one))
    for weights, named in (
        ({**halves, "M00": 0.9}, "M00"),
        ({**halves, "IN00": 0.5 + 1e-12, "M00": 0.2}, "IN00"),
    ):
        with pytest.raises(TrialFailed, match=f"changed nothing: these weights differ .* in {named}"):
            next(pair.evaluate(weights, one))
    # A trial that goes on where it was cut short has the weights that it had.
    assert told(pair.evaluate({**halves, "M00": 0.2}, one)) == first
    assert told(pair.evaluate({**halves, "IN00": 0.6}, one)) != first


def test_a_unet_that_no_longer_is_the_merge_fails_the_trial(
    paths: tuple[Path, Path], scorers: list[ScorerSpec]
) -> None:
    pair = PairEvaluator(*paths, scorers)
    told(pair.evaluate(uniform(pair.blocks, 0.5), PROBES[:1]))
    pair.merge.unet.half().float()
    with pytest.raises(TrialFailed, match="would change nothing that renders"):
        next(pair.evaluate(uniform(pair.blocks, 0.6), PROBES[:1]))


def test_a_block_below_the_dtype_is_written_as_a_has_it_and_the_recipe_says_so(
    tmp_path: Path, tiny_models: Path, scorers: list[ScorerSpec]
) -> None:
    a = {key: tensor.float() for key, tensor in load_file(tiny_models / "left.safetensors").items()}
    b = {key: tensor.float() for key, tensor in load_file(tiny_models / "right.safetensors").items()}
    nearly = {key: a[key].bfloat16().float() if block_of(key) == "OUT03" else b[key] for key in a}
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, tensors in zip(paths, (a, nearly), strict=True):
        save_file(tensors, path)
    pair = PairEvaluator(*paths, scorers, dtype=torch.bfloat16)
    assert "OUT03" not in pair.blocks
    assert pair.notices == [
        "A and B differ in OUT03 by less than bfloat16 can hold: these blocks are not searched and stay A's"
    ]
    chosen = uniform(pair.blocks, 1.0)
    parents = [Parent(name=path.stem, sha256="0" * 64, legacy_hash=None, metadata={}) for path in paths]
    recipe = Recipe(
        name="out",
        a=parents[0],
        b=parents[1],
        architecture="emoji",
        prediction_type=pair.prediction_type,
        weights=pair.file_weights(chosen),
        dtype="float32",
    )
    out = tmp_path / "out.safetensors"
    export_recipe(recipe, paths, out)
    written = load_file(out)
    for key, block in ((key, block_of(key)) for key in expected_tensors("emoji").unet):
        assert torch.equal(written[key], (a if block == "OUT03" else nearly)[key]), key
    with safe_open(out, "pt") as file:
        found = read_recipe(file.metadata())
    assert found is not None
    assert found.weights == {**chosen, "OUT03": 0.0}
