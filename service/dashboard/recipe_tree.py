"""What a checkpoint was made of, as a tree: who came from whom, and on a click how much of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from fastapi.concurrency import run_in_threadpool
from nicegui import ui

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.formats.merge_metadata import Merge, Model, ancestry_of
from scoring.errors import InputError
from service.dashboard.charts import Chart
from service.dashboard.family_tree import Member, draw_family
from service.dashboard.node_charts import u_chart
from service.dashboard.site import site
from service.dashboard.texts import number, shorter
from service.db.records import Maker

MOST_DETAILS, LONGEST_DETAIL = 12, 200
_KNOWN_BLOCKS = {*BLOCKS, *SDXL_BLOCKS}


def family(model: Model) -> tuple[list[Member], dict[str, Model]]:
    """The boxes of an ancestry and whom each stands for, by key; an ancestor of one hash has one box."""
    members: dict[str, Member] = {}
    models: dict[str, Model] = {}

    def add(one: Model, place: str) -> str:
        key = one.sha256 or place
        if key not in models:
            models[key] = one
            parents = one.merge.parents if one.merge else ()
            keys = tuple(add(parent, f"{place}.{number}") for number, parent in enumerate(parents))
            members[key] = Member(key, one.title, _line(one), keys, shorter(one.title, LONGEST_DETAIL))
        return key

    add(model, "0")
    return list(members.values()), models


def _line(model: Model) -> str:
    return model.merge.method.split(":")[0] if model.merge else "model"


async def show_recipe(metadata: Mapping[str, Any], name: str, sha256: str | None) -> None:
    """Draw in this place of the page what a checkpoint's metadata tells of merges; nothing of none."""
    try:
        found = ancestry_of(metadata, name)
    except InputError as error:
        ui.label(str(error)).classes("warn wrap")
        return
    for notice in found.notices:
        ui.label(notice).classes("warn small wrap")
    if found.model.merge is None:
        return
    root = Model(name, sha256, merge=found.model.merge)
    members, models = family(root)
    makers = await run_in_threadpool(site().store.makers, [key for key in models if models[key].sha256])
    # Names of a job's results differ at their ends alone, which do not fit into a box.
    members = [
        replace(one, line=f"{makers[one.key].node}: {one.line}") if one.key in makers else one
        for one in members
    ]
    with ui.element("div").classes("recipe"):
        ui.label("What it was made of").classes("strong")
        _RecipeTree(members, models, makers)


class _RecipeTree:
    """The drawing, and below it how the one that was clicked was made."""

    def __init__(
        self, members: list[Member], models: Mapping[str, Model], makers: Mapping[str, Maker]
    ) -> None:
        self._models, self._makers = models, makers
        draw_family(members, self._tell)
        self._box = ui.element("div").classes("recipe-told").props('aria-live="polite"')
        self._tell(next(key for key, model in models.items() if model.merge is not None))

    def _tell(self, key: str) -> None:
        model, maker = self._models[key], self._makers.get(key)
        self._box.clear()
        if model.merge is None:
            return
        with self._box:
            ui.label(model.title).classes("strong wrap")
            ui.label(_made(model.merge)).classes("wrap")
            if maker is not None:
                path = f"/jobs/{quote(maker.job_id)}/nodes/{quote(maker.node, safe='')}"
                ui.link(f"made by {maker.node} of the job {maker.job_name}", path)
            _weights(model.merge.weights or (maker and _weights_of(maker)) or None)
            for line in _details(model.merge):
                ui.label(line).classes("soft small wrap")


def _made(merge: Merge) -> str:
    """`Weighted sum of A and B, 0.30 of B`."""
    names = " and ".join(parent.title for parent in merge.parents)
    share = f", on average {number(merge.multiplier)} of the second" if merge.multiplier is not None else ""
    method = merge.method if ":" in merge.method else f"{merge.method} of {names}"
    return f"{method}{share} ({merge.kind})"


def _weights(weights: BlockWeights | None) -> None:
    """The U of the weights; nothing where they are not known."""
    known = {block: weight for block, weight in (weights or {}).items() if block in _KNOWN_BLOCKS}
    if not known:
        return
    ui.label("Weights by block: 0 is the first parent alone, 1 the second.").classes("soft small")
    Chart("Block weights as a U", height="24rem").show(lambda palette: u_chart([known], palette))


def _weights_of(maker: Maker) -> BlockWeights:
    """The weights in a recipe of ours that is stored."""
    weights = maker.recipe.get("weights")
    return weights if isinstance(weights, dict) else {}


def _details(merge: Merge) -> list[str]:
    told = [(name, value) for name, value in merge.details.items() if value not in (None, "", {}, [])]
    lines = []
    for name, value in told[:MOST_DETAILS]:
        lines.append(shorter(f"{name}: {_short(value)}", LONGEST_DETAIL))
    return lines


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items())
    return number(value) if isinstance(value, float) else str(value)
