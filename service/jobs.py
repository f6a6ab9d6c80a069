"""Job requests, and the check that every request passes before it is queued."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.checkpoints import check_pair
from optimizer.search import SearchSettings
from scoring.errors import InputError
from scoring.probes import Probe, expand_probes, load_probes
from scoring.reward import TALLIES
from scoring.scorers.base import ScorerSpec
from scoring.scorers.registry import scorer_names
from service.catalog import Catalog, digest
from service.db.records import NewNode
from service.settings import Settings, describe

PredictionType = Literal["epsilon", "v_prediction"]
_NAME = re.compile(r"[\w\[(][\w .+()\[\]-]{0,119}", re.ASCII)

EXAMPLE: dict[str, Any] = {
    "name": "fluent and noto",
    "a": "fluent",
    "b": "noto",
    "probes": {
        "defaults": {"sampler": "DPM++ 2M Karras", "steps": 12, "cfg_scale": 5, "width": 64, "height": 64},
        "prompts": ["a red apple", "a sleeping cat"],
        "seeds": [1, 2, 3],
    },
    "heldout": {
        "defaults": {"sampler": "DPM++ 2M Karras", "steps": 12, "cfg_scale": 5, "width": 64, "height": 64},
        "prompts": ["a sailing boat"],
        "seeds": [11, 12],
    },
    "scorers": [{"scorer": "clip", "model": "reward"}],
    "search": {"sampler": "gp", "trials": 40, "seed": 7},
    "output": "fluent-noto",
}


class JobRequest(BaseModel):
    """A merge to be searched: two models, the images that judge it, and how long to look."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    name: str = Field(min_length=1, max_length=120, description="What people call this job.")
    a: str = Field(description="Name of model A in the models folder.")
    b: str = Field(description="Name of model B in the models folder.")
    probes: dict[str, Any] | list[Any] | str = Field(
        description="The images every trial renders: a list of probes, {defaults, prompts, seeds}, an A1111 "
        "payload, or the name of a file in the probes folder."
    )
    heldout: dict[str, Any] | list[Any] | str | None = Field(
        default=None,
        description="Probes that the search never sees; the winner, A, B and the uniform merge are "
        "scored on them at the end. The same forms as `probes`.",
    )
    scorers: list[ScorerSpec] = Field(
        min_length=1, description="Who judges the images, and with what weight."
    )
    tally: str = Field(
        default="arithmetic", description="How the scores of all probes become the trial's one score."
    )
    search: SearchSettings = Field(
        default_factory=lambda: SearchSettings.model_validate({}), description="How to search."
    )
    output: str | None = Field(
        default=None, description="Name of the merged checkpoint; made from A and B if not given."
    )
    prediction_type: PredictionType | None = Field(
        default=None, description="What the models predict; found out from the files if not given."
    )


class NodePlan(BaseModel):
    """All that a worker needs to run a node, resolved: nothing in it depends on where a job file lay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probes: list[Probe]
    heldout: list[Probe]
    scorers: list[ScorerSpec]
    tally: str
    search: SearchSettings
    prediction_type: PredictionType | None
    notes: list[str] = Field(default_factory=list)


def parse_request(data: dict[str, Any], source: str) -> JobRequest:
    """A request from parsed data. Raises InputError that names `source` and every wrong field."""
    try:
        return JobRequest.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}") from error


def validate_job(
    request: JobRequest, settings: Settings, catalog: Catalog, *, local: bool = False
) -> NewNode:
    """The node that a request asks for, once everything it names is known to exist and to fit.

    local: the request comes from this machine's user, who may name scorer weights anywhere; over HTTP
    they must lie in the scorers folder. Raises InputError.
    """
    safe_name(request.name, "name")
    if request.tally not in TALLIES:
        raise InputError(f"tally: unknown {request.tally!r}; known: {', '.join(TALLIES)}")
    probes = _probes(request.probes, "probes", settings)
    heldout = [] if request.heldout is None else _probes(request.heldout, "heldout", settings)
    scorers = _scorers(request.scorers, settings, local)
    a, b = catalog.inspect(request.a), catalog.inspect(request.b)
    notes = check_pair(a, b)
    output = safe_name(request.output or f"{Path(request.a).stem}-{Path(request.b).stem}", "output")
    _check_output_is_new(output, settings)
    plan = NodePlan(
        probes=probes,
        heldout=heldout,
        scorers=scorers,
        tally=request.tally,
        search=request.search,
        prediction_type=request.prediction_type,
        notes=list(notes),
    )
    return NewNode(
        a_model=request.a,
        b_model=request.b,
        a_sha256=digest(a),
        b_sha256=digest(b),
        output=output,
        plan=plan.model_dump(mode="json"),
    )


def safe_name(name: str, field: str) -> str:
    """`name`, when it can be a file's name on any system. Raises InputError."""
    if not _NAME.fullmatch(name) or name != name.strip() or name.endswith("."):
        raise InputError(
            f"{field}: {name!r} cannot be used as a name; take letters, digits, spaces and . _ + - ( ) [ ], "
            "at most 120, no slash, beginning with a letter or digit"
        )
    return name


def _check_output_is_new(output: str, settings: Settings) -> None:
    path = settings.outputs_dir / f"{output}.safetensors"
    if path.exists():
        raise InputError(f"output: {path} exists already; give another output name or move that file away")


def _probes(spec: dict[str, Any] | list[Any] | str, field: str, settings: Settings) -> list[Probe]:
    if isinstance(spec, str):
        return load_probes(_inside(spec, settings.probes_dir, field))
    return expand_probes(spec, field)


def _scorers(specs: Sequence[ScorerSpec], settings: Settings, local: bool) -> list[ScorerSpec]:
    known = scorer_names()
    seen: set[str] = set()
    for spec in specs:
        if spec.scorer not in known:
            raise InputError(f"scorers: unknown scorer {spec.scorer!r}; known: {', '.join(known)}")
        if spec.scorer in seen:
            raise InputError(f"scorers: {spec.scorer!r} is named twice; name each scorer once")
        seen.add(spec.scorer)
    return [_with_model(spec, settings, local) for spec in specs]


def _with_model(spec: ScorerSpec, settings: Settings, local: bool) -> ScorerSpec:
    if spec.model is None:
        return spec
    given = Path(spec.model).expanduser()
    field = f"scorers: model of {spec.scorer!r}"
    path = given if local and given.is_absolute() else _inside(spec.model, settings.scorers_dir, field)
    if not path.exists():
        raise InputError(f"{field}: {path} does not exist; put the weights there or correct the name")
    return spec.model_copy(update={"model": str(path)})


def _inside(name: str, folder: Path, field: str) -> Path:
    """The file that `name` means in `folder`. Raises InputError when it lies anywhere else."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{field}: {name!r} lies outside {folder}; put the file there and name it relative to it"
        )
    return path
