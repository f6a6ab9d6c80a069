"""Job requests: what a person asks for, as it comes in over HTTP or from a job file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.drafts import draft_of
from optimizer.search import SearchSettings
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import is_voted
from service.db.states import TrialKind
from service.leaves import AnyLeaf, AnyOutput, OutputFile, Part, Parts, SharedParts
from service.settings import describe

PredictionType = Literal["epsilon", "v_prediction"]
ProbesSpec = dict[str, Any] | list[Any] | str
"""A probe, {defaults, prompts, seeds}, an A1111 payload, {infotext}, a file's name in the probes folder, or
a list of these (docs/probes.md)."""

_DEFAULTS = {"sampler": "DPM++ 2M Karras", "steps": 12, "cfg_scale": 5, "width": 64, "height": 64}
EXAMPLE: dict[str, Any] = {
    "name": "four styles",
    "leaves": ["fluent", "noto", "twemoji", "flat"],
    "probes": {"defaults": _DEFAULTS, "prompts": ["a red apple", "a sleeping cat"], "seeds": [1, 2, 3]},
    "heldout": {"defaults": _DEFAULTS, "prompts": ["a sailing boat"], "seeds": [11, 12]},
    "scorers": [{"scorer": "clip", "model": "reward"}],
    "search": {"sampler": "gp", "trials": 40, "seed": 7},
    "nodes": {"03b": {"search": {"trials": 80}}},
    "output": "four-styles",
}


class TableRow(BaseModel):
    """One merge of an explicit bracket."""

    model_config = ConfigDict(extra="forbid")

    o: str = Field(description="Name of the node.")
    a: str = Field(description="A leaf, another row's `o`, or `best(x,y)`: the better of several.")
    b: str = Field(description="The same for B.")


class BracketSpec(BaseModel):
    """The shape of the tree; docs/bracket.md tells the rules."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["balanced", "sequential", "explicit"] = Field(
        default="balanced",
        description="balanced: rounds of pairs; sequential: (((a+b)+c)+d); explicit: as `table` says.",
    )
    seeding: Literal["given", "score", "distance"] = Field(
        default="given",
        description="Order of the leaves: as given; by score, best first, each screened alone before the "
        "first merge; or by distance, the closest two UNets beside each other.",
    )
    first: str = Field(default="01b", description="Name of the first node; the next ones count up from it.")
    table: list[TableRow] | None = Field(default=None, description="For explicit: the merges, O = A + B.")


