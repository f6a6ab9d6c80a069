"""The merge of any trial as a checkpoint; checkpoints that were given up, made again from their recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from optimizer.blocks import BlockWeights, uniform
from optimizer.checkpoints import sha256_of
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from optimizer.component_recipes import ComponentRecipe, parents_at
from optimizer.exporting import AnyRecipe, export_recipe
from optimizer.merging import differing_blocks
from optimizer.recipes import AverageRecipe, Parent, Recipe
from service.catalog import Catalog, digest
from service.choosing import chosen_parts, encoder_files
from service.composing import flat
from service.db.records import CheckpointRecord, NodeRecord, TrialRecord
from service.db.states import NodeKind, TrialKind, TrialState
from service.db.store import Store
from service.db.tree import composed
from service.disk import DiskNearlyFull, check_room
from service.errors import Conflict, NotFound
from service.jobs import NodePlan
from service.nodes import node_of
from service.planning import safe_name
from service.recipe_of import merge_recipe, recipe_scores
from service.results import result_scores
from service.settings import Settings
from service.sources import Source, leaf_of, made_by, part_paths, source_of


class ExportRequest(BaseModel):
    """Which merge to write, and under which name."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"node": "03b", "trial": 17, "output": "softer"}]}
    )

    node: str | None = Field(default=None, description="By name or position; the final one if not given.")
    trial: int | None = Field(
        default=None, ge=0, description="Number of a search trial that is done; the best one if not given."
    )
    output: str | None = Field(
        default=None,
        description="Name of the file, without a suffix; for a trial, the node's with the trial's number if "
        "not given. Without `trial` and `output`, the node's own file is made again.",
    )


class Exported(BaseModel):
    """A checkpoint that was written."""

    name: str
    path: str
    sha256: str
    size: int = Field(description="Bytes.")
    made_again: list[str] = Field(
        description="Inputs of it that had been collected, and were made again first, in their places."
    )


