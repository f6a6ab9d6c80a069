"""A request becomes the nodes of a job, once everything it names is known to exist and to fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optimizer.bracket import (
    Bracket,
    Pick,
    balanced,
    explicit,
    input_text,
    levels,
    seeded_by_distance,
    sequential,
)
from optimizer.checkpoints import Inspection, blocks_of, check_pair
from optimizer.checkpoints.architectures import Architecture, expected_tensors
from optimizer.checkpoints.hashes import HashCache
from optimizer.choices import ChoiceSettings
from optimizer.distances import unet_distances
from optimizer.merging import groups_of
from optimizer.search import BASELINES, SearchSettings, baseline_candidate, may_win
from optimizer.space import Space
from optimizer.warm_start import check_fits, start_weights, weights_here
from scoring.errors import InputError
from scoring.probes import Reading, joined
from scoring.reward import TALLIES, TALLIES_OF_ANY_SIGN
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import check_optimised, is_guard, is_voted
from scoring.scorers.registry import scorer_names
from scoring.scorers.weights import located
from service.catalog import Catalog, digest
from service.choosing import EncoderModels, check_parents
from service.compositions import Leaves, part_names, parts_text
from service.db.records import NewJob, NewNode
from service.db.states import NodeKind
from service.db.tree import RANKED, ranked
from service.jobs import JobRequest, NodeOverrides, NodePlan, ProbesSpec
from service.leaves import Part, Parts
from service.probes import ProbeSource
from service.settings import Settings, describe

AVERAGE_NAME = "average"
REFERENCE_NAME = "reference"
GUARDS_BY_DEFAULT = ("sharpness", "colourfulness")
"""Watched where a job does not say what is: blur, noise and glare are what most scorers fall for."""
_NAME = re.compile(r"[\w\[(][\w .+()\[\]-]{0,119}", re.ASCII)


def validate_job(request: JobRequest, settings: Settings, catalog: Catalog, *, local: bool = False) -> NewJob:
    """The job that a request asks for.

    local: the request comes from this machine's user, who may name scorer weights anywhere; over HTTP
    they must lie in the scorers folder. Raises InputError.
    """
    safe_name(request.name, "name")
    names = leaf_names(request)
    leaves = Leaves(request, names, catalog, HashCache(settings.cache_dir))
    plans = Plans(request, settings, leaves.header(names[0]).architecture, local=local)
    inspections = inspect_leaves(leaves, names)
    if request.bracket.seeding == "distance":
        files = [leaves.unet_file(name) for name in names]
        names = list(seeded_by_distance(names, unet_distances(files)))
    nodes = lay_nodes(request, lay_bracket(request, names), plans, leaves, inspections)
    for node in nodes:
        _check_output_is_new(node.output, settings)
    return NewJob(
        name=request.name,
        request=request.model_dump(mode="json"),
        leaves={name: inspections[name].sha256 for name in names},
        nodes=nodes,
        priority=request.priority,
    )


def leaf_names(request: JobRequest) -> list[str]:
    """The leaves of a request, by its list or its table. Raises InputError for a bracket that can't be."""
    if request.bracket.kind == "explicit":
        return list(lay_bracket(request, request.leaf_names).leaves)
    if request.bracket.table is not None:
        raise InputError("bracket: a table is for kind `explicit`; set that kind or leave the table out")
    # Laid before any file is read: a leaf that is named twice would be compared with itself.
    lay_bracket(request, request.leaf_names)
    return request.leaf_names


def lay_bracket(request: JobRequest, leaves: Sequence[str]) -> Bracket:
    """The bracket that a request asks for over these leaves (`#1`, `#2`, … where they are ranked by score).

    Raises InputError.
    """
    spec = request.bracket
    if spec.kind == "explicit":
        if spec.table is None:
            raise InputError("bracket: kind `explicit` needs a table, such as [{o: 01b, a: one, b: two}]")
        if spec.seeding != "given":
            raise InputError("bracket: a table says where each leaf goes; leave out `seeding`")
        return explicit([row.model_dump() for row in spec.table], list(leaves) or None)
    lay = balanced if spec.kind == "balanced" else sequential
    bracket = lay(leaves, spec.first)
    return lay(ranked(len(leaves)), spec.first) if spec.seeding == "score" else bracket


