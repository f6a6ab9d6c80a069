"""What is kept, what goes, and that nothing goes which something still names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from optimizer.search import BASELINES
from scoring.errors import InputError
from service.afterwards.gc import Collected, CollectRequest, collect
from service.dashboard.pictures import small_picture
from service.db.records import TrialRecord
from service.db.states import HELDOUT_KINDS, NodeState, RenderState, TrialKind
from service.db.store import Store
from service.errors import NotFound
from service.images import image_path, path_of, store_images
from service.settings import Settings
from tests.unit.service.searched import (
    finish,
    image,
    leased,
    queue,
    run_trial,
    search,
    search_all,
)

PROBES = 3
HOUR = 3600.0
FOUR = ("one", "two", "three", "four")


def gc(store: Store, settings: Settings, *jobs: str, **what: Any) -> Collected:
    return collect(store, settings, CollectRequest.model_validate({"jobs": jobs, "dry_run": False, **what}))


def images(settings: Settings) -> set[str]:
    return {path.stem for path in settings.renders_dir.rglob("*.png")}


def named(store: Store, trials: list[TrialRecord], state: RenderState = RenderState.STORED) -> set[str]:
    return {r.sha256 for trial in trials for r in store.renders(trial.id) if r.state is state}


def check_names_only_what_is_there(store: Store, settings: Settings) -> None:
    """The promise of a collection: no stored render whose image is missing."""
    for job in store.jobs():
        for node in store.nodes(job.id):
            for sha256 in named(store, store.trials(node.id)):
                assert image_path(settings.renders_dir, sha256)


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_the_best_trials_the_baselines_and_the_held_out_images_are_kept(
    store: Store, settings: Settings
) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id, trials=10)
    (node,) = store.nodes(job_id)
    searched = store.trials(node.id, kinds=[TrialKind.SEARCH])
    best = sorted(searched, key=lambda trial: -(trial.score or 0))[:2]
    kept = {t.number for t in best} | set(range(len(BASELINES)))
    found = gc(store, settings, images="best-2")
    assert found.renders == found.images.files == PROBES * (10 - len(kept))
    expected = [t for t in searched if t.number in kept] + store.trials(node.id, kinds=HELDOUT_KINDS)
    assert images(settings) == named(store, store.trials(node.id)) == named(store, expected)
    given_up = [trial for trial in searched if trial.number not in kept]
    assert len(named(store, given_up, RenderState.COLLECTED)) == found.renders
    assert all(len(r.scores) == 2 for trial in given_up for r in store.renders(trial.id)), "scores stay"
    assert store.trials(node.id, kinds=[TrialKind.SEARCH]) == searched
    event = store.events(job_id, limit=10_000)[-1]
    assert (event.kind, event.data["renders"]) == ("renders.collected", found.renders)


def test_small_pictures_go_with_their_images(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id, trials=5)
    for path in settings.renders_dir.rglob("*.png"):
        assert small_picture(path, settings.thumbnails_dir, 8) != path
    # One that a killed collection left, and one that nobody finished writing.
    lost = settings.thumbnails_dir / "8" / "ff" / f"{'f' * 64}.webp"
    lost.parent.mkdir(exist_ok=True)
    lost.touch()
    half = lost.with_name("x.tmp")
    half.touch()
    age(half, HOUR + 1)
    told = gc(store, settings, images="best-1", dry_run=True)
    assert lost.exists()
    found = gc(store, settings, images="best-1")
    assert told.thumbnails == found.thumbnails
    assert found.thumbnails.files == found.images.files + 1
    assert found.thumbnails.bytes > 0
    assert found.orphans.files == 1
    assert {path.stem for path in settings.thumbnails_dir.rglob("*.*")} == images(settings)


def test_a_dry_run_tells_what_a_run_does_and_does_nothing(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    before = (images(settings), store.events(job_id, limit=10_000), sorted(settings.outputs_dir.iterdir()))
    what = {"images": "best-1", "checkpoints": "final"}
    told = gc(store, settings, **what, dry_run=True)
    assert before == (
        images(settings),
        store.events(job_id, limit=10_000),
        sorted(settings.outputs_dir.iterdir()),
    )
    done = gc(store, settings, **what)
    assert told.model_copy(update={"dry_run": False}) == done
    assert done.images.files > 0
    assert len(done.checkpoints) == 3
    again = gc(store, settings, **what)
    assert (again.renders, again.freed_bytes()) == (0, 0)


def test_an_image_that_another_job_names_stays(store: Store, settings: Settings) -> None:
    """Two jobs render the same baselines; one of them gives all its images up."""
    first, second = queue(store, output="first"), queue(store, output="second")
    for job_id in (first, second):
        search_all(store, settings, job_id)
    assert images(settings) == named(store, store.trials(store.nodes(first)[0].id)), "the jobs share all"
    found = gc(store, settings, first, images="none")
    assert (found.renders > 0, found.images.files) == (True, 0)
    check_names_only_what_is_there(store, settings)
    assert gc(store, settings, second, images="none").images.files > 0
    assert images(settings) == set()


def test_a_node_that_is_not_over_keeps_its_images(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    done, searching = leased(store, job_id), store.lease_node("host:2:w", 30)
    assert searching is not None
    for lease in (done, searching):
        search(store, settings, lease)
    finish(store, settings, done)
    before = named(store, store.trials(searching.node_id))
    for path in settings.renders_dir.rglob("*.png"):
        age(path, HOUR)
    found = gc(store, settings, job_id, images="none")
    assert images(settings) == before
    assert found.images.files == len(store.trials(done.node_id)) * PROBES - len(HELDOUT_KINDS)
    check_names_only_what_is_there(store, settings)


def test_without_names_only_jobs_at_rest_are_looked_at(store: Store, settings: Settings) -> None:
    resting, going = queue(store, output="resting"), queue(store, FOUR, output="going")
    search_all(store, settings, resting)
    lease = leased(store, going)
    search(store, settings, lease)
    finish(store, settings, lease)
    assert gc(store, settings, images="none").jobs == [resting]
    assert store.node(lease.node_id).state is NodeState.DONE
    assert named(store, store.trials(lease.node_id)), "its job goes on"
    assert gc(store, settings, going, images="none").renders > 0


def test_a_cancelled_job_gives_up_its_images(store: Store, settings: Settings) -> None:
    lease = leased(store, queue(store))
    run_trial(store, settings, lease, TrialKind.SEARCH, 0)
    store.cancel_job(lease.job_id)
    assert gc(store, settings, images="none").images.files == PROBES


def test_while_a_worker_runs_a_young_image_waits(store: Store, settings: Settings) -> None:
    """It may have found the image of a collected render on the disk, and be about to name it."""
    first, second = queue(store, output="first"), queue(store, output="second")
    search_all(store, settings, first)
    lease = leased(store, second)
    for path in settings.renders_dir.rglob("*.png"):
        age(path, HOUR)
    again = image(f"{store.node(lease.node_id).name} search 0 0")
    (found_again,) = store_images(settings.renders_dir, [again])
    collected = gc(store, settings, first, images="none")
    assert (images(settings), collected.young) == ({found_again}, 1)
    run_trial(store, settings, lease, TrialKind.SEARCH, 0)
    check_names_only_what_is_there(store, settings)


def test_what_nothing_names_goes_after_an_hour(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    kept = images(settings)
    old, young = store_images(settings.renders_dir, [image("old"), image("young")])
    half = settings.renders_dir / ".tmp" / "host.1.x.tmp"
    half.write_bytes(b"half")
    partial = settings.outputs_dir / ".out.safetensors.x.partial"
    partial.write_bytes(b"half")
    strangers = [settings.outputs_dir / "mine.safetensors", settings.renders_dir / "notes.txt"]
    for path in strangers:
        path.write_bytes(b"mine")
    for path in (path_of(settings.renders_dir, old), half, partial, *strangers):
        age(path, HOUR + 60)
    found = gc(store, settings)
    assert (found.orphans.files, found.young, found.images.files) == (3, 1, 0)
    assert images(settings) == kept | {young}
    assert [path.exists() for path in (half, partial, *strangers)] == [False, False, True, True]


def test_a_collection_that_was_killed_before_the_files_is_finished_by_the_next(
    store: Store, settings: Settings
) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    store.collect_renders(job_id, lambda _, trials: [trial.id for trial in trials], dry_run=False)
    store.collect_checkpoints(job_id, dry_run=False)
    check_names_only_what_is_there(store, settings)
    found = gc(store, settings)
    assert images(settings) == set()
    assert found.images.files > 0
    assert [path.name for path in settings.outputs_dir.iterdir()] == ["out.safetensors"]


def test_a_file_that_cannot_be_removed_is_named_and_the_next_run_tries_again(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(InputError, match=r"\.png cannot be removed: Permission denied; mend that"):
            gc(store, settings, images="none")
    check_names_only_what_is_there(store, settings)
    gc(store, settings)
    assert images(settings) == set()


def test_only_the_final_checkpoint_is_kept(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    found = gc(store, settings, checkpoints="final")
    assert [made.node for made in found.checkpoints] == ["01b", "02b", "average"]
    assert [path.name for path in settings.outputs_dir.iterdir()] == ["out.safetensors"]
    rows = [store.checkpoint(node.id) for node in store.nodes(job_id)]
    assert [row is not None and row.collected_at is not None for row in rows] == [True, True, False, True]
    assert found.freed_bytes() == sum(made.size for made in found.checkpoints) > 0


def test_a_checkpoint_that_an_unfinished_node_takes_is_kept(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    for _ in range(2):
        lease = leased(store, job_id)
        search(store, settings, lease)
        finish(store, settings, lease)
    assert not gc(store, settings, job_id, checkpoints="final").checkpoints, "the final one is not written"
    search_all(store, settings, job_id)
    store.extend_node(job_id, "03b", 2)
    assert not gc(store, settings, job_id, checkpoints="final").checkpoints, "03b takes them again"


def test_a_checkpoint_that_is_the_leaf_of_an_unfinished_job_is_kept(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    made = store.checkpoint(store.nodes(job_id)[0].id)
    assert made is not None
    other = queue(store, ("left", "right"), output="other", hashes={"left": made.sha256})
    kept = gc(store, settings, job_id, checkpoints="final").checkpoints
    assert "01b" not in [row.node for row in kept]
    store.cancel_job(other)
    assert [row.node for row in gc(store, settings, job_id, checkpoints="final").checkpoints] == ["01b"]


def test_a_file_that_was_put_in_the_place_of_ours_is_left_alone(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    mine = settings.outputs_dir / "out 01b.safetensors"
    mine.write_bytes(b"something of another size")
    gc(store, settings, checkpoints="final")
    assert mine.read_bytes() == b"something of another size"


def test_wrong_input_is_named(store: Store, settings: Settings) -> None:
    with pytest.raises(NotFound, match="no job 'nope'"):
        gc(store, settings, "nope")
    for images in ("best", "best-0", "some", "best--1"):
        with pytest.raises(ValidationError, match="keep all, none, or such as best-5"):
            gc(store, settings, images=images)