class Exporter:
    """Writes merges of one job into the folder of outputs."""

    def __init__(self, store: Store, settings: Settings, catalog: Catalog, job_id: str) -> None:
        self._store, self._settings, self._catalog = store, settings, catalog
        self._nodes = {node.id: node for node in store.nodes(job_id)}
        self._job_id = job_id
        self._hashes = HashCache(settings.cache_dir)
        self._made_again: list[str] = []

    def export(self, request: ExportRequest) -> Exported:
        """Write what is asked for.

        Raises NotFound for an unknown node or trial; Conflict when the trial is not done, the file is there
        or its name taken, or the disk is nearly full; InputError when an input is not the file it was, or
        the file cannot be written.
        """
        node = self._node(request.node)
        if request.trial is None and request.output is None:
            return self._answer(*self._make_again(node))
        trial = self._trial(node, request.trial)
        output = safe_name(request.output or f"{node.output}-trial-{trial.number}", "output")
        if self._store.output_is_taken(output):
            raise Conflict(f"output {output!r} is the name of a job's result; give another --output")
        return self._answer(*self._write_trial(node, trial, output))

    def _node(self, name: str | None) -> NodeRecord:
        return node_of(self._store, self._job_id, name)

    def _trial(self, node: NodeRecord, number: int | None) -> TrialRecord:
        if node.kind is not NodeKind.MERGE:
            raise Conflict(f"node {node.name} is no merge and has no trials to export; name a merge")
        if number is None:
            trial = self._store.best_trial(node.id)
        else:
            trial = self._store.find_trial(node.id, TrialKind.SEARCH, number)
        if trial is None:
            which = "successful trial yet" if number is None else f"trial {number}"
            raise NotFound(f"node {node.name} of job {self._job_id} has no {which}; GET …/trials lists them")
        if trial.state is not TrialState.DONE:
            why = f": {trial.reason}" if trial.reason else ""
            raise Conflict(
                f"trial {trial.number} of node {node.name} is {trial.state.value}{why}; take another"
            )
        return trial

    def _write_trial(self, node: NodeRecord, trial: TrialRecord, output: str) -> tuple[Path, str]:
        out = self._free_path(output)
        a, b = self._inputs(node)
        plan = NodePlan.model_validate(node.plan)
        encoders = encoder_files(plan, self._catalog, self._hashes, a, b)
        parts = {**self._parts(node), **chosen_parts(encoders, trial.choices)}
        recipe = merge_recipe(
            self._store,
            node,
            a,
            b,
            name=output,
            weights=_file_weights(a, b, trial.weights, plan.search.space.element_names),
            scores=self._scores(node, trial),
            components=parents_at(parts, self._hashes),
        )
        sha256 = self._write(out, recipe, [a.path, b.path, *flat(parts)], a.inspection.size)
        self._store.record_export(node.id, trial.number, output, sha256)
        return out, sha256

    def _scores(self, node: NodeRecord, trial: TrialRecord) -> dict[str, float]:
        """What the file and its baselines scored; the winner's own scores where it is the winner's merge."""
        best = self._store.best_trial(node.id)
        if best is not None and best.number == trial.number:
            return recipe_scores(self._store, node)
        scores = result_scores(self._store, node)
        assert trial.score is not None, "a trial that is done has one"
        others = {name: score for name, score in scores.items() if not name.endswith("/winner")}
        return {**others, f"search/trial {trial.number}": trial.score}

    def _make_again(self, node: NodeRecord) -> tuple[Path, str]:
        """Write the output of a node as it was, to the bit, from its stored recipe."""
        made = self._store.checkpoint(node.id)
        if made is None:
            raise Conflict(
                f"node {node.name} has no file yet that could be made again; export a --trial of it"
            )
        out = self._settings.outputs_dir / f"{made.name}.safetensors"
        # Of a collection that was killed between the row and the file.
        left = made.collected_at is not None and out.is_file() and sha256_of(out) == made.sha256
        if not left:
            out = self._free_path(made.name)
            self._write(out, *self._recipe(node, made), made.size, expected=made.sha256)
        self._store.restore_checkpoint(node.id, out)
        return out, made.sha256

    def _recipe(self, node: NodeRecord, made: CheckpointRecord) -> tuple[AnyRecipe, Sequence[Path]]:
        """The stored recipe of a node's output, and the files that it is made of."""
        match node.kind:
            case NodeKind.MERGE:
                a, b = self._inputs(node)
                merge = Recipe.model_validate(made.recipe)
                parents = [parent for several in merge.components.values() for parent in several]
                parts = [self._component_of(parent, node, a, b) for parent in parents]
                return merge, [a.path, b.path, *parts]
            case NodeKind.COMPOSE:
                return ComponentRecipe.model_validate(made.recipe), flat(self._parts(node))
            case _:
                recipe = AverageRecipe.model_validate(made.recipe)
                return recipe, [self._parent(parent) for parent in recipe.parents]

    def _parts(self, node: NodeRecord) -> dict[Component, list[Path]]:
        """The files of the components that a node's plan names."""
        return part_paths(self._catalog, self._hashes, NodePlan.model_validate(node.plan).parts)

    def _component_of(self, parent: Parent, node: NodeRecord, a: Source, b: Source) -> Path:
        """The file of a component that is not A's: of B, of A in a mean with it, or a model of the plan."""
        own = {digest(source.inspection): source.path for source in (a, b)}
        if parent.sha256 in own:
            return own[parent.sha256]
        plan = NodePlan.model_validate(node.plan)
        named = [*(part for several in plan.parts.values() for part in several), *plan.encoders.values()]
        part = next(part for part in named if part.sha256 == parent.sha256)
        return part_paths(self._catalog, self._hashes, {"text_encoder": [part]})["text_encoder"][0]

    def _parent(self, parent: Parent) -> Path:
        """A leaf that went into an average."""
        for node in composed(self._nodes.values()).values():
            made = self._store.checkpoint(node.id)
            if made is not None and made.sha256 == parent.sha256:
                self._make_again_if_gone(node.id)
                return made_by(self._store, self._catalog, node, made.sha256, "average").path
        return leaf_of(self._catalog, parent.name, parent.sha256).path

    def _inputs(self, node: NodeRecord) -> tuple[Source, Source]:
        """A and B of a node; those that were collected are made again first."""
        for maker in (node.a_node_id, node.b_node_id):
            if maker is not None:
                self._make_again_if_gone(maker)
        a, b = (source_of(self._store, self._catalog, node, side) for side in "ab")
        return a, b

    def _make_again_if_gone(self, node_id: int) -> None:
        made = self._store.checkpoint(node_id)
        if made is not None and not Path(made.path).exists():
            self._make_again(self._nodes[node_id])
            self._made_again.append(made.name)

    def _free_path(self, output: str) -> Path:
        out = self._settings.outputs_dir / f"{output}.safetensors"
        if out.exists():
            raise Conflict(f"{out} exists already; give another --output or move that file away")
        return out

    def _write(
        self,
        out: Path,
        recipe: AnyRecipe,
        paths: Sequence[Path],
        size: int,
        expected: str | None = None,
    ) -> str:
        """Write a file and return its sha256. No other file gets its name.

        size: bytes to expect. expected: what the sha256 must be.
        """
        written: list[str] = []

        def sealed(sha256: str) -> None:
            written.append(sha256)
            # Asked again: writing takes long, and someone else may have made a file of that name.
            self._free_path(out.stem)
            if expected not in (None, sha256):
                raise Conflict(
                    f"{out.name} would not be the file it was (sha256 {sha256}, then {expected}): another "
                    "version of autombw wrote it; export the node's best trial under another --output"
                )

        try:
            check_room(out.parent, size, self._settings.reserve_mb * 1_000_000)
        except DiskNearlyFull as error:
            raise Conflict(str(error)) from error
        out.parent.mkdir(parents=True, exist_ok=True)
        export_recipe(recipe, paths, out, sealed)
        return written[0]

    def _answer(self, out: Path, sha256: str) -> Exported:
        return Exported(
            name=out.stem,
            path=str(out),
            sha256=sha256,
            size=out.stat().st_size,
            made_again=self._made_again,
        )


def _file_weights(a: Source, b: Source, weights: BlockWeights, elements: Sequence[str]) -> BlockWeights:
    """The trial's weights, and A for the blocks that differ by less than the search could see."""
    return {**uniform(differing_blocks(a.path, b.path, elements), 0.0), **weights}
