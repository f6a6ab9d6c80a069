"""What a person filled in, as the job file that the API takes. Nothing of the browser is in here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from optimizer.bracket import table
from optimizer.checkpoints.architectures import Architecture
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.scorers.cards import is_voted
from service.dashboard.form_texts import by_block, infotexts, lines, merges, seeds, whole
from service.jobs import BracketSpec, JobRequest
from service.planning import lay_bracket
from service.settings import describe

SIZES: dict[Architecture, int] = {"emoji": 32, "sd1": 512, "sd2": 768, "sdxl": 1024}
"""The side in pixels that models of an architecture learnt on."""


OWN_SCHEDULE = "the sampler's own"
KEEP = "its own"
MEAN = "the mean of all picked models"


@dataclass
class Prompts:
    """What is rendered: prompts with seeds, infotexts, and what was dropped.

    text: one prompt a line. seeds: numbers with commas between. infotexts: as A1111 writes them, one below
    the other. files: what dropped files hold, by file name, as `probe_data` reads it.
    """

    text: str = ""
    seeds: str = "1"
    infotexts: str = ""
    files: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScorerChoice:
    """A scorer that was ticked. model: a name in the scorers folder; none where it has its own place."""

    scorer: str
    weight: float = 1.0
    model: str | None = None


@dataclass
class PartChoice:
    """Where a component comes from: KEEP, MEAN, or a model's name; empty: as for all leaves."""

    text_encoder: str = ""
    vae: str = ""


@dataclass
class Space:
    """Constraints and choices of the search as they are written: docs/constraints.md.

    ties: a group a line; elements: a row of supermerger's a line; text_encoders: an option a line.
    """

    freeze: str = ""
    low: float | None = None
    high: float | None = None
    bounds: str = ""
    ties: str = ""
    symmetric: bool = False
    elements: str = ""
    text_encoders: str = ""


@dataclass
class Override:
    """What one merge does differently; what is left empty is as for all."""

    trials: float | None = None
    sampler: str = ""
    tally: str = ""