def inspect_leaves(leaves: Leaves, names: Sequence[str]) -> dict[str, Inspection]:
    """The leaves' inspections. Raises InputError unless they exist, fit each other and differ."""
    # Headers first: what does not fit is refused before whole files are read and hashed.
    headers = [leaves.header(name) for name in names]
    for header in headers[1:]:
        check_pair(headers[0], header)
    inspections = {name: leaves.inspect(name) for name in names}
    known: dict[tuple[str, ...], str] = {}
    for name in names:
        other = known.setdefault(leaves.unet_of(name), name)
        if other == name:
            continue
        if leaves.composed.keys() & {name, other}:
            raise InputError(
                f"leaves: {other!r} and {name!r} have the same UNet, so that no merge of them moves "
                "anything; leave one out"
            )
        raise InputError(
            f"leaves: {other!r} and {name!r} have the same content under two names (sha256 "
            f"{digest(inspections[name])[:12]}…); name it once"
        )
    first, *others = inspections.values()
    for inspection in others:
        check_pair(first, inspection)
    return inspections


def check_places(bracket: Bracket, inspections: Mapping[str, Inspection], *, chosen: bool) -> None:
    """Raise InputError unless every leaf that is to be A is complete: text encoder and VAE come from A.

    chosen: whether a merge may take its B's text encoder; then every leaf has to be.
    """
    places = {input_text(node.a) for node in bracket.nodes}
    # Leaves that are ranked first may come to stand anywhere.
    anywhere = chosen or any(place.startswith(RANKED) for place in places)
    first = inspections if anywhere else places & set(inspections)
    for name in first:
        check_pair(inspections[name], next(i for other, i in inspections.items() if other != name))


def lay_nodes(
    request: JobRequest,
    bracket: Bracket,
    plans: Plans,
    leaves: Leaves,
    inspections: Mapping[str, Inspection],
) -> list[NewNode]:
    """The nodes of a job: the bracket's merges, what the tree has to beat, the screenings, the reference, and
    the leaves that are put together.

    Raises InputError for an override of a node that isn't there, for names that cannot be files, and where
    two nodes would have one name.
    """
    output = safe_name(request.output_name or _default_output(request), "output")
    architecture = next(iter(inspections.values())).architecture
    baked = leaves.baked(architecture)
    plans.check_overrides([node.output for node in bracket.nodes])
    _check_choices(bracket, plans, inspections, baked)
    if plans.voted:
        _check_voted(request, bracket)
    _check_search_points(request, bracket, plans, inspections)
    level = levels(bracket)
    final = bracket.nodes[-1].output
    nodes = [
        NewNode(
            name=node.output,
            kind=NodeKind.MERGE,
            level=level[node.output],
            a_input=input_text(node.a),
            b_input=input_text(node.b),
            output=output if node.output == final else safe_name(f"{output}-{node.output}", "bracket"),
            plan=plans.of(
                node.output,
                [
                    *_pair_notes(inspections, input_text(node.a), input_text(node.b)),
                    *(_baked_notes(baked) if node.output == final else ()),
                ],
                baked if node.output == final else {},
            ),
        )
        for node in bracket.nodes
    ]
    if plans.averaged and len(bracket.leaves) > 2:
        nodes.append(scored_node(AVERAGE_NAME, NodeKind.AVERAGE, None, output, plans))
    if request.bracket.seeding == "score":
        nodes += [
            scored_node(f"screen-{number}", NodeKind.SCREEN, leaf, output, plans)
            for number, leaf in enumerate(inspections, 1)
        ]
    if plans.normalise:
        leaf = next(iter(inspections))
        nodes.append(scored_node(REFERENCE_NAME, NodeKind.REFERENCE, leaf, output, plans))
    composed = [_composed_node(leaf, output, plans, leaves) for leaf in leaves.composed]
    taken = {node.name for node in nodes} & set(leaves.composed)
    if taken:
        raise InputError(f"leaves: {min(taken)!r} is the name of another node of the job; rename the leaf")
    return [*nodes, *composed]


