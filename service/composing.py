"""A leaf that is put together from components of models: a file of its own, written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from optimizer.component_recipes import describe
from optimizer.exporting import export_recipe
from optimizer.foreseen import foresee
from service.db.records import NewCheckpoint
from service.node_context import NodeContext
from service.outputs import write_output


def compose(context: NodeContext) -> NewCheckpoint:
    """Write the leaf of a node, tensor by tensor; each component keeps the precision of its (first) file.

    Raises InputError when a model is not the file it was; else as `write_output`.
    """
    node, parts = context.node, context.parts()
    recipe = describe("join", node.output, parts, HashCache(context.settings.cache_dir))
    if context.plan.prediction_type is not None:
        recipe = recipe.model_copy(update={"prediction_type": context.plan.prediction_type})
    size = foresee(node.name, parts).inspection.size
    write = partial(export_recipe, recipe, flat(parts))
    return write_output(context, size, recipe.model_dump(mode="json"), write)


def flat(parts: Mapping[Component, Sequence[Path]]) -> list[Path]:
    """The files of components one after the other, as `export_recipe` takes them."""
    return [path for several in parts.values() for path in several]