@dataclass
class JobForm:
    """The fields of the form. watch: none where nobody changed who watches."""

    name: str = ""
    output: str = ""
    priority: float | None = 0
    leaves: list[str] = field(default_factory=list)
    bracket: str = "balanced"
    seeding: str = "given"
    merges: str = ""
    parts: PartChoice = field(default_factory=lambda: PartChoice(KEEP, KEEP))
    leaf_parts: dict[str, PartChoice] = field(default_factory=dict)
    baked_vae: str = KEEP
    average: bool = True
    prediction_type: str = ""
    probes: Prompts = field(default_factory=Prompts)
    heldout: Prompts = field(default_factory=lambda: Prompts(seeds="101"))
    negative: str = ""
    sampler: str = "DPM++ 2M"
    schedule: str = "Karras"
    steps: float | None = 20
    cfg_scale: float | None = 7
    width: float | None = 512
    height: float | None = 512
    scorers: list[ScorerChoice] = field(default_factory=list)
    watch: list[ScorerChoice] | None = None
    tally: str = "arithmetic"
    normalise: bool = True
    vote_trials: float | None = 8
    votes: float | None = 24
    heldout_votes: float | None = 24
    search: str = "auto"
    trials: float | None = 60
    final_trials: float | None = None
    minutes: float | None = None
    patience: float | None = None
    until_gain_per_hour: float | None = None
    seed: float | None = 0
    racing: bool = False
    start: list[str] = field(default_factory=list)
    space: Space = field(default_factory=Space)
    overrides: dict[str, Override] = field(default_factory=dict)

    def job(self) -> dict[str, Any]:
        """The job file, with what was left as it is left out. Raises InputError that names the field."""
        return _filled({name: said() for name, said in self._said().items()})

    def draft(self) -> dict[str, Any]:
        """The job file of what can be said by now; the rest is left out."""
        known = {}
        for name, said in self._said().items():
            with suppress(InputError):
                known[name] = said()
        return _filled(known)

    def _said(self) -> dict[str, Callable[[], Any]]:
        """Every field of the job file, with what the form says of it."""
        return {
            "name": lambda: self.name.strip() or self.default_name(),
            "leaves": self._leaves,
            "components": self._components,
            "bracket": self._bracket,
            "probes": self._probes,
            "heldout": lambda: self._rendered(self.heldout, "heldout"),
            "scorers": self._scorers,
            "watch": lambda: None if self.watch is None else [_scorer(choice) for choice in self.watch],
            "normalise": lambda: None if self.normalise else False,
            "tally": lambda: None if self.tally == "arithmetic" else self.tally,
            "votes": self._votes,
            "search": self._search,
            "nodes": self._nodes,
            "average": lambda: None if self.average else False,
            "priority": lambda: whole(self.priority, "priority") or None,
            "prediction_type": lambda: self.prediction_type or None,
            "output": self._output,
        }

    def default_name(self) -> str:
        """What the job is called unless it is given a name: by its models."""
        return " + ".join(leaf.replace("/", "-") for leaf in self.leaves)[:100].strip()

    def table(self) -> list[tuple[str, str, str]]:
        """(O, A, B) of every merge, as the leaves and the bracket are now. Raises InputError."""
        bracket = BracketSpec.model_validate(self._bracket())
        request = JobRequest.model_construct(leaves=list(self.leaves), bracket=bracket)
        return [(row["o"], row["a"], row["b"]) for row in table(lay_bracket(request, self.leaves))]

    def images_per_trial(self) -> int | None:
        """How many images a trial renders; none while that cannot be said."""
        try:
            probes = self._probes()
        except InputError:
            return None
        return sum(
            len(p["prompts"]) * len(p["seeds"]) if "prompts" in p else 1
            for p in (probes if isinstance(probes, list) else [probes])
            if isinstance(p, dict)
        )

    def most_trials(self) -> int:
        """Trials of all merges together, at most. Raises InputError."""
        known = [o for o, _, _ in self.table()]
        each = {o: int(self.trials or 0) for o in known}
        if len(known) > 1 and self.final_trials:
            each[known[-1]] = int(self.final_trials)
        each |= {o: int(own.trials) for o, own in self.overrides.items() if own.trials and o in each}
        return sum(each.values())

    def is_voted(self) -> bool:
        """Whether people are among the scorers."""
        return any(is_voted(choice.scorer) for choice in self.scorers)

    def _leaves(self) -> list[str | dict[str, Any]]:
        if len(self.leaves) < 2:
            raise InputError("leaves: pick two models or more; they are merged pair by pair")
        return [self._leaf(name) for name in self.leaves]

    def _components(self) -> dict[str, Any]:
        shared = _parts(self.parts, self.leaves)
        return {component: choice for component, choice in shared.items() if choice != "keep"}

    def _leaf(self, name: str) -> str | dict[str, Any]:
        own = _parts(self.leaf_parts.get(name, PartChoice()), self.leaves)
        return {"name": name, **own} if own else name

    def _bracket(self) -> dict[str, Any]:
        if self.bracket == "explicit":
            return {"kind": "explicit", "table": merges(self.merges, "bracket.table")}
        return {"kind": self.bracket, "seeding": self.seeding}

    def _scorers(self) -> list[dict[str, Any]]:
        if not self.scorers:
            raise InputError("scorers: tick one or more; without a judge no merge is better than another")
        return [_scorer(choice) for choice in self.scorers]

    def _votes(self) -> dict[str, Any] | None:
        if not self.is_voted():
            return None
        return _without_none(
            trials=whole(self.vote_trials, "votes.trials"),
            votes=whole(self.votes, "votes.votes"),
            heldout=whole(self.heldout_votes, "votes.heldout"),
        )

    def _search(self) -> dict[str, Any]:
        return _without_none(
            sampler=self.search,
            trials=whole(self.trials, "search.trials"),
            seconds=None if self.minutes is None else 60 * self.minutes,
            patience=whole(self.patience, "search.patience"),
            until_gain_per_hour=self.until_gain_per_hour,
            seed=whole(self.seed, "search.seed"),
            racing=self.racing or None,
            start=list(self.start) or None,
            space=_space(self.space) or None,
            choices={"text_encoder": among} if (among := lines(self.space.text_encoders)) else None,
        )

    def _nodes(self) -> dict[str, Any]:
        known = [o for o, _, _ in self.table()]
        said = {o: _override(own, f"nodes.{o}") for o, own in self.overrides.items() if o in known}
        final = whole(self.final_trials, "nodes")
        if final is not None and len(known) > 1:
            own = said.setdefault(known[-1], {})
            own["search"] = {"trials": final, **own.get("search", {})}
        return {o: own for o, own in said.items() if own}

    def _output(self) -> str | dict[str, Any] | None:
        name = self.output.strip() or None
        if self.baked_vae == KEEP:
            return name
        return _without_none(name=name, vae=_choice(self.baked_vae, self.leaves))

    def _probes(self) -> Any:
        probes = self._rendered(self.probes, "probes")
        if probes is None:
            raise InputError(
                "probes: what shall be rendered? Write a prompt, paste an infotext or drop an image"
            )
        return probes

    def _rendered(self, prompts: Prompts, at: str) -> Any:
        """What one of the two says, as the job file has it; none of nothing."""
        found: list[Any] = []
        if lines(prompts.text):
            found.append(self._product(prompts, at))
        found += [{"infotext": text} for text in infotexts(prompts.infotexts)]
        for data in prompts.files.values():
            found += data if isinstance(data, list) else [data]
        return found[0] if len(found) == 1 else found or None

    def _product(self, prompts: Prompts, at: str) -> dict[str, Any]:
        defaults = _without_none(
            negative_prompt=self.negative.strip() or None,
            sampler=self.sampler,
            schedule=None if self.schedule == OWN_SCHEDULE else self.schedule,
            steps=whole(self.steps, "probes.defaults.steps"),
            cfg_scale=None if self.cfg_scale is None else float(self.cfg_scale),
            width=whole(self.width, "probes.defaults.width"),
            height=whole(self.height, "probes.defaults.height"),
        )
        _check_defaults(defaults)
        return {"defaults": defaults, "prompts": lines(prompts.text), "seeds": seeds(prompts.seeds, at)}