def _check_voted(request: JobRequest, bracket: Bracket) -> None:
    """Raise InputError where scores of two merges are compared: people compare within one."""
    if request.bracket.seeding == "score":
        raise InputError(
            "bracket.seeding: people compare the trials of one merge, so leaves can't be ranked by their "
            "votes; take seeding `given` or `distance`, or leave `human` out"
        )
    sides = [side for node in bracket.nodes for side in (node.a, node.b)]
    pick = next((side for side in sides if isinstance(side, Pick)), None)
    if pick is not None:
        raise InputError(
            f"bracket: {input_text(pick)} takes the better of two merges, and people compare the trials of "
            "one merge, so votes don't say which that is; take kind `sequential`, a table without picks, 2, "
            "3, 4, 6, 8 or 16 leaves, or leave `human` out"
        )


def _check_search_points(
    request: JobRequest, bracket: Bracket, plans: Plans, inspections: Mapping[str, Inspection]
) -> None:
    """Raise InputError for start points and histories that do not fit the models, or for a tree's history."""
    if request.search.imported and len(bracket.nodes) > 1:
        raise InputError("search.imported: a history is of one pair; give it to its node under `nodes`")
    blocks = blocks_of(next(iter(inspections.values())).architecture)
    for node in bracket.nodes:
        search = plans.search(node.output)
        check_fits(search.start, search.imported, blocks)


def _check_choices(
    bracket: Bracket, plans: Plans, inspections: Mapping[str, Inspection], baked: Parts
) -> None:
    """Raise InputError where a choice can't be made: of what a leaf lacks, of one text encoder said twice, or
    of one that another takes the place of in the file."""
    made = {node.output: plans.search(node.output).choices for node in bracket.nodes}
    check_places(bracket, inspections, chosen=any(choices.options for choices in made.values()))
    for node in bracket.nodes:
        a, b = (inspections.get(input_text(side)) for side in (node.a, node.b))
        check_parents(made[node.output], plans.encoders(made[node.output]), node.output, a, b)
    if made[bracket.nodes[-1].output].text_encoder and "text_encoder" in baked:
        raise InputError(
            "output.text_encoder: the final merge chooses its text encoder, and another would take its place "
            "in the file; leave out output.text_encoder, or search.choices of the final node"
        )


def scored_node(name: str, kind: NodeKind, leaf: str | None, output: str, plans: Plans) -> NewNode:
    """A node that scores one checkpoint without a search."""
    plan = plans.of(name, [])
    return NewNode(name, kind, 0, leaf, None, safe_name(f"{output}-{name}", "output"), plan)


def _composed_node(leaf: str, output: str, plans: Plans, leaves: Leaves) -> NewNode:
    """A node that puts a leaf together; it has the leaf's name, and its file is the leaf."""
    plan = plans.of(leaf, leaves.notes(leaf), leaves.parts(leaf))
    return NewNode(leaf, NodeKind.COMPOSE, 0, None, None, safe_name(f"{output}-{leaf}", "leaves"), plan)


def _baked_notes(baked: Parts) -> list[str]:
    if not baked:
        return []
    return [f"the file has its own {parts_text(part_names(baked))}; trials are rendered with those of A"]


