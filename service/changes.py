"""Jobs made from other jobs: a clone with changes, and a job with more leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from optimizer.bracket import with_leaves
from optimizer.checkpoints.hashes import HashCache
from scoring.errors import InputError
from service.catalog import Catalog
from service.compositions import Leaves
from service.db.records import JobRecord, NewNode, NodeRecord
from service.db.states import NodeKind
from service.db.store import Store
from service.db.tree import bracket_of, final_node
from service.jobs import JobRequest, parse_request
from service.leaves import Leaf
from service.planning import (
    AVERAGE_NAME,
    Plans,
    inspect_leaves,
    lay_nodes,
    scored_node,
    validate_job,
)
from service.settings import Settings


def clone_job(
    store: Store,
    settings: Settings,
    catalog: Catalog,
    job_id: str,
    changes: dict[str, Any],
    *,
    submitted_by: str | None = None,
    limit: int = 0,
) -> JobRecord:
    """Queue a new job that asks for what another asked for, with changes.

    changes: a JSON merge patch (RFC 7396) of the request: what is given replaces, null removes. Without an
    `output` among them the clone's is the old one with the next free number. submitted_by, limit: as
    NewJob says. Raises NotFound, InputError, Conflict, TooMany.
    """
    job = store.job(job_id)
    request = parse_request(merge_patch(job.request, changes), "clone")
    if isinstance(request.output, str):
        # A name alone renames: what is baked in was not spoken of.
        baked = JobRequest.model_validate(job.request).baked
        request = request.model_copy(update={"output": baked}).with_output(request.output)
    if "output" not in changes:
        old = final_node(store.nodes(job_id)).output
        request = request.with_output(_free_output(store, settings, old))
    new = validate_job(request, settings, catalog)
    return store.create_job(replace(new, submitted_by=submitted_by, limit=limit))


def add_leaves(
    store: Store, settings: Settings, catalog: Catalog, job_id: str, more: Sequence[str | Leaf]
) -> JobRecord:
    """Add leaves to the bracket of a job that is not over: models by name, or put together from components.

    Raises NotFound; Conflict when the job is over; InputError when the models do not fit or a merge that
    has begun would have no place in the longer bracket.
    """
    job = store.job(job_id)
    old = JobRequest.model_validate(job.request)
    if old.bracket.seeding == "score":
        raise InputError(
            f"leaves: those of job {job_id} are ranked by score, which a new one would change; clone the job "
            "with the longer list"
        )
    if not more:
        raise InputError("leaves: name one model or more to add")
    said = dict(zip(old.leaf_names, old.leaves, strict=True))
    request = old.model_copy(update={"leaves": [*(said.get(name, name) for name in job.leaves), *more]})
    names = request.leaf_names[len(job.leaves) :]
    leaves = Leaves(request, request.leaf_names, catalog, HashCache(settings.cache_dir))
    inspections = inspect_leaves(leaves, request.leaf_names)
    plans = Plans(request, settings, inspections[names[0]].architecture, local=True)

    def layout(nodes: Sequence[NodeRecord]) -> Sequence[NewNode]:
        begun = {node.name for node in nodes if node.kind is NodeKind.MERGE and node.started_at}
        bracket = with_leaves(bracket_of(nodes), request.bracket.kind, names, begun, request.bracket.first)
        final = final_node(nodes).output
        laid = lay_nodes(request.with_output(final), bracket, plans, leaves, inspections)
        kept = [node for node in laid if node.kind is not NodeKind.AVERAGE]
        return [*kept, *_averages(nodes, final, plans)] if plans.averaged else kept

    added = {name: inspections[name].sha256 for name in names}
    return store.add_leaves(job_id, added, layout, request.model_dump(mode="json"))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: `target` with what `patch` gives, and without what it gives null for."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def _averages(nodes: Sequence[NodeRecord], output: str, plans: Plans) -> list[NewNode]:
    """The averages that have begun as they are, and one of all leaves by now."""
    begun = [node for node in nodes if node.kind is NodeKind.AVERAGE and node.started_at]
    name = f"{AVERAGE_NAME}-{len(begun) + 1}" if begun else AVERAGE_NAME
    kept = [NewNode(n.name, n.kind, n.level, n.a_input, n.b_input, n.output, n.plan) for n in begun]
    return [*kept, scored_node(name, NodeKind.AVERAGE, None, output, plans)]


def _free_output(store: Store, settings: Settings, old: str) -> str:
    """`old` with the first number behind it that no job and no file has yet."""
    stem = re.sub(r"-\d+$", "", old)
    names = (f"{stem}-{number}" for number in count(2))
    return next(
        name
        for name in names
        if not store.output_is_taken(name) and not (settings.outputs_dir / f"{name}.safetensors").exists()
    )
