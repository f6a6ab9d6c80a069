"""One trial: block weights -> merge in place -> render the probes -> score each image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from optimizer.ahead import Stopwatch, ahead, seconds_of_both
from optimizer.blocks import BlockWeights, uniform
from optimizer.checkpoints import Inspection, check_pair, inspect_checkpoint, load_components
from optimizer.choices import TEXT_ENCODER
from optimizer.merging import LiveMerge
from optimizer.rendered import Rendered, StageSeconds, score_images
from optimizer.slopes import Slopes
from optimizer.text_encoders import TextEncoders
from scoring.errors import TrialFailed
from scoring.probes import Probe
from scoring.probes.images import labelled
from scoring.rendering.acceleration import accelerate
from scoring.rendering.components import dtype_name
from scoring.rendering.denoiser import BetweenSteps
from scoring.rendering.fitting import fit_batches
from scoring.rendering.images import to_pil
from scoring.rendering.memory import is_out_of_memory
from scoring.rendering.renderer import Renderer
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.registry import create_scorer


@dataclass(frozen=True)
class _Batch:
    """Images (n, 3, H, W) of some probes, the seconds they took, and on CUDA the moment they are made."""

    indices: list[int]
    images: torch.Tensor
    seconds: float
    made: Any


_Scores = dict[str, list[float]]


class _Abandoned(Exception):
    """A render that nobody waits for any more."""


class Evaluator:
    """One checkpoint, a renderer and scorers, on one device.

    prediction_type: found out from the file unless given. embeddings: a folder of textual inversions that
    prompts may name. overlap: whether a batch is rendered while the one before it is scored; unless given, on
    CUDA alone. On a CPU both would fight for the same cores, and on MPS two threads crash torch
    (pytorch#197805). compile: see `accelerate`.
    Raises InputError when the checkpoint can't be rendered or a scorer is not there.
    """

    def __init__(
        self,
        path: Path,
        scorers: Sequence[ScorerSpec],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_batch: int = 16,
        prediction_type: str | None = None,
        embeddings: Path | None = None,
        overlap: bool | None = None,
        compile: bool = False,
    ) -> None:
        self.components = load_components(path, device=device, dtype=dtype, prediction_type=prediction_type)
        accelerate(self.components.unet, self.components.vae, torch.device(device), compile=compile)
        self.renderer = Renderer(self.components, device, max_batch, embeddings=embeddings)
        self.scorers: dict[str, Scorer] = {spec.scorer: create_scorer(spec, device) for spec in scorers}
        self._device = torch.device(device)
        overlaps = self._device.type == "cuda" if overlap is None else overlap
        # One thread for all trials: what torch keeps a thread (cuDNN's plans) is made once.
        self._thread: Executor | None = ThreadPoolExecutor(1, "render") if overlaps else None
        cuda: Any = torch.cuda  # its streams and events are not typed
        self._stream = cuda.Stream(self._device) if overlaps and self._device.type == "cuda" else None
        self._alone = not overlaps
        # Held while a step or an image is computed, so that what must run alone can wait for that.
        self._computing = threading.Lock()
        self.forget_seconds()

    @property
    def seconds(self) -> StageSeconds:
        """Where the time of the last evaluation went."""
        render, score = self._rendering, self._scoring
        both = seconds_of_both(render.spans, score.spans)
        return StageSeconds(render=render.seconds, score=score.seconds, overlap=both)

    def fit_batches(self, probes: Sequence[Probe], file: Path) -> None:
        """Batch `probes` as the device's memory allows, see `scoring.rendering.fitting.fit_batches`."""
        fit_batches(self.renderer, probes, file)

    def forget_seconds(self) -> None:
        """Measure the stages anew."""
        self._rendering, self._scoring = Stopwatch(), Stopwatch()

    @property
    def notices(self) -> list[str]:
        """What was found out on the way that the user should know, oldest first; it grows."""
        return self.renderer.notices

    def evaluate(
        self,
        probes: Sequence[Probe],
        todo: Sequence[int] | None = None,
        between_steps: BetweenSteps | None = None,
    ) -> Iterator[list[Rendered]]:
        """Render and score the probes whose indices are in `todo` (all of them unless given), by batches.

        A batch is yielded as soon as it is scored. Where evaluation overlaps, the next one is rendered
        meanwhile, and none after it is begun before this one is yielded. That changes no number.
        between_steps: called after every denoising step, by the thread that renders; what it raises passes
        through once all batches before are yielded. Closing the iterator ends the render at its next step.
        Raises TrialFailed with its reason when an image or a score can't be trusted.
        """
        self.forget_seconds()
        wanted = set(range(len(probes)) if todo is None else todo)
        abandoned = threading.Event()

        def pause() -> None:
            self._rendering.stop()
            self._computing.release()
            try:
                if abandoned.is_set():
                    raise _Abandoned
                if between_steps is not None:
                    between_steps()
            finally:
                self._computing.acquire()
                self._rendering.start()

        rendered = self._rendered(self.renderer.render(probes, wanted, pause))
        with closing(ahead(rendered, self._thread)) as batches:
            try:
                for batch in batches:
                    yield self._scored(batch, probes, wanted)
            finally:
                abandoned.set()

    def _rendered(self, batches: Iterator[tuple[list[int], torch.Tensor]]) -> Iterator[_Batch]:
        while True:
            before = self._rendering.seconds
            with self._computing, torch.no_grad():  # here, because every thread has its own
                self._rendering.start()
                try:
                    indices, images = next(batches, (None, None))
                finally:
                    self._rendering.stop()
            if indices is None or images is None:
                return
            made = None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
            yield _Batch(indices, images, self._rendering.seconds - before, made)

    def _scored(self, batch: _Batch, probes: Sequence[Probe], wanted: set[int]) -> list[Rendered]:
        before = self._scoring.seconds
        scores, images = self._judged(batch, probes)
        share = (batch.seconds + self._scoring.seconds - before) / len(batch.indices)
        return [
            Rendered(
                index,
                labelled(image, probes[index]),
                {name: values[row] for name, values in scores.items()},
                share,
            )
            for row, (index, image) in enumerate(zip(batch.indices, images, strict=True))
            if index in wanted
        ]

    def _judged(self, batch: _Batch, probes: Sequence[Probe]) -> tuple[_Scores, list[Image.Image]]:
        """The scores of a batch, computed beside a render, or between its steps where both do not fit."""
        if not self._alone:
            try:
                return self._timed_score(batch, probes)
            except TrialFailed as failed:
                if not isinstance(failed.__cause__, RuntimeError) or not is_out_of_memory(failed.__cause__):
                    raise
            self._alone = True
            self.notices.append(
                "out of memory: a batch can't be scored while the next one is rendered; from now on it is "
                "scored between two steps"
            )
        with self._computing:
            if self._stream is not None:
                torch.cuda.empty_cache()
            return self._timed_score(batch, probes)

    def _timed_score(self, batch: _Batch, probes: Sequence[Probe]) -> tuple[_Scores, list[Image.Image]]:
        self._scoring.start()
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                return self._score(batch, probes)
        finally:
            self._scoring.stop()

    def _score(self, batch: _Batch, probes: Sequence[Probe]) -> tuple[_Scores, list[Image.Image]]:
        if self._stream is not None and batch.made is not None:
            # Of this batch alone: the stream that renders is busy with the next one already.
            self._stream.wait_event(batch.made)
            batch.images.record_stream(self._stream)
        shown = [(i, probes[i]) for i in batch.indices]
        scores = {name: score_images(scorer, batch.images, shown) for name, scorer in self.scorers.items()}
        return scores, to_pil(batch.images)


class PairEvaluator:
    """Two checkpoints and one live UNet between them, evaluated as one checkpoint is.

    `blocks` are the blocks that differ between A and B in `dtype`: the dimensions of the search. Those that
    differ in the files alone stay A's, and a notice says so. Text encoder and VAE are A's. inspections: of A
    and B, where the caller has them: with statistics they take reading both files twice. elements: those that
    are weighed beside the blocks. text_encoders: what `choose` may take, option -> the files whose mean it
    is. The rest as `Evaluator`. Raises InputError when the two do not fit each other or a scorer is not
    there.
    """

    def __init__(
        self,
        path_a: Path,
        path_b: Path,
        scorers: Sequence[ScorerSpec],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_batch: int = 16,
        prediction_type: str | None = None,
        embeddings: Path | None = None,
        inspections: tuple[Inspection, Inspection] | None = None,
        overlap: bool | None = None,
        compile: bool = False,
        elements: Sequence[str] = (),
        text_encoders: Mapping[str, Sequence[Path]] | None = None,
    ) -> None:
        self.path_a, self.path_b = path_a, path_b
        self.inspections = inspections or (inspect_checkpoint(path_a), inspect_checkpoint(path_b))
        self.notes = check_pair(*self.inspections)
        self._merged = Evaluator(
            path_a,
            scorers,
            device=device,
            dtype=dtype,
            max_batch=max_batch,
            prediction_type=prediction_type,
            embeddings=embeddings,
            overlap=overlap,
            compile=compile,
        )
        self.prediction_type = self._merged.components.prediction_type
        self.merge = LiveMerge(
            path_a,
            path_b,
            self._merged.components.unet,
            architecture=self.inspections[0].architecture,
            device=device,
            dtype=dtype,
            elements=elements,
        )
        self.blocks = self.merge.blocks
        self._own_text = self._merged.renderer.text
        self._texts = TextEncoders(
            text_encoders or {},
            self._merged.components,
            self.inspections[0].architecture,
            device,
            embeddings,
        )
        self._slopes = Slopes(self._merged.renderer, self._merged.scorers, self.merge)
        self._last: Evaluator | Slopes = self._merged
        self._given: BlockWeights = {}
        self._merge_seconds = 0.0
        if self.merge.held:
            self.notices.append(
                f"A and B differ in {', '.join(self.merge.held)} by less than {dtype_name(dtype)} can hold: "
                "these blocks are not searched and stay A's"
            )

    @property
    def notices(self) -> list[str]:
        """What was found out on the way that the user should know, oldest first; it grows."""
        return self._merged.notices

    @property
    def seconds(self) -> StageSeconds:
        """Where the time of the last trial went."""
        return replace(self._last.seconds, merge=self._merge_seconds)

    def evaluate(
        self,
        weights: BlockWeights,
        probes: Sequence[Probe],
        todo: Sequence[int] | None = None,
        between_steps: BetweenSteps | None = None,
    ) -> Iterator[list[Rendered]]:
        """Merge, then go on as `Evaluator.evaluate`.

        Raises InputError for wrong weights, and TrialFailed too when weights that differ from those before
        move no number of the UNet: its images would be the same again.
        """
        self._last = self._merged
        self._apply(weights)
        yield from self._merged.evaluate(probes, todo, between_steps)

    def choose(self, choices: Mapping[str, str]) -> None:
        """Render what follows with these choices; {}: with A's text encoder. Raises InputError."""
        option = choices.get(TEXT_ENCODER)
        self._merged.renderer.text = self._own_text if option is None else self._texts.conditioner(option)

    @property
    def differentiable(self) -> dict[str, bool]:
        """Whether gradients pass through each scorer."""
        return {name: scorer.differentiable for name, scorer in self._merged.scorers.items()}

    def slopes(
        self,
        weights: BlockWeights,
        probes: Sequence[Probe],
        rates: Mapping[str, float],
        todo: Sequence[int] | None = None,
        between_steps: BetweenSteps | None = None,
    ) -> Iterator[list[Rendered]]:
        """As `evaluate`, and each `Rendered` has slopes: their mean over all probes is that of the trial.

        That is d (mean of the images' scores) / d alpha by block. rates: scorer -> d (an image's score) / d
        (the scorer's raw number), see `scoring.reward.rates`; scorers that are not differentiable count as
        constant. Costs about three times as much. Scores are those of `evaluate` but for rounding.
        Raises NoSlopes, and is then to be called no more, where there is no gradient or no memory for it.
        """
        self._last = self._slopes
        self._apply(weights)
        yield from self._slopes.evaluate(probes, rates, todo, between_steps)

    def fit_batches(self, probes: Sequence[Probe], file: Path) -> None:
        """As `Evaluator.fit_batches`."""
        self._merged.fit_batches(probes, file)

    def file_weights(self, weights: BlockWeights) -> BlockWeights:
        """The weights for a file: `weights`, and 0 for the blocks that no search moves."""
        return {**uniform(self.merge.held, 0.0), **weights}

    def _apply(self, weights: BlockWeights) -> None:
        self._last.forget_seconds()
        self._merge_seconds = 0.0
        started = time.monotonic()
        self._move(weights)
        self._merge_seconds = time.monotonic() - started

    def _move(self, weights: BlockWeights) -> None:
        others = [name for name, alpha in weights.items() if self._given.get(name, alpha) != alpha]
        if others and not self.merge.moves(weights):
            raise TrialFailed(
                f"the merge changed nothing: these weights differ from those before in {', '.join(others)}, "
                "and yet every number of the UNet is the same to the bit; search blocks in which A and B "
                "differ, in steps that the dtype can hold"
            )
        self.merge.apply(weights)
        self._given = dict(weights)