class Plans:
    """The plans of a job's nodes: the job's own, and what single nodes do differently.

    architecture: of the leaves. Raises InputError for whatever the request names that isn't there.
    """

    def __init__(
        self, request: JobRequest, settings: Settings, architecture: Architecture, *, local: bool
    ) -> None:
        self._request = request
        self._source = ProbeSource(request.name, settings, architecture)
        self._architecture: Architecture = architecture
        self._encoders = EncoderModels(settings, architecture)
        self._scorers = checked_scorers(request.scorers, settings, local=local)
        for spec in self._scorers:
            check_optimised(spec.scorer)
        self._watch = _watched(request, settings, local=local)
        self.normalise = request.normalise and len(self._scorers) > 1
        self.voted = any(is_voted(spec.scorer) for spec in self._scorers)
        self.averaged = request.average and not self.voted
        self._probes = self._source.read(request.probes, "probes")
        self._heldout = self._read(request.heldout, "heldout", Reading(()))
        self._check_tally(request.tally, "tally")
        if self.normalise and len(self._probes.probes) < 2:
            raise InputError(
                "scorers: several are normalised by their spread over the probes, and there is one probe; "
                "give two or more (better ten), or normalise: false for a mean of raw numbers"
            )

    def search(self, node: str) -> SearchSettings:
        """How one node searches, its space resolved. Raises InputError."""
        own = self._request.nodes.get(node, NodeOverrides())
        return _search(self._request.search, own.search, f"nodes.{node}", self._architecture)

    def encoders(self, choices: ChoiceSettings) -> dict[str, Part]:
        """The models among the text encoders of a choice, by option. Raises InputError."""
        return self._encoders.among(choices.text_encoder or ())

    def check_overrides(self, nodes: Sequence[str]) -> None:
        """Raise InputError unless every override is for one of these nodes."""
        for name in self._request.nodes:
            if name not in nodes:
                raise InputError(
                    f"nodes: there is no node {name!r} in the bracket; there are {', '.join(nodes)}"
                )

    def of(self, node: str, notes: Sequence[str], parts: Parts | None = None) -> dict[str, Any]:
        """The plan of one node, as JSON data."""
        own = self._request.nodes.get(node, NodeOverrides())
        where = f"nodes.{node}"
        if own.tally is not None:
            self._check_tally(own.tally, f"{where}.tally")
        probes = self._read(own.probes, f"{where}.probes", self._probes)
        heldout = self._read(own.heldout, f"{where}.heldout", self._heldout)
        search = self.search(node)
        if self.voted and search.drafts is not None:
            raise InputError(f"{where}.search.drafts: people vote on whole images; leave it or `human` out")
        names = groups_of(self._architecture, search.space.element_names).names
        plan = NodePlan(
            probes=list(probes.probes),
            heldout=list(heldout.probes),
            scorers=self._scorers,
            normalise=self.normalise,
            watch=self._watch,
            guards=[spec.scorer for spec in self._watch if is_guard(spec.scorer)],
            tally=own.tally or self._request.tally,
            votes=self._request.votes,
            search=search,
            prediction_type=self._request.prediction_type,
            encoders=self.encoders(search.choices),
            parts=parts or {},
            notes=[
                *notes,
                *self._vote_notes(),
                *joined([probes, heldout]).lines(),
                *_moved_into_space(search, names),
            ],
        )
        return plan.model_dump(mode="json")

    def _read(self, spec: ProbesSpec | None, field: str, otherwise: Reading) -> Reading:
        return otherwise if spec is None else self._source.read(spec, field)

    def _vote_notes(self) -> list[str]:
        if not self.voted:
            return []
        votes = self._request.votes
        compared = (
            f"people judge: after every {votes.trials} trials it waits for {votes.votes} votes, at /vote"
        )
        if not self._request.average or len(self._request.leaves) == 2:
            return [compared]
        return [
            compared,
            "people compare the trials of one merge: the uniform merge of all leaves is not scored",
        ]

    def _check_tally(self, tally: str, field: str) -> None:
        if tally not in TALLIES:
            raise InputError(f"{field}: unknown {tally!r}; known: {', '.join(TALLIES)}")
        if self.voted and tally not in TALLIES_OF_ANY_SIGN:
            raise InputError(
                f"{field}: {tally!r} takes no scores below 0, and votes give one to what lies below the "
                f"uniform merge; take {', '.join(TALLIES_OF_ANY_SIGN)}"
            )
        if self.normalise and tally not in TALLIES_OF_ANY_SIGN:
            raise InputError(
                f"{field}: {tally!r} takes no scores below 0, and normalised ones of several scorers lie on "
                f"both sides of it; take {', '.join(TALLIES_OF_ANY_SIGN)}, or normalise: false"
            )


def safe_name(name: str, field: str) -> str:
    """`name`, when it can be a file's name on any system. Raises InputError."""
    if not _NAME.fullmatch(name) or name != name.strip() or name.endswith("."):
        raise InputError(
            f"{field}: {name!r} cannot be used as a name; take letters, digits, spaces and . _ + - ( ) [ ], "
            "at most 120, no slash, beginning with a letter or digit"
        )
    return name


