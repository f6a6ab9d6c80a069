"""The recipe of a node's merge, for its own output and for every other trial that is exported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.blocks import BlockWeights
from optimizer.checkpoints.parts import Component
from optimizer.recipes import Parent, Recipe
from service.catalog import digest
from service.confidence import confidence_scores, winner_confidence
from service.db.records import NodeRecord
from service.db.store import Store
from service.results import result_scores
from service.sources import Source


def merge_recipe(
    store: Store,
    node: NodeRecord,
    a: Source,
    b: Source,
    *,
    name: str,
    weights: BlockWeights,
    scores: Mapping[str, float],
    components: Mapping[Component, Sequence[Parent]],
) -> Recipe:
    """The recipe of a merge of this node.

    name: of the file, without a suffix. weights: one for every block in which the two files differ. scores:
    as `recipe_scores` names them. components: what the file has that A has not.
    """
    came_from = {part: ", ".join(parent.name for parent in several) for part, several in components.items()}
    return Recipe(
        name=name,
        a=parent_of(a),
        b=parent_of(b),
        architecture=a.inspection.architecture,
        prediction_type=node.plan["prediction_type"] or a.inspection.prediction_type,
        weights=weights,
        trials=len(store.ended_trials(node.id)),
        scores=dict(scores),
        text_encoder_from=came_from.get("text_encoder", "a"),
        vae_from=came_from.get("vae", "a"),
        components={part: list(several) for part, several in components.items()},
    )


def recipe_scores(store: Store, node: NodeRecord) -> dict[str, float]:
    """What a winner's recipe says of it: its scores, those of what it had to beat, and how sure that is."""
    return {**result_scores(store, node), **confidence_scores(winner_confidence(store, node))}


def parent_of(source: Source) -> Parent:
    """A checkpoint that goes into a merge, as its recipe names it."""
    # The inspection has the recipes parsed; the merged file carries them as the strings they were.
    found: dict[str, Any] = source.inspection.metadata
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items()}
    return Parent(
        name=source.name,
        sha256=digest(source.inspection),
        legacy_hash=source.inspection.legacy_hash,
        metadata=metadata,
    )
