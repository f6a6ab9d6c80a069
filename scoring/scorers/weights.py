"""Where the weights of a scorer are: in the scorers folder, or in the hub cache of this machine.

Nothing is downloaded here or by any scorer unless the installation allows it (`allow_hub`); what is
missing is named with the commands that get it.
"""

from __future__ import annotations

import re
from pathlib import Path

from scoring.errors import InputError
from scoring.hub import NOT_ALLOWED
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import ScorerCard, card_of
from scoring.scorers.registry import check_options, check_scorer

OTHER_FORMATS = ["*.onnx", "*.msgpack", "*.h5", "*.ot", "*.tflite", "onnx/*", "openvino/*"]
"""What no scorer here reads."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def located(
    spec: ScorerSpec, scorers_dir: Path, *, anywhere: bool = False, hub: bool = False, field: str = "scorers"
) -> ScorerSpec:
    """`spec` as `create_scorer` takes it: its options checked and `model` the full path of what is there.

    anywhere: `model` may be an absolute path; else it must lie in `scorers_dir` or be the id of a model of
    the hub cache. hub: one that is not in that cache is fetched. field: where the scorer was named, for
    errors. Raises InputError for an unknown scorer, an option it does not have, a path that leaves the
    folder, and weights that are not there, with the commands that get them.
    """
    try:
        check_scorer(spec.scorer)
        check_options(spec)
        place = find_weights(spec, scorers_dir, anywhere=anywhere, hub=hub)
    except InputError as error:
        raise InputError(f"{field}: {error}") from error
    return spec.model_copy(update={"model": place})


def find_weights(
    spec: ScorerSpec, scorers_dir: Path, *, anywhere: bool = False, hub: bool = False
) -> str | None:
    """The full path of the weights that `spec` asks for, or none where it needs none.

    Without `model` they are looked for in `scorers_dir / spec.scorer`. Raises InputError as `located`.
    """
    card = card_of(spec.scorer)
    if card is not None and not card.needs_weights:
        if spec.model is not None:
            raise InputError(f"scorer {spec.scorer!r} needs no weights; leave out 'model'")
        return None
    if spec.model is None:
        if card is None:
            return None
        place = scorers_dir / spec.scorer
    else:
        place = _place(spec.scorer, spec.model, scorers_dir, anywhere=anywhere, hub=hub)
    missing = _missing(place, card)
    if missing:
        raise InputError(f"model of {spec.scorer!r}: {place} {missing}; {remedy(spec, scorers_dir)}")
    return str(place)


def where(name: str, scorers_dir: Path) -> str | None:
    """The full path of a scorer's weights: in its own folder, else in the hub cache; none if in neither."""
    card = card_of(name)
    for model in (None, card.hub if card else None):
        try:
            found = find_weights(ScorerSpec(scorer=name, model=model), scorers_dir)
        except InputError:
            continue
        return found
    return None


def commands(card: ScorerCard, scorers_dir: Path) -> list[str]:
    """The commands that put a scorer's weights into its own folder."""
    return [command.format(folder=scorers_dir / card.name) for command in card.commands]


def remedy(spec: ScorerSpec, scorers_dir: Path) -> str:
    """What to do about missing weights, in words that follow a semicolon."""
    if spec.model is not None and _HUB_ID.fullmatch(spec.model):
        return f"{NOT_ALLOWED}: get it with `hf download {spec.model}`, or put the files into {scorers_dir}"
    card = card_of(spec.scorer)
    if card is None or not card.commands:
        return "put the weights there or correct the name"
    return f"get them with `{' && '.join(commands(card, scorers_dir))}` or give 'model', where they are"


def hub_snapshot(model_id: str) -> Path | None:
    """The folder of a model in the hub cache of this machine, or none. Asks no network."""
    from huggingface_hub import constants

    # Most models are not there, and to find that out takes no slow import.
    if not (Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def given_path(spec: ScorerSpec, wanted: str) -> Path:
    """The path in `model`; where that is a folder and the scorer reads one file of it, that file's.

    wanted: what `model` must be, in words. Raises InputError without `model`.
    """
    if spec.model is None:
        raise InputError(f"scorer {spec.scorer!r} needs 'model': {wanted}")
    path = Path(spec.model)
    card = card_of(spec.scorer)
    if card is None or not card.head or not path.is_dir():
        return path
    return next((path / name for name in card.head if (path / name).is_file()), path / card.head[0])


def fetched(model_id: str) -> Path:
    """The folder of a model that is fetched from the hub into this machine's cache. Raises InputError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, ignore_patterns=OTHER_FORMATS))
    except Exception as error:  # of the hub, of HTTP, of the disk: a dozen unrelated kinds
        raise InputError(f"{model_id} can't be fetched from the hub: {error}") from error


def _place(scorer: str, model: str, scorers_dir: Path, *, anywhere: bool, hub: bool) -> Path:
    given = Path(model).expanduser()
    if anywhere and given.is_absolute():
        return given
    place = (scorers_dir / model).resolve()
    if not place.is_relative_to(scorers_dir.resolve()):
        raise InputError(
            f"model of {scorer!r}: {model!r} lies outside {scorers_dir}; put the weights there and name them "
            "relative to it"
        )
    if not place.exists() and _HUB_ID.fullmatch(model):
        return hub_snapshot(model) or (fetched(model) if hub else place)
    return place


def _missing(place: Path, card: ScorerCard | None) -> str:
    """What is missing at a place, in words; nothing where all is there."""
    if not place.exists():
        return "does not exist"
    if card is None:
        return ""
    if place.is_file() and not card.head:
        return "is a file, and this scorer takes a folder"
    wanted = [card.head, *card.files] if card.head and place.is_dir() else list(card.files)
    folder = place if place.is_dir() else place.parent
    lacking = [names[0] for names in wanted if not any((folder / name).is_file() for name in names)]
    return f"lacks {', '.join(lacking)}" if lacking else ""