def _search(
    job: SearchSettings, own: dict[str, Any], where: str, architecture: Architecture
) -> SearchSettings:
    """How a node searches; its space is resolved for the architecture."""
    try:
        search = SearchSettings.model_validate({**job.model_dump(), **own})
    except ValidationError as error:
        raise InputError(f"{where}.search: {describe(error)}") from error
    settings = search.space.resolved(blocks_of(architecture), expected_tensors(architecture).unet)
    search = search.model_copy(update={"space": settings})
    names = groups_of(architecture, settings.element_names).names
    # Refused where nothing is left to search.
    Space.of(settings, names)
    baselines = [baseline_candidate(search, names, name) for name in BASELINES]
    inside = any(may_win(search, each.weights, each.choices) for each in baselines)
    if search.trials <= len(BASELINES) and not inside:
        raise InputError(
            f"search.trials: the first {len(BASELINES)} trials are A, B and the uniform merge, and none of "
            "them lies in search.space and search.choices, so that none can win; give more trials"
        )
    return search


def _moved_into_space(search: SearchSettings, blocks: Sequence[str]) -> list[str]:
    """Notes on start points and imported trials that the constraints leave out. Raises InputError."""
    space = Space.of(search.space, blocks)
    points = [start_weights(point, blocks, search.imported) for point in search.start]
    notes = [
        f"search.start: point {number} lies outside search.space: what is closest to it there is tried"
        for number, point in enumerate(points, 1)
        if not space.contains(point)
    ]
    outside = sum(not space.contains(weights_here(trial.weights, blocks)) for trial in search.imported)
    if outside:
        notes.append(
            f"search.imported: {outside} of {len(search.imported)} trials lie outside search.space: they are "
            "told as what is closest to them there"
        )
    return notes


def _pair_notes(inspections: Mapping[str, Inspection], a: str, b: str) -> Sequence[str]:
    known = a in inspections and b in inspections
    return check_pair(inspections[a], inspections[b]) if known else []


def _default_output(request: JobRequest) -> str:
    if len(request.leaves) == 2:
        return "-".join(Path(leaf).stem for leaf in request.leaf_names)
    return request.name


def _check_output_is_new(output: str, settings: Settings) -> None:
    path = settings.outputs_dir / f"{output}.safetensors"
    if path.exists():
        raise InputError(f"output: {path} exists already; give another output name or move that file away")


def _watched(request: JobRequest, settings: Settings, *, local: bool) -> list[ScorerSpec]:
    """Who watches, with the paths of their weights. Raises InputError."""
    if request.watch is None:
        known = scorer_names()
        return [ScorerSpec(scorer=name) for name in GUARDS_BY_DEFAULT if name in known]
    counting = {spec.scorer for spec in request.scorers}
    for spec in request.watch:
        if is_voted(spec.scorer):
            raise InputError(
                f"watch: {spec.scorer!r} judges by votes and can only count; name it under scorers"
            )
        if spec.scorer in counting:
            raise InputError(
                f"watch: {spec.scorer!r} is among `scorers` too; who is optimised is no second opinion: "
                "leave it out of one of them"
            )
    return checked_scorers(request.watch, settings, local=local, field="watch")


def checked_scorers(
    specs: Sequence[ScorerSpec], settings: Settings, *, local: bool, field: str = "scorers"
) -> list[ScorerSpec]:
    """The scorers with the paths of their weights. local: see `validate_job`. field: where they stand.

    Raises InputError for one that is unknown, named twice, or whose weights are not there.
    """
    known = scorer_names()
    seen: set[str] = set()
    for spec in specs:
        if spec.scorer not in known:
            raise InputError(f"{field}: unknown scorer {spec.scorer!r}; known: {', '.join(known)}")
        if spec.scorer in seen:
            raise InputError(f"{field}: {spec.scorer!r} is named twice; name each scorer once")
        seen.add(spec.scorer)
    return [
        located(spec, settings.scorers_dir, anywhere=local, hub=settings.allow_hub, field=field)
        for spec in specs
    ]
