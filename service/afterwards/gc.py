"""Making room: images and intermediate checkpoints that nobody needs any more are given up.

Rows come first, then files: what is killed in between leaves a file too many, which the next run removes,
and no row that names a file that is gone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from optimizer.search import BASELINES
from scoring.errors import InputError
from service.db.records import CheckpointRecord, JobRecord, NodeRecord, TrialRecord
from service.db.states import NodeKind, RenderState, TrialKind, TrialState
from service.db.store import Store
from service.images import TEMPORARY, path_of
from service.settings import Settings

ORPHAN_SECONDS = 3600.0
"""A file that no row names is left alone for so long: its row may be about to be written."""
SETTLING_SECONDS = 300.0
"""The same for an image that a row named once, while a worker runs that may have made it again."""
_FILES_AT_ONCE = 500


class CollectRequest(BaseModel):
    """What to keep."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"images": "best-3", "checkpoints": "final"}]}
    )

    jobs: list[str] = Field(
        default_factory=list,
        description="Ids of jobs, in whatever state; without any, all in which nothing happens by itself.",
    )
    images: str = Field(
        default="all",
        description="all; none; or best-K: those of the K best trials of each node, of A, B and the uniform "
        "merge, and all held-out ones. Only images of nodes that are over are ever given up.",
    )
    checkpoints: Literal["all", "final"] = Field(
        default="all",
        description="all; or final: outputs of other nodes than the final one are given up, once that is "
        "written and no unfinished node takes them. `export` makes the same files again.",
    )
    dry_run: bool = Field(default=True, description="Only tell what would be given up.")

    @field_validator("images")
    @classmethod
    def _known(cls, images: str) -> str:
        if not re.fullmatch(r"all|none|best-[1-9][0-9]{0,5}", images):
            raise InputError(f"images {images!r}: keep all, none, or such as best-5")
        return images


class Freed(BaseModel):
    """Files, and the room they took."""

    files: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """One file more."""
        self.files += 1
        self.bytes += size


class CollectedCheckpoint(BaseModel):
    """A checkpoint that was given up."""

    job: str
    node: str
    name: str
    size: int = Field(description="Bytes.")


class Collected(BaseModel):
    """What was given up, or would be in a dry run."""

    dry_run: bool
    jobs: list[str] = Field(description="Ids of the jobs that were looked at.")
    renders: int = Field(description="Renders whose image is given up; their scores are kept.")
    images: Freed = Field(description="Files of images; one may have served several renders.")
    checkpoints: list[CollectedCheckpoint]
    thumbnails: Freed = Field(description="Small pictures of images that are given up or gone.")
    orphans: Freed = Field(
        description="Images and half-written files that nothing names, an hour old or more."
    )
    young: int = Field(description="Files left for the next time, because a worker may just be naming them.")

    def freed_bytes(self) -> int:
        """All of it together."""
        return (
            self.images.bytes
            + self.thumbnails.bytes
            + self.orphans.bytes
            + sum(made.size for made in self.checkpoints)
        )


def collect(store: Store, settings: Settings, request: CollectRequest) -> Collected:
    """Give up what `request` does not keep.

    Raises NotFound for an unknown job, and InputError when a file cannot be removed; its row says then that
    it is gone, and the next run tries again.
    """
    jobs = [store.job(job_id) for job_id in dict.fromkeys(request.jobs)] or store.jobs_at_rest()
    collector = _Collector(store, settings, request)
    return collector.collect(jobs)


def given_up(images: str, node: NodeRecord, trials: Sequence[TrialRecord]) -> Collection[int]:
    """The ids of the trials of a node that is over whose images `images` does not keep."""
    if images in ("all", "none"):
        return [] if images == "all" else [trial.id for trial in trials]
    searched = [trial for trial in trials if trial.kind is TrialKind.SEARCH]
    done = [trial for trial in searched if trial.state is TrialState.DONE and trial.may_win]
    best = sorted(done, key=lambda trial: (-(trial.score or 0.0), trial.number))
    kept = {trial.id for trial in best[: int(images.removeprefix("best-"))]}
    baselines = len(BASELINES) if node.kind is NodeKind.MERGE else 0
    lost = [trial.id for trial in searched if trial.id not in kept and trial.number >= baselines]
    return [*lost, *(trial.id for trial in trials if trial.kind is TrialKind.DRAFT)]


