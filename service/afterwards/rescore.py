"""A scorer that a job did not have judges its stored images.

The job's own scores stay as they are; `retally` weighs the new numbers, the report shows them. Images are
judged as they are stored, in 8 bits: a scorer of the job itself saw them before they were rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from optimizer.rendered import score_images
from scoring.errors import InputError, TrialFailed
from scoring.hub import keep_off_hub
from scoring.probes import Probe
from scoring.rendering.images import from_pil
from scoring.scorers.base import Scorer, ScorerSpec
from scoring.scorers.registry import create_scorer
from service.db.afterwards import Unscored
from service.db.records import NodeRecord
from service.db.states import RenderState
from service.db.store import Store
from service.images import path_of
from service.jobs import NodePlan
from service.nodes import nodes_of
from service.planning import checked_scorers
from service.settings import Settings

IMAGES_AT_ONCE = 32


class NewScorer(BaseModel):
    """A scorer to be added. Its weight is given when it is weighed: to `retally`."""

    model_config = ConfigDict(extra="forbid")

    scorer: str = Field(description="Its registered name.")
    model: str | None = Field(default=None, description="Its weights, within the scorers folder.")
    reverse: bool = Field(default=False, description="Lower is better; `retally` counts it so.")


class RescoreRequest(BaseModel):
    """Who is to judge which images."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scorers": [{"scorer": "laion-v2", "model": "laion"}]}]},
    )

    scorers: list[NewScorer] = Field(min_length=1)
    node: str | None = Field(default=None, description="One node by name or position; all if not given.")


class NodeRescore(BaseModel):
    """What a scorer did for one node. Renders that had its number already are in none of the counts."""

    node: str
    scorer: str
    added: int = Field(description="Renders that have its number now.")
    collected: int = Field(description="Renders whose image was given up: they stay without.")
    missing: int = Field(description="Renders whose image should be there and cannot be read.")


class Rescored(BaseModel):
    """What all of them did."""

    job: str
    nodes: list[NodeRescore]


class Rescorer:
    """Judges the images of one job.

    local: the request comes from this machine's user, who may name weights anywhere. Raises NotFound for an
    unknown job or node; InputError for scorers that are not there; Conflict for one that judged the job with
    other weights.
    """

    def __init__(
        self, store: Store, settings: Settings, job_id: str, request: RescoreRequest, *, local: bool
    ) -> None:
        if not settings.allow_hub:
            keep_off_hub()
        self._store, self._settings, self._job_id = store, settings, job_id
        self._nodes = nodes_of(store, job_id, request.node)
        given = [ScorerSpec.model_validate(new.model_dump()) for new in request.scorers]
        self._specs = checked_scorers(given, settings, local=local)

    def todo(self) -> int:
        """How many times an image is to be judged."""
        return sum(
            self._store.unscored_counts(node.id, spec.scorer).get(RenderState.STORED, 0)
            for node in self._nodes
            for spec in self._specs
        )

    def run(self, judged: Callable[[int], object] = lambda _: None) -> Rescored:
        """Judge what was not judged yet; what was interrupted goes on where it was.

        judged: told how many images were done, batch by batch. Raises InputError when a scorer fails.
        """
        done = []
        for spec in self._specs:
            scorer = create_scorer(spec, self._settings.resolved_device())
            for node in self._nodes:
                self._store.begin_rescore(node.id, spec)
                done.append(self._rescore(node, scorer, spec.scorer, judged))
        return Rescored(job=self._job_id, nodes=done)

    def _rescore(
        self, node: NodeRecord, scorer: Scorer, name: str, judged: Callable[[int], object]
    ) -> NodeRescore:
        plan = NodePlan.model_validate(node.plan)
        added = missing = after = 0
        while batch := self._store.unscored(node.id, name, after=after, limit=IMAGES_AT_ONCE):
            values = self._judge(plan, scorer, batch)
            added += self._store.add_scores(self._job_id, name, values)
            missing += len(batch) - len(values)
            after = batch[-1].id
            judged(len(batch))
        collected = self._store.unscored_counts(node.id, name).get(RenderState.COLLECTED, 0)
        return NodeRescore(node=node.name, scorer=name, added=added, collected=collected, missing=missing)

    def _judge(self, plan: NodePlan, scorer: Scorer, batch: Sequence[Unscored]) -> dict[int, float]:
        """Render id -> number, for the images that can be read."""
        by_size: dict[torch.Size, list[tuple[Unscored, Tensor]]] = defaultdict(list)
        for render in batch:
            image = _read(path_of(self._settings.renders_dir, render.sha256))
            if image is not None:
                by_size[image.shape].append((render, image))
        values: dict[int, float] = {}
        for same in by_size.values():
            images = torch.stack([image for _, image in same]).to(self._settings.resolved_device())
            probes = [(render.probe, _probe(plan, render)) for render, _ in same]
            try:
                numbers = score_images(scorer, images, probes)
            except TrialFailed as error:
                raise InputError(f"{error}; what was judged before is stored, run it again") from error
            values.update(zip((render.id for render, _ in same), numbers, strict=True))
        return values


def _probe(plan: NodePlan, render: Unscored) -> Probe:
    return plan.probes_of(render.kind)[render.probe]


def _read(path: Path) -> Tensor | None:
    """(3, H, W) in [0, 1]; None for a file that is gone or broken."""
    try:
        with Image.open(path) as image:
            return from_pil(image)
    except OSError:
        return None