class VoteSettings(BaseModel):
    """How often people are asked, where the scorer `human` is one of the job's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(
        default=8,
        ge=2,
        le=1000,
        description="A round: so many trials are rendered before people compare them.",
    )
    votes: int = Field(
        default=24,
        ge=1,
        le=100_000,
        description="Votes that a round needs before the search goes on; a shorter one needs its share.",
    )
    heldout: int = Field(
        default=24,
        ge=1,
        le=100_000,
        description="Votes on the held-out probes, at the end of a merge.",
    )


class NodeOverrides(BaseModel):
    """What one node does differently from its job."""

    model_config = ConfigDict(extra="forbid")

    search: dict[str, Any] = Field(
        default_factory=dict, description="Search settings that replace the job's, such as trials or sampler."
    )
    probes: ProbesSpec | None = None
    heldout: ProbesSpec | None = None
    tally: str | None = None


class JobRequest(BaseModel):
    """A tree of merges to be searched: the leaves, the images that judge, and how long to look."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    name: str = Field(min_length=1, max_length=120, description="What people call this job.")
    leaves: list[AnyLeaf] = Field(
        default_factory=list,
        description="Two or more models of the models folder, by name, or checkpoints of components of such "
        "models (docs/components.md); an explicit bracket names its own.",
    )
    components: SharedParts = Field(
        default_factory=SharedParts,
        description="Text encoder and VAE of all leaves: keep, {from: model} or {uniform: [models]}.",
    )
    bracket: BracketSpec = Field(
        default_factory=BracketSpec, description="Which leaves and results are merged with which."
    )
    probes: ProbesSpec = Field(
        description="The images every trial renders: probes, {defaults, prompts, seeds}, A1111 payloads, "
        "{infotext: ...}, or names of files in the probes folder (YAML, JSON, TOML, an infotext as .txt, a "
        "PNG of A1111's); one of them or a list."
    )
    heldout: ProbesSpec | None = Field(
        default=None,
        description="Probes that the search never sees; the winner, A, B and the uniform merge are "
        "scored on them at the end. The same forms as `probes`.",
    )
    scorers: list[ScorerSpec] = Field(
        min_length=1, description="Who judges the images, and with what weight."
    )
    normalise: bool = Field(
        default=True,
        description="With several scorers: measure each one's numbers by their spread over the probes as the "
        "first leaf renders them. False: a weighted mean of raw numbers. A single scorer counts raw.",
    )
    watch: list[ScorerSpec] | None = Field(
        default=None,
        description="Scorers that judge every image and never count: docs/watch.md. If not given, the guards "
        "that are installed; [] for none.",
    )
    tally: str = Field(
        default="arithmetic", description="How the scores of all probes become the trial's one score."
    )
    votes: VoteSettings = Field(
        default_factory=VoteSettings, description="How often people are asked; with the scorer `human` only."
    )
    search: SearchSettings = Field(
        default_factory=lambda: SearchSettings.model_validate({}), description="How every node searches."
    )
    nodes: dict[str, NodeOverrides] = Field(
        default_factory=dict, description="By name of the node (`autombw bracket` prints them)."
    )
    average: bool = Field(
        default=True,
        description="With three leaves or more: score the uniform merge of all leaves too, as what the tree "
        "has to beat.",
    )
    priority: int = Field(default=0, ge=-100, le=100, description="Jobs of a higher priority come first.")
    output: AnyOutput | None = Field(
        default=None,
        description="Name of the final checkpoint; from the two leaves, or the job's name, if not given. Or "
        "{name, text_encoder, vae}: with components that are baked in.",
    )
    prediction_type: PredictionType | None = Field(
        default=None, description="What the models predict; found out from the files if not given."
    )

    @property
    def leaf_names(self) -> list[str]:
        """The leaves by name, in order."""
        return [leaf if isinstance(leaf, str) else leaf.name for leaf in self.leaves]

    @property
    def output_name(self) -> str | None:
        """The name of the final checkpoint, where it is given."""
        return self.output.name if isinstance(self.output, OutputFile) else self.output

    @property
    def baked(self) -> OutputFile:
        """What the final checkpoint has that its A has not."""
        return self.output if isinstance(self.output, OutputFile) else OutputFile()

    def with_output(self, name: str) -> JobRequest:
        """The same for another file."""
        named = name if not self.baked.replaced else self.baked.model_copy(update={"name": name})
        return self.model_copy(update={"output": named})


class NodePlan(BaseModel):
    """All that a worker needs to run a node, resolved: nothing in it depends on where a job file lay.

    parts: of a leaf that is put together, where every component comes from; of a merge, what its file has
    that A has not. normalise: whether there are several scorers that are measured by the job's reference.
    encoders: the models among the text encoders that the search chooses from, by option. guards: those of
    `watch` that are watched both ways. votes: how often people are asked, where they judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    probes: list[Probe]
    heldout: list[Probe]
    scorers: list[ScorerSpec]
    normalise: bool = False
    watch: list[ScorerSpec] = Field(default_factory=list)
    guards: list[str] = Field(default_factory=list)
    tally: str
    votes: VoteSettings = Field(default_factory=VoteSettings)
    search: SearchSettings
    prediction_type: PredictionType | None
    encoders: dict[str, Part] = Field(default_factory=dict)
    parts: Parts = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    def probes_of(self, kind: TrialKind) -> list[Probe]:
        """What a trial of this kind renders."""
        if kind is TrialKind.SEARCH:
            return self.probes
        if kind is not TrialKind.DRAFT:
            return self.heldout
        assert self.search.drafts is not None, "only such a search has drafts"
        return [draft_of(probe, self.search.drafts) for probe in self.probes]

    @property
    def all_probes(self) -> list[Probe]:
        """All that is rendered."""
        drafts = self.probes_of(TrialKind.DRAFT) if self.search.drafts is not None else []
        return [*self.probes, *drafts, *self.heldout]

    @property
    def automatic(self) -> list[ScorerSpec]:
        """Those that count and need no people."""
        return [spec for spec in self.scorers if not is_voted(spec.scorer)]

    @property
    def judges(self) -> list[ScorerSpec]:
        """All that judge an image once it is rendered: those that count, then those that only watch."""
        return [*self.automatic, *self.watch]

    @property
    def voted(self) -> bool:
        """Whether people have a part in the scores."""
        return len(self.automatic) < len(self.scorers)


def parse_request(data: dict[str, Any], source: str) -> JobRequest:
    """A request from parsed data. Raises InputError that names `source` and every wrong field."""
    try:
        return JobRequest.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}") from error