class _Collector:
    def __init__(self, store: Store, settings: Settings, request: CollectRequest) -> None:
        self._store, self._settings, self._request = store, settings, request
        self._dry_run = request.dry_run
        self._images, self._thumbnails, self._orphans = Freed(), Freed(), Freed()
        self._gone: set[str] = set()
        self._young = 0

    def collect(self, jobs: Sequence[JobRecord]) -> Collected:
        def choose(node: NodeRecord, trials: Sequence[TrialRecord]) -> Collection[int]:
            return given_up(self._request.images, node, trials)

        renders = [
            given
            for job in jobs
            for given in self._store.collect_renders(job.id, choose, dry_run=self._dry_run)
        ]
        checkpoints = self._checkpoints(jobs)
        self._remove_images({trial for given in renders for trial in given.trials})
        self._remove_thumbnails()
        self._remove_half_written()
        return Collected(
            dry_run=self._dry_run,
            jobs=[job.id for job in jobs],
            renders=sum(given.renders for given in renders),
            images=self._images,
            checkpoints=checkpoints,
            thumbnails=self._thumbnails,
            orphans=self._orphans,
            young=self._young,
        )

    def _checkpoints(self, jobs: Sequence[JobRecord]) -> list[CollectedCheckpoint]:
        chosen: list[CheckpointRecord] = []
        if self._request.checkpoints == "final":
            for job in jobs:
                chosen += self._store.collect_checkpoints(job.id, dry_run=self._dry_run)
        # With those of a run that was killed before it came to the files.
        given = {made.id: made for made in (*self._store.collected_checkpoints(), *chosen)}
        return [self._remove_checkpoint(made) for made in given.values() if self._is_ours(made)]

    def _is_ours(self, made: CheckpointRecord) -> bool:
        """Whether the file at the row's path is there, in our folder, and can be the one we wrote."""
        path = Path(made.path)
        return (
            path.parent == self._settings.outputs_dir and path.is_file() and path.stat().st_size == made.size
        )

    def _remove_checkpoint(self, made: CheckpointRecord) -> CollectedCheckpoint:
        assert made.node_id is not None, "only outputs of nodes are collected"
        self._remove(Path(made.path))
        node = self._store.node(made.node_id)
        return CollectedCheckpoint(job=node.job_id, node=node.name, name=made.name, size=made.size)

    def _remove_images(self, trials: Collection[int]) -> None:
        """Remove every image that no stored render names. trials: whose renders do not count."""
        for paths in _parts(_images(self._settings.renders_dir)):
            # Asked anew for every part: a worker may begin while the files of a large folder are removed.
            settling = SETTLING_SECONDS if self._store.owners() else 0.0
            uses = self._store.image_uses([path.stem for path in paths])
            named = {use.sha256 for use in uses}
            needed = {u.sha256 for u in uses if u.state is RenderState.STORED and u.trial_id not in trials}
            for path in paths:
                if path.stem in needed:
                    continue
                if path.stem in named:
                    gone = self._remove_if_older(path, settling, self._images)
                else:
                    gone = self._remove_if_older(path, ORPHAN_SECONDS, self._orphans)
                if gone:
                    self._gone.add(path.stem)

    def _remove_thumbnails(self) -> None:
        """Remove the small pictures of images that are not there (any more): after a kill too."""
        for path in self._settings.thumbnails_dir.glob("[0-9]*/[0-9a-f][0-9a-f]/*.webp"):
            image = path_of(self._settings.renders_dir, path.stem)
            if image.stem in self._gone or not image.exists():
                self._remove_if_older(path, 0.0, self._thumbnails)

    def _remove_half_written(self) -> None:
        left = [
            *self._settings.thumbnails_dir.glob("[0-9]*/[0-9a-f][0-9a-f]/*.tmp"),
            *(self._settings.renders_dir / TEMPORARY).glob("*.tmp"),
            *self._settings.outputs_dir.glob(".*.partial"),
        ]
        for path in left:
            self._remove_if_older(path, ORPHAN_SECONDS, self._orphans)

    def _remove_if_older(self, path: Path, seconds: float, freed: Freed) -> bool:
        """Whether it is gone now, or would be but for a dry run."""
        try:
            status = path.stat()
        except FileNotFoundError:  # its writer was quicker
            return True
        if time.time() - status.st_mtime < seconds:
            self._young += 1
            return False
        self._remove(path)
        freed.add(status.st_size)
        return True

    def _remove(self, path: Path) -> None:
        if self._dry_run:
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{path} cannot be removed: {error.strerror or error}; mend that and collect again, nothing "
                "is lost by it"
            ) from error


def _images(renders_dir: Path) -> Iterator[Path]:
    for folder in sorted(renders_dir.glob("[0-9a-f][0-9a-f]")):
        yield from (path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{64}\.png", path.name))


def _parts(paths: Iterable[Path]) -> Iterator[list[Path]]:
    part: list[Path] = []
    for path in paths:
        part.append(path)
        if len(part) == _FILES_AT_ONCE:
            yield part
            part = []
    if part:
        yield part