def checked(job: dict[str, Any]) -> JobRequest:
    """A request from a job file. Raises InputError of which the first word is the field."""
    try:
        return JobRequest.model_validate(job)
    except ValidationError as error:
        raise InputError(describe(error)) from error


def written(job: dict[str, Any]) -> str:
    """A job file as YAML."""
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=100)


def places_of(message: str) -> list[str]:
    """The places in the job file that an error is about, from the very field to its part of the form."""
    said = _INDEX.sub("", message.split(":", maxsplit=1)[0]).strip()
    words = said.split(".")
    if words[0] not in {*JobRequest.model_fields, "model", "space"}:
        return []
    exact = [".".join(words[:count]) for count in range(len(words), 0, -1)]
    return [*exact, *([_SECTION[words[0]]] if words[0] in _SECTION else [])]


_INDEX = re.compile(r"\[[^\]]*\]|\.\d+(?=\.|$)")
_SECTION = {
    "output": "name",
    "priority": "name",
    "bracket": "leaves",
    "components": "leaves",
    "model": "leaves",
    "nodes": "search",
    "space": "search.space",
    "watch": "scorers",
    "normalise": "scorers",
    "tally": "scorers",
    "votes": "scorers",
    "average": "search",
    "prediction_type": "leaves",
}


def _filled(job: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing; an empty `watch` says that nobody watches."""
    return {name: value for name, value in job.items() if name == "watch" or value not in (None, {}, [], "")}


def _check_defaults(defaults: dict[str, Any]) -> None:
    """Raise InputError that names the very field where the defaults are those of no probe."""
    try:
        Probe(prompt="", seed=0, **defaults)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"probes.defaults.{first['loc'][0]}: {first['msg']}") from error


def _scorer(choice: ScorerChoice) -> dict[str, Any]:
    weight = None if choice.weight == 1 else choice.weight
    return _without_none(scorer=choice.scorer, model=choice.model, weight=weight)


def _parts(choice: PartChoice, leaves: Sequence[str]) -> dict[str, Any]:
    return _without_none(text_encoder=_choice(choice.text_encoder, leaves), vae=_choice(choice.vae, leaves))


def _choice(said: str, leaves: Sequence[str]) -> Any:
    """As the job file says it; none where nothing is said."""
    if said == MEAN:
        return {"uniform": list(leaves)}
    if said == KEEP:
        return "keep"
    return {"from": said} if said else None


def _space(space: Space) -> dict[str, Any]:
    at = "search.space"
    bounds = by_block(space.bounds, f"{at}.bounds", "M00: [0, 0.5], IN00-IN02: [0.2, 0.8]")
    if space.low is not None or space.high is not None:
        bounds = {"all": [space.low or 0.0, 1.0 if space.high is None else space.high], **bounds}
    said = {
        "freeze": by_block(space.freeze, f"{at}.freeze", "TIME_EMBED: 0, OUT: 0.25"),
        "bounds": bounds,
        "ties": lines(space.ties),
        "symmetric": space.symmetric,
        "elements": lines(space.elements),
    }
    return {name: value for name, value in said.items() if value}


def _override(own: Override, at: str) -> dict[str, Any]:
    search = _without_none(trials=whole(own.trials, f"{at}.search.trials"), sampler=own.sampler or None)
    return _without_none(search=search or None, tally=own.tally or None)


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
