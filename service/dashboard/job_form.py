"""What a person filled in, as the job file that the API takes. Nothing of the browser is in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from optimizer.bracket import table
from optimizer.checkpoints.architectures import Architecture
from scoring.errors import InputError
from scoring.probes.infotext_lines import split_infotexts
from service.jobs import BracketSpec, JobRequest
from service.planning import lay_bracket
from service.settings import describe

SIZES: dict[Architecture, int] = {"emoji": 32, "sd1": 512, "sd2": 768, "sdxl": 1024}
"""The side in pixels that models of an architecture learnt on."""


OWN_SCHEDULE = "the sampler's own"


@dataclass
class Prompts:
    """Prompts with seeds. text: one prompt a line. seeds: numbers with commas between."""

    text: str = ""
    seeds: str = "1"


@dataclass
class ScorerChoice:
    """A scorer that was ticked. model: a name in the scorers folder; none where it has its own place."""

    scorer: str
    weight: float = 1.0
    model: str | None = None


@dataclass
class JobForm:
    """The fields of the form. files: what dropped files hold, by file name, as `probe_data` reads it."""

    name: str = ""
    output: str = ""
    leaves: list[str] = field(default_factory=list)
    bracket: str = "balanced"
    seeding: str = "given"
    probes: Prompts = field(default_factory=Prompts)
    heldout: Prompts = field(default_factory=lambda: Prompts(seeds="101"))
    negative: str = ""
    sampler: str = "DPM++ 2M"
    schedule: str = "Karras"
    steps: float | None = 20
    cfg_scale: float | None = 7
    width: float | None = 512
    height: float | None = 512
    infotexts: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    scorers: list[ScorerChoice] = field(default_factory=list)
    search: str = "gp"
    trials: float | None = 60
    final_trials: float | None = None
    minutes: float | None = None
    patience: float | None = None
    until_gain_per_hour: float | None = None
    seed: float | None = 0

    def job(self) -> dict[str, Any]:
        """The job file, with what was left as it is left out. Raises InputError that names the field."""
        if len(self.leaves) < 2:
            raise InputError("leaves: pick two models or more; they are merged pair by pair")
        if not self.scorers:
            raise InputError("scorers: tick one or more; without a judge no merge is better than another")
        probes = self._probes()
        heldout = self._product(self.heldout, "heldout")
        final = self._final_node()
        job: dict[str, Any] = {
            "name": self.name.strip() or self.default_name(),
            "leaves": list(self.leaves),
            "bracket": {"kind": self.bracket, "seeding": self.seeding},
            "probes": probes[0] if len(probes) == 1 else probes,
            "heldout": heldout,
            "scorers": [_scorer(choice) for choice in self.scorers],
            "search": _without_none(
                sampler=self.search,
                trials=_whole(self.trials, "search.trials"),
                seconds=None if self.minutes is None else 60 * self.minutes,
                patience=_whole(self.patience, "search.patience"),
                until_gain_per_hour=self.until_gain_per_hour,
                seed=_whole(self.seed, "search.seed"),
            ),
            "nodes": final,
            "output": self.output.strip() or None,
        }
        return {key: value for key, value in job.items() if value not in (None, {}, [])}

    def default_name(self) -> str:
        """What the job is called unless it is given a name: by its models."""
        return " + ".join(leaf.replace("/", "-") for leaf in self.leaves)[:100].strip()

    def table(self) -> list[tuple[str, str, str]]:
        """(O, A, B) of every merge, as the leaves and the bracket are now. Raises InputError."""
        bracket = BracketSpec.model_validate({"kind": self.bracket, "seeding": self.seeding})
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
            for p in probes
            if isinstance(p, dict)
        )

    def _probes(self) -> list[Any]:
        found: list[Any] = []
        product = self._product(self.probes, "probes")
        if product is not None:
            found.append(product)
        found += [{"infotext": text} for text in _infotexts(self.infotexts)]
        for data in self.files.values():
            found += data if isinstance(data, list) else [data]
        if not found:
            raise InputError(
                "probes: what shall be rendered? Write a prompt, paste an infotext or drop an image"
            )
        return found

    def _product(self, prompts: Prompts, where: str) -> dict[str, Any] | None:
        lines = [line.strip() for line in prompts.text.splitlines() if line.strip()]
        if not lines:
            return None
        defaults = _without_none(
            negative_prompt=self.negative.strip() or None,
            sampler=self.sampler,
            schedule=None if self.schedule == OWN_SCHEDULE else self.schedule,
            steps=_whole(self.steps, "probes.steps"),
            cfg_scale=None if self.cfg_scale is None else float(self.cfg_scale),
            width=_whole(self.width, "probes.width"),
            height=_whole(self.height, "probes.height"),
        )
        return {"defaults": defaults, "prompts": lines, "seeds": _seeds(prompts.seeds, where)}

    def _final_node(self) -> dict[str, Any]:
        trials = _whole(self.final_trials, "nodes")
        if trials is None or len(self.leaves) < 3:
            return {}
        return {self.table()[-1][0]: {"search": {"trials": trials}}}


def checked(job: dict[str, Any]) -> JobRequest:
    """A request from a job file. Raises InputError of which the first word is the field."""
    try:
        return JobRequest.model_validate(job)
    except ValidationError as error:
        raise InputError(describe(error)) from error


def written(job: dict[str, Any]) -> str:
    """A job file as YAML."""
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=100)


def field_of(message: str) -> str:
    """The field that an error is about: the first word of it."""
    word = message.split(":", maxsplit=1)[0].split(".", maxsplit=1)[0].split("[", maxsplit=1)[0].strip()
    known = {*JobRequest.model_fields, "model"}
    return _SECTION.get(word, word) if word in known else ""


_SECTION = {
    "output": "name",
    "bracket": "leaves",
    "model": "leaves",
    "nodes": "search",
    "watch": "scorers",
    "normalise": "scorers",
    "tally": "scorers",
    "prediction_type": "leaves",
}


def _scorer(choice: ScorerChoice) -> dict[str, Any]:
    weight = None if choice.weight == 1 else choice.weight
    return _without_none(scorer=choice.scorer, model=choice.model, weight=weight)


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _whole(value: float | None, where: str) -> int | None:
    if value is None:
        return None
    if value != int(value):
        raise InputError(f"{where}: {value} is no whole number")
    return int(value)


def _seeds(text: str, where: str) -> list[int]:
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"{where}: seeds are whole numbers with commas between, such as 1, 2, 3") from error
    if not found:
        raise InputError(f"{where}: give a seed or more, such as 1, 2, 3")
    return found


def _infotexts(text: str) -> list[str]:
    return (split_infotexts(text) or [text.strip()]) if text.strip() else []
