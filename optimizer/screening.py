"""Screening: UNets and text encoders of many models, each with each, render the same probes and are judged.

Each file is read once. The texts are encoded once per text encoder, which is dropped then; one UNet is in
memory at a time. What the folder holds already is neither rendered nor judged again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel

from optimizer.checkpoints import (
    TITLES,
    Architecture,
    build_tokenizer,
    find_architecture,
    find_prediction,
    load_component,
    scheduler_config,
)
from optimizer.checkpoints.bare import open_component
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import check_component, component_of
from optimizer.rendered import score_images
from optimizer.screen_folder import ScreenFolder, scorer_key
from optimizer.standings import Combination
from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.probes.images import labelled
from scoring.rendering.acceleration import accelerate
from scoring.rendering.components import Components, PredictionType, dtype_name
from scoring.rendering.conditioning import Conditioner
from scoring.rendering.fitting import fit_batches, shortened
from scoring.rendering.images import from_pil, to_pil
from scoring.rendering.renderer import Renderer
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.registry import create_scorer

log = logging.getLogger(__name__)
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Model:
    """A file, under the name that it has in all that is shown."""

    name: str
    path: Path


@dataclass(frozen=True)
class Models:
    """What is screened: every UNet with every text encoder, all with one VAE.

    prediction_type: of all UNets; found out from each file unless given.
    """

    unets: Sequence[Model]
    text_encoders: Sequence[Model]
    vae: Model
    prediction_type: str | None = None

    @property
    def combinations(self) -> list[Combination]:
        """Every UNet with every text encoder."""
        return [Combination(unet.name, text.name) for unet in self.unets for text in self.text_encoders]


@dataclass(frozen=True)
class Device:
    """Where and how images are rendered. batches: the file of measured batches, see `fit_batches`."""

    name: str = "cpu"
    dtype: torch.dtype = torch.float32
    max_batch: int = 16
    embeddings: Path | None = None
    batches: Path | None = None


@dataclass
class Screened:
    """What came out. images: of every probe, in order. scores: of every probe, scorer -> raw number.

    failures: combination -> why it has no images (and so no scores): a black image, NaN. rendered, judged:
    how many images and numbers were not in the folder before. hashes: file -> its sha256.
    """

    images: dict[Combination, list[Path]] = field(default_factory=dict)
    scores: dict[Combination, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[Combination, str] = field(default_factory=dict)
    rendered: int = 0
    judged: int = 0
    hashes: dict[Path, str] = field(default_factory=dict)


def check_models(models: Models) -> Architecture:
    """The architecture of all UNets. Reads headers only.

    Raises InputError for no model, two models of one name or one named twice, a file that lacks its component
    or holds that of another architecture.
    """
    for word, some in (("UNets", models.unets), ("text encoders", models.text_encoders)):
        if not some:
            raise InputError(f"no {word} to screen; name one or more")
        _check_names(word, some)
    architectures = {unet.name: _architecture(unet) for unet in models.unets}
    first = next(iter(architectures))
    for name, architecture in architectures.items():
        if architecture != architectures[first]:
            raise InputError(
                f"the UNet of {first} is that of {TITLES[architectures[first]]}, and that of {name} of "
                f"{TITLES[architecture]}; screen UNets of one architecture at a time"
            )
    for text_encoder in models.text_encoders:
        with open_component(text_encoder.path) as file:
            check_component(file, "text_encoder", architectures[first])
    with open_component(models.vae.path) as file:
        check_component(file, "vae", architectures[first])
    return architectures[first]


def _check_names(word: str, models: Sequence[Model]) -> None:
    seen: dict[str, Model] = {}
    for model in models:
        other = seen.get(model.name)
        seen[model.name] = model
        if other is None:
            continue
        if other.path.resolve() == model.path.resolve():
            raise InputError(f"{model.name} is named twice among the {word}; name each model once")
        raise InputError(
            f"{other.path} and {model.path} are both called {model.name}: no sheet could tell them apart; "
            "rename one"
        )


def _architecture(model: Model) -> Architecture:
    with open_component(model.path) as file:
        if file.entries and not any(component_of(key) == "unet" for key in file.entries):
            raise InputError(f"{model.path.name} has no UNet; screen it among the text encoders, or not")
        architecture = find_architecture(file)
        if architecture == "sdxl":
            raise InputError(f"{model.path.name} is SDXL, which cannot be rendered yet; use SD1.x or SD2.x")
        check_component(file, "unet", architecture)
        return architecture


class Screener:
    """Renders and judges what `folder` does not hold yet.

    cache: the folder where hashes of files are kept. told: called with a line at every step. Raises
    InputError as `check_models`, and for no probes.
    """

    def __init__(
        self,
        models: Models,
        probes: Sequence[Probe],
        scorers: Sequence[ScorerSpec],
        folder: Path,
        *,
        device: Device | None = None,
        cache: Path | None = None,
        told: Callable[[str], object] = log.info,
    ) -> None:
        if not probes:
            raise InputError("no probes to render; give at least one")
        self._architecture = check_models(models)
        self._models, self._probes, self._specs = models, list(probes), list(scorers)
        self._folder, self._device, self._told = ScreenFolder(folder), device or Device(), told
        self._predictions = {unet.name: self._prediction(unet) for unet in models.unets}
        self._hashes = HashCache(cache)
        self._tokenizer = build_tokenizer(self._architecture)
        self._texts: dict[str, Conditioner] = {}
        self._vae: AutoencoderKL | None = None

    def run(self) -> Screened:
        """All images and scores. A combination with a black image or NaN is a failure, and the others go on;
        run again, it is tried again. Raises InputError for probes that can't be rendered, and when a scorer
        fails; what is done by then stays in the folder."""
        found = Screened()
        files = [one.path for one in (*self._models.unets, *self._models.text_encoders, self._models.vae)]
        self._told(f"reading {len(set(files))} files for their hashes, where they are not known")
        found.hashes = {path: self._hashes.sha256(path) for path in files}
        combinations = len(self._models.combinations)
        for i, unet in enumerate(self._models.unets):
            for text_encoder, line in self._rendered(unet, found):
                number = i * len(self._models.text_encoders) + text_encoder + 1
                self._told(f"[{number}/{combinations}] {line}")
        # What is no longer needed must not lie in the device's memory beside the scorers.
        self._texts.clear()
        self._vae = None
        for spec in self._specs:
            self._judge(spec, found)
        return found

    def _rendered(self, unet: Model, found: Screened) -> Iterator[tuple[int, str]]:
        """One UNet with every text encoder, each with a line of what was done. It is loaded when the first
        image is missing, and gone at the end."""
        module: UNet2DConditionModel | None = None
        for i, text_encoder in enumerate(self._models.text_encoders):
            combination = Combination(unet.name, text_encoder.name)
            paths = [self._path(unet, text_encoder, probe) for probe in self._probes]
            missing = [probe for probe, path in enumerate(paths) if not path.exists()]
            if missing and module is None:
                module = cast("UNet2DConditionModel", self._load(unet, "unet"))
            line = f"{unet.name} x {text_encoder.name}: {len(paths) - len(missing)} images are there"
            if module is not None and missing:
                try:
                    self._render(module, self._predictions[unet.name], text_encoder, paths, missing)
                except TrialFailed as error:
                    found.failures[combination] = str(error)
                    yield i, f"{unet.name} x {text_encoder.name}: failed: {error}"
                    continue
                found.rendered += len(missing)
                line = f"{unet.name} x {text_encoder.name}: {len(missing)} of {len(paths)} images rendered"
            found.images[combination] = paths
            yield i, line

    @torch.no_grad()
    def _render(
        self,
        unet: UNet2DConditionModel,
        prediction: PredictionType,
        text_encoder: Model,
        paths: Sequence[Path],
        missing: Sequence[int],
    ) -> None:
        renderer = self._renderer(unet, prediction, text_encoder)
        if self._device.batches is not None:
            fit_batches(renderer, self._probes, self._device.batches)
        wanted = set(missing)
        for indices, images in renderer.render(self._probes, wanted):
            for index, image in zip(indices, to_pil(images), strict=True):
                if index in wanted:
                    self._folder.put_image(paths[index], labelled(image, self._probes[index]))

    def _renderer(
        self, unet: UNet2DConditionModel, prediction: PredictionType, text_encoder: Model
    ) -> Renderer:
        """A renderer with the texts of all probes encoded, by an encoder that is loaded only once."""
        if self._vae is None:
            self._vae = cast("AutoencoderKL", self._load(self._models.vae, "vae"))
        known = self._texts.get(text_encoder.name)
        module = None if known else self._load(text_encoder, "text_encoder")
        components = Components(
            unet=unet,
            vae=self._vae,
            # Never used where the texts are known.
            text_encoder=cast("CLIPTextModel", module),
            tokenizer=self._tokenizer,
            prediction_type=prediction,
            scheduler_config=scheduler_config(self._architecture, prediction),
        )
        device = torch.device(self._device.name)
        accelerate(unet, self._vae, device)
        text = known or Conditioner(components, device, self._device.embeddings)
        renderer = Renderer(components, device, self._device.max_batch, text=text)
        if module is not None:
            # In fewer steps, a prompt that changes on the way can say what it never says in all of them.
            renderer.encode([*self._probes, *map(shortened, self._probes)])
            # Its weights have done their work.
            module.to("meta")
            self._texts[text_encoder.name] = text
        return renderer

    def _load(self, model: Model, component: Any) -> torch.nn.Module:
        return load_component(
            model.path, component, self._architecture, device=self._device.name, dtype=self._device.dtype
        )

    def _prediction(self, unet: Model) -> PredictionType:
        with open_component(unet.path) as file:
            keys = file.entries.keys()
            told = self._models.prediction_type
            return find_prediction(self._architecture, file.path.stem, file.metadata, keys, told).type

    def _path(self, unet: Model, text_encoder: Model, probe: Probe) -> Path:
        made_of = {
            "unet": self._hashes.sha256(unet.path),
            "text_encoder": self._hashes.sha256(text_encoder.path),
            "vae": self._hashes.sha256(self._models.vae.path),
            "prediction_type": self._predictions[unet.name],
            "dtype": dtype_name(self._device.dtype),
        }
        return self._folder.image_path(unet.name, text_encoder.name, probe, made_of)

    def _judge(self, spec: ScorerSpec, found: Screened) -> None:
        """The numbers of one scorer for all images, as they are stored, in 8 bits: what is judged later is
        judged alike."""
        key, scorer = scorer_key(spec), None
        for combination, paths in found.images.items():
            known = [self._folder.score(path, key) for path in paths]
            if None in known:
                # All of them: numbers change by rounding with the batch, and must not by what was there.
                scorer = scorer or create_scorer(spec, self._device.name)
                known = list(self._judged(scorer, paths))
                self._folder.put_scores(key, zip(paths, cast("list[float]", known), strict=True))
                found.judged += len(paths)
            rows = found.scores.setdefault(combination, [{} for _ in paths])
            for row, number in zip(rows, cast("list[float]", known), strict=True):
                row[spec.scorer] = number
        if scorer is not None:
            self._told(f"{spec.scorer} has judged {len(found.images) * len(self._probes)} images")

    def _judged(self, scorer: Scorer, paths: Sequence[Path]) -> list[float]:
        by_size: dict[tuple[int, int], list[tuple[int, Image.Image]]] = defaultdict(list)
        for i, path in enumerate(paths):
            image = self._folder.image(path)
            by_size[image.size].append((i, image))
        numbers: dict[int, float] = {}
        for same in by_size.values():
            for start in range(0, len(same), _IMAGES_AT_ONCE):
                batch = same[start : start + _IMAGES_AT_ONCE]
                pixels = torch.stack([from_pil(image) for _, image in batch]).to(self._device.name)
                try:
                    scores = score_images(scorer, pixels, [(i, self._probes[i]) for i, _ in batch])
                except TrialFailed as error:
                    raise InputError(f"{error}; all images are kept: mend it and run again") from error
                numbers |= zip((i for i, _ in batch), scores, strict=True)
        return [numbers[i] for i in range(len(paths))]
