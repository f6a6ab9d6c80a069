"""A job told step by step before anything is queued: what is put together, rendered, merged, written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from optimizer.bracket import Pick, parse_input
from optimizer.checkpoints.architectures import TITLES, Architecture, config
from optimizer.checkpoints.hashes import HashCache
from optimizer.search import BASELINES
from scoring.probes import Probe
from scoring.rendering.passes import passes
from scoring.scorers.base import ScorerSpec
from service.catalog import Catalog
from service.compositions import Leaves, part_names, parts_text
from service.db.records import NewJob, NewNode
from service.db.states import HELDOUT_KINDS, NodeKind, TrialKind
from service.db.store import Store
from service.db.tree import RANKED, composed, final_node
from service.jobs import JobRequest, NodePlan
from service.planning import validate_job
from service.settings import Settings

_ORDER = (NodeKind.COMPOSE, NodeKind.REFERENCE, NodeKind.SCREEN, NodeKind.AVERAGE, NodeKind.MERGE)
_PNG_OVER_RAW = 1.01


class PassView(BaseModel):
    """One run of the denoising loop."""

    sampler: str = Field(description="With its schedule, where that is said.")
    steps: int
    width: int = Field(description="Pixels.")
    height: int


class Images(BaseModel):
    """Probes that are rendered alike, in one pass or, with hires fix, in two."""

    probes: int
    passes: list[PassView]

    @property
    def text(self) -> str:
        """`2 images: 32x32, 4 steps of Euler; then 64x64, 2 steps of Euler`."""
        runs = "; then ".join(f"{p.width}x{p.height}, {p.steps} steps of {p.sampler}" for p in self.passes)
        return f"{self.probes} image{'s' * (self.probes != 1)}: {runs}"


class Renders(BaseModel):
    """What one trial renders."""

    images: list[Images]
    probes: int
    denoising_steps: int = Field(description="Of all its images and passes together.")


class Step(BaseModel):
    """One node of the job. Steps that wait for none of each other run side by side, one worker each."""

    number: int = Field(description="From 1.")
    name: str
    kind: NodeKind
    does: str = Field(description="In words.")
    details: list[str]
    a: str | None = Field(
        description="A leaf, another step, `best(…)` of several, or a place in the ranking."
    )
    b: str | None
    waits_for: list[str] = Field(description="The steps that must be done first.")
    trials: int = Field(description="At most; drafts and those on held-out probes are counted apart.")
    draft_trials: int = Field(
        description="At most: trials that are first rendered with fewer steps or smaller."
    )
    heldout_trials: int
    renders: int = Field(description="Images in all, at most.")
    denoising_steps: int = Field(description="In all, at most.")
    search: Renders | None = Field(description="What every trial renders; none where nothing is rendered.")
    drafts: Renders | None
    heldout: Renders | None
    writes: str | None = Field(description="The file's name.")
    bytes: int = Field(description="Of that file, about.")


class LeafView(BaseModel):
    """A leaf of the tree."""

    name: str
    made_of: str | None = Field(description="What it is put together from; none for a model as it is.")


class Disk(BaseModel):
    """Bytes that a job takes, at most, and what there is."""

    checkpoints: int
    images: int
    free: int
    reserve: int = Field(description="What shall stay free (`reserve_mb` of the settings).")


class JobPlan(BaseModel):
    """All that a job would do. Nothing is queued."""

    name: str
    architecture: str
    leaves: list[LeafView]
    steps: list[Step]
    trials: int = Field(description="In all, at most, held-out ones included.")
    renders: int
    denoising_steps: int
    scorers: list[str]
    watch: list[str] = Field(description="Scorers that judge every image and never count.")
    tally: str = Field(description="How the scores of all probes become a trial's.")
    output: str = Field(description="The job's result.")
    disk: Disk
    notes: list[str]


def explain_job(
    request: JobRequest, settings: Settings, catalog: Catalog, store: Store, *, local: bool = False
) -> JobPlan:
    """What a job would do, step by step. local: see `validate_job`.

    Raises what queueing the request would raise: InputError, and Conflict for an output that another job
    writes.
    """
    job = validate_job(request, settings, catalog, local=local)
    store.check_outputs([node.output for node in job.nodes])
    leaves = Leaves(request, list(job.leaves), catalog, HashCache(settings.cache_dir))
    sizes = {name: leaves.header(name).size for name in job.leaves}
    architecture = leaves.header(next(iter(sizes))).architecture
    nodes = sorted(job.nodes, key=lambda node: _ORDER.index(node.kind))
    steps = [_step(number, node, job, architecture, sizes) for number, node in enumerate(nodes, start=1)]
    disk = _disk(settings, steps)
    plan = NodePlan.model_validate(final_node(job.nodes).plan)
    return JobPlan(
        name=job.name,
        architecture=TITLES[architecture],
        leaves=[
            LeafView(
                name=name, made_of=parts_text(leaves.composed[name]) if name in leaves.composed else None
            )
            for name in job.leaves
        ],
        steps=steps,
        trials=sum(step.trials + step.heldout_trials for step in steps),
        renders=sum(step.renders for step in steps),
        denoising_steps=sum(step.denoising_steps for step in steps),
        scorers=[_scorer(spec) for spec in plan.scorers],
        watch=[_scorer(spec) for spec in plan.watch],
        tally=_tally(plan),
        output=f"{final_node(job.nodes).output}.safetensors",
        disk=disk,
        notes=[*_notes(job.nodes), *_disk_notes(disk, settings)],
    )


def _step(
    number: int, node: NewNode, job: NewJob, architecture: Architecture, sizes: Mapping[str, int]
) -> Step:
    plan = NodePlan.model_validate(node.plan)
    trials, heldout_trials = _trials(node, plan)
    search = _renders(plan.probes, architecture) if trials else None
    heldout = _renders(plan.heldout, architecture) if heldout_trials else None
    draft_trials = max(0, trials - len(BASELINES)) if plan.search.drafts else 0
    drafts = _renders(plan.probes_of(TrialKind.DRAFT), architecture) if draft_trials else None
    work = [(trials, search), (draft_trials, drafts), (heldout_trials, heldout)]
    writes = node.kind in (NodeKind.COMPOSE, NodeKind.AVERAGE, NodeKind.MERGE)
    return Step(
        number=number,
        name=node.name,
        kind=node.kind,
        does=_does(node, job),
        details=_details(node, plan, *work),
        a=node.a_input,
        b=node.b_input,
        waits_for=_waits_for(node, job),
        trials=trials,
        draft_trials=draft_trials,
        heldout_trials=heldout_trials,
        renders=sum(times * each.probes for times, each in work if each),
        denoising_steps=sum(times * each.denoising_steps for times, each in work if each),
        search=search,
        drafts=drafts,
        heldout=heldout,
        writes=f"{node.output}.safetensors" if writes else None,
        bytes=_size(node, sizes) if writes else 0,
    )


def _trials(node: NewNode, plan: NodePlan) -> tuple[int, int]:
    """Trials at most: on the probes, and on held-out ones."""
    heldout = bool(plan.heldout)
    match node.kind:
        case NodeKind.MERGE:
            return plan.search.trials, len(HELDOUT_KINDS) * heldout
        case NodeKind.AVERAGE:
            return 1, int(heldout)
        case NodeKind.COMPOSE:
            return 0, 0
        case NodeKind.SCREEN | NodeKind.REFERENCE:
            return 1, 0


def _does(node: NewNode, job: NewJob) -> str:
    match node.kind:
        case NodeKind.COMPOSE:
            return f"put leaf {node.name} together"
        case NodeKind.REFERENCE:
            return f"score leaf {node.a_input} alone: what several scorers are measured by"
        case NodeKind.SCREEN:
            return f"score leaf {node.a_input} alone, for the ranking of the leaves"
        case NodeKind.AVERAGE:
            count = len(job.leaves)
            return f"write and score the uniform merge of all {count} leaves: what the tree has to beat"
        case NodeKind.MERGE:
            return f"merge {node.name} = {_side(node.a_input)} + {_side(node.b_input)}"


def _details(
    node: NewNode,
    plan: NodePlan,
    search: tuple[int, Renders | None],
    drafts: tuple[int, Renders | None],
    heldout: tuple[int, Renders | None],
) -> list[str]:
    said = []
    if plan.parts:
        kept = "" if node.kind is NodeKind.COMPOSE else "baked into the file: "
        said.append(kept + parts_text(part_names(plan.parts)))
    for side in (node.a_input, node.b_input):
        pick = parse_input(side) if side and not side.startswith(RANKED) else None
        if isinstance(pick, Pick):
            said.append(
                f"{side} is the better of {' and '.join(pick.candidates)}; where another than "
                f"{pick.candidates[0]} is picked, {pick.candidates[0]} takes its place further on"
            )
    if node.kind is NodeKind.MERGE:
        said.append(_search_text(plan))
    if search[1]:
        said.append(_rendered(*search))
    if drafts[1]:
        said.append(f"drafts, and whole only where they promise something: {_rendered(*drafts)}")
    if heldout[1]:
        what = "A, B, the uniform merge and the winner" if node.kind is NodeKind.MERGE else "the file"
        said.append(f"held-out probes, for {what}: {_rendered(*heldout)}")
    return said


def _search_text(plan: NodePlan) -> str:
    search = plan.search
    ends = [f"{search.trials} trials"]
    if search.seconds:
        ends.append(f"{search.seconds:g} s")
    if search.patience:
        ends.append(f"{search.patience} trials without a better one")
    if search.until_gain_per_hour:
        ends.append(f"less than {search.until_gain_per_hour:g} to be gained an hour")
    first = "A, B and their uniform merge first"
    starts = f", then {len(search.start)} start points" if search.start else ""
    elements = search.space.element_names
    apart = f"; apart from their blocks {', '.join(elements)}" if elements else ""
    among = "".join(
        f"; {name.replace('_', ' ')} {', '.join(options[:-1])} or {options[-1]}"
        for name, options in search.choices.options.items()
    )
    ending = " or ".join(ends)
    return f"search by {search.sampler}, seed {search.seed}, until {ending}: {first}{starts}{apart}{among}"


def _rendered(trials: int, renders: Renders | None) -> str:
    times = f"{trials} x" if trials > 1 else "once"
    return f"{times} {'; '.join(images.text for images in (renders.images if renders else ()))}"


def _side(text: str | None) -> str:
    said = text or "?"
    return f"the leaf of place {said[1:]}" if said.startswith(RANKED) else said


def _waits_for(node: NewNode, job: NewJob) -> list[str]:
    """The steps whose files or scores it needs."""
    made = {other.name for other in job.nodes if other.kind is NodeKind.MERGE} | set(composed(job.nodes))
    screens = [other.name for other in job.nodes if other.kind is NodeKind.SCREEN]
    reference = [other.name for other in job.nodes if other.kind is NodeKind.REFERENCE]
    if node.kind is NodeKind.COMPOSE:
        return []
    if node.kind is NodeKind.AVERAGE:
        return [*(name for name in job.leaves if name in made), *reference]
    found: list[str] = []
    for side in (node.a_input, node.b_input):
        if side and side.startswith(RANKED):
            found += screens
        elif side:
            said = parse_input(side)
            found += [n for n in (said.candidates if isinstance(said, Pick) else (said,)) if n in made]
    return list(dict.fromkeys([*found, *(reference if node.kind is not NodeKind.REFERENCE else ())]))


def _renders(probes: Sequence[Probe], architecture: Architecture) -> Renders:
    factor = 2 ** (len(config(architecture, "vae")["block_out_channels"]) - 1)
    alike = Counter(
        tuple(
            (
                f"{run.sampler}, {run.schedule}" if run.schedule else run.sampler,
                run.steps,
                run.latents.width * factor,
                run.latents.height * factor,
            )
            for run in passes(probe, factor)
        )
        for probe in probes
    )
    images = [
        Images(
            probes=count,
            passes=[PassView(sampler=s, steps=n, width=width, height=height) for s, n, width, height in runs],
        )
        for runs, count in alike.items()
    ]
    steps = sum(each.probes * run.steps for each in images for run in each.passes)
    return Renders(images=images, probes=len(probes), denoising_steps=steps)


def _size(node: NewNode, sizes: Mapping[str, int]) -> int:
    """About what a file takes: its own leaf, or the largest."""
    return sizes[node.name] if node.kind is NodeKind.COMPOSE else max(sizes.values())


def _disk(settings: Settings, steps: Sequence[Step]) -> Disk:
    return Disk(
        checkpoints=sum(step.bytes for step in steps),
        images=sum(_image_bytes(step) for step in steps),
        free=shutil.disk_usage(_existing(settings.data_dir)).free,
        reserve=settings.reserve_mb * 1_000_000,
    )


def _image_bytes(step: Step) -> int:
    """Of PNGs that hold nothing but noise."""
    work = [
        (step.trials, step.search),
        (step.draft_trials, step.drafts),
        (step.heldout_trials, step.heldout),
    ]
    pixels = sum(
        times * images.probes * images.passes[-1].width * images.passes[-1].height
        for times, renders in work
        if renders
        for images in renders.images
    )
    return int(pixels * 3 * _PNG_OVER_RAW)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _disk_notes(disk: Disk, settings: Settings) -> list[str]:
    needed = disk.checkpoints + disk.images
    if needed + disk.reserve <= disk.free:
        return []
    return [
        f"the disk of {settings.data_dir} has {disk.free // 1_000_000} MB free and the job may take "
        f"{needed // 1_000_000} MB beside the {disk.reserve // 1_000_000} MB that shall stay free: make "
        "room, or collect files while it runs (`autombw gc`); a node pauses where there is none left"
    ]


def _notes(nodes: Sequence[NewNode]) -> list[str]:
    """What the steps do not say themselves."""
    said = [note for node in nodes if node.kind is NodeKind.MERGE for note in node.plan["notes"]]
    of_leaves = [note for node in composed(nodes).values() for note in node.plan["notes"][1:]]
    return list(dict.fromkeys([*said, *of_leaves]))


def _tally(plan: NodePlan) -> str:
    if plan.normalise:
        return f"{plan.tally}; each scorer measured by its spread on the reference"
    return plan.tally


def _scorer(spec: ScorerSpec) -> str:
    told = [spec.model or "", f"weight {spec.weight:g}" if spec.weight != 1 else ""]
    told.append("lower is better" if spec.reverse else "")
    more = ", ".join(text for text in told if text)
    return f"{spec.scorer} ({more})" if more else spec.scorer
