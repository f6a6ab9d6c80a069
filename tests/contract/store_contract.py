"""The storage contract: what the store must do on every database under it.

A new method of the store gets its tests here. Each is a method of `StoreContract` that takes the fixture
`store`, an empty store, and makes what it needs with the functions below; `test_store_contract.py` runs
them all on every database. What many workers do at once is in `concurrency_contract.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.bracket import balanced, input_text, levels
from optimizer.racing import Estimate
from scoring.scorers.base import ScorerSpec
from service.access.roles import Role
from service.db.access import Deed
from service.db.afterwards import GivenUp
from service.db.records import (
    JobRecord,
    Lease,
    Looks,
    Maker,
    NewCheckpoint,
    NewJob,
    NewNode,
    NewRender,
    NodeHead,
    NodeRecord,
    TrialRecord,
)
from service.db.states import JobState, NodeKind, NodeState, RenderState, TrialKind, TrialState
from service.db.store import Store
from service.errors import Conflict, LeaseLost, NotFound, Stale, TooMany

SHA = "ab" * 32
WORKER, OTHER = "host:1:w", "host:2:w"


def new_job(output: str = "out", leaves: Sequence[str] = ("left", "right"), priority: int = 0) -> NewJob:
    """A balanced tree of merges over the leaves; its last node makes `output`."""
    bracket = balanced(leaves)
    level, last = levels(bracket), bracket.nodes[-1].output
    nodes = [
        NewNode(
            name=node.output,
            kind=NodeKind.MERGE,
            level=level[node.output],
            a_input=input_text(node.a),
            b_input=input_text(node.b),
            output=output if node.output == last else f"{output} {node.output}",
            plan={"search": {"trials": 3}},
        )
        for node in bracket.nodes
    ]
    hashes: dict[str, str | None] = {leaf: f"{number:064x}" for number, leaf in enumerate(leaves)}
    return NewJob("a job", {"output": output}, hashes, nodes, priority)


def with_reference() -> NewJob:
    """A job of one pair and an average, which wait for the reference."""
    job = new_job()
    plan = job.nodes[0].plan
    average = NewNode("average", NodeKind.AVERAGE, 0, None, None, "out-average", plan)
    reference = NewNode("reference", NodeKind.REFERENCE, 0, "left", None, "out-reference", plan)
    return replace(job, nodes=[*job.nodes, average, reference])


def states(store: Store, job_id: str) -> dict[str, str]:
    """Node -> its state."""
    return {node.name: node.state.value for node in store.nodes(job_id)}


def queued(store: Store, output: str = "out") -> JobRecord:
    """A job of one pair."""
    return store.create_job(new_job(output))


def leased(store: Store, owner: str = WORKER, seconds: float = 30.0) -> Lease:
    """The lease of the next node, which there must be."""
    lease = store.lease_node(owner, seconds)
    assert lease is not None
    return lease


def queued_and_leased(store: Store, seconds: float = 30.0) -> Lease:
    """The lease of the one node of a new job."""
    queued(store)
    return leased(store, seconds=seconds)


def run_trial(store: Store, lease: Lease, number: int, score: float | None) -> None:
    """A search trial from its beginning to its end; it fails where it has no score."""
    trial = store.open_trial(lease, TrialKind.SEARCH, number, {"IN00": number / 10})
    if score is None:
        store.fail_trial(lease, trial.id, "black image", 1.0, {})
    else:
        store.finish_trial(lease, trial.id, score, 1.0, {})


class StoreContract:
    """One client at a time: jobs, leases, trials, events, and values that come back as they were."""

    # Jobs.

    def test_a_job_is_queued_with_its_nodes_and_its_first_event(self, store: Store) -> None:
        job = queued(store)
        assert store.job(job.id) == job
        assert job.state is JobState.QUEUED
        assert [node.state for node in store.nodes(job.id)] == [NodeState.READY]
        assert store.events(job.id)[0].kind == "job.created"

    def test_the_heads_of_nodes_are_those_of_the_whole_ones_in_their_order(self, store: Store) -> None:
        job = store.create_job(new_job(leaves=list("abcde")))
        heads, nodes = store.node_heads(job.id), store.nodes(job.id)
        assert heads == [
            NodeHead(**{name: vars(node)[name] for name in NodeHead.model_fields}) for node in nodes
        ]
        with pytest.raises(NotFound, match="no job 'none'"):
            store.node_heads("none")

    def test_an_unknown_job_is_named(self, store: Store) -> None:
        for ask in (store.job, store.nodes, store.events, store.cancel_job, store.retry_job):
            with pytest.raises(NotFound, match="no job 'nope'"):
                ask("nope")

    def test_two_jobs_cannot_write_the_same_output(self, store: Store) -> None:
        first = queued(store)
        with pytest.raises(Conflict, match=f"output 'out' belongs to job {first.id}"):
            queued(store)
        store.cancel_job(first.id)
        queued(store)

    def test_jobs_are_listed_newest_first(self, store: Store) -> None:
        made = [queued(store, name).id for name in ("one", "two", "three")]
        assert [job.id for job in store.jobs()] == made[::-1]
        assert [job.id for job in store.jobs(limit=1, offset=1)] == [made[1]]

    def test_cancelling_ends_the_lease_and_the_open_trial(self, store: Store) -> None:
        lease = queued_and_leased(store)
        store.open_trial(lease, TrialKind.SEARCH, 0, {})
        assert store.cancel_job(lease.job_id).state is JobState.CANCELLED
        with pytest.raises(LeaseLost):
            store.heartbeat(lease)
        assert [trial.state for trial in store.trials(lease.node_id)] == [TrialState.CANCELLED]
        with pytest.raises(Conflict, match="nothing left to cancel"):
            store.cancel_job(lease.job_id)

    @pytest.mark.parametrize("stop", ["pause_node", "fail_node", "fail_export"])
    def test_what_stopped_can_be_retried(self, stop: str, store: Store) -> None:
        lease = queued_and_leased(store)
        getattr(store, stop)(lease, "a reason")
        assert store.node(lease.node_id).reason == "a reason"
        assert store.lease_node(OTHER, 30) is None
        assert store.retry_job(lease.job_id).state is JobState.QUEUED
        assert leased(store).number == 2

    def test_there_is_nothing_to_retry_in_a_queued_job(self, store: Store) -> None:
        with pytest.raises(Conflict, match="nothing to retry"):
            store.retry_job(queued(store).id)

    def test_an_unfinished_job_is_found_by_its_request(self, store: Store) -> None:
        job = queued(store)
        found = store.unfinished_job({"output": "out"})
        assert found is not None
        assert found.id == job.id
        assert store.unfinished_job({"output": "other"}) is None
        store.cancel_job(job.id)
        assert store.unfinished_job({"output": "out"}) is None

    # Leases.

    def test_a_node_is_leased_once(self, store: Store) -> None:
        job = queued(store)
        lease = leased(store)
        assert (lease.job_id, lease.number) == (job.id, 1)
        assert store.lease_node(OTHER, 30) is None
        assert store.job(job.id).state is JobState.RUNNING

    def test_the_highest_priority_comes_first_then_the_oldest_job(self, store: Store) -> None:
        jobs = [store.create_job(new_job(f"{i}", priority=p)).id for i, p in enumerate((0, 2, 2, 1))]
        taken = [leased(store, f"host:{i}:w").job_id for i in range(len(jobs))]
        assert taken == [jobs[1], jobs[2], jobs[3], jobs[0]]

    def test_a_worker_can_lease_of_one_job_alone(self, store: Store) -> None:
        queued(store, "one")
        second = queued(store, "two")
        lease = store.lease_node(WORKER, 30, job_id=second.id)
        assert lease is not None
        assert lease.job_id == second.id
        assert store.lease_node(OTHER, 30, job_id=second.id) is None

    def test_a_silent_worker_loses_its_node_and_its_late_writes_are_refused(
        self, store: Store, tmp_path: Path
    ) -> None:
        late = queued_and_leased(store, seconds=0.05)
        trial = store.open_trial(late, TrialKind.SEARCH, 0, {"IN00": 0.5})
        time.sleep(0.1)
        successor = leased(store, OTHER)
        assert (successor.node_id, successor.number) == (late.node_id, late.number + 1)
        before = (store.node(late.node_id), store.trials(late.node_id), store.events(late.job_id))
        made = NewCheckpoint("out", tmp_path / "out.safetensors", SHA, 9, {}, {})
        for write in (
            lambda: store.heartbeat(late),
            lambda: store.open_trial(late, TrialKind.SEARCH, 1, {}),
            lambda: store.add_renders(late, trial.id, [NewRender(0, SHA, 0.1, {"clip": 0.3})]),
            lambda: store.finish_trial(late, trial.id, 0.3, 1.0, {}),
            lambda: store.fail_trial(late, trial.id, "late", 1.0, {}),
            lambda: store.end_search(late, "late"),
            lambda: store.finish_node(late, 0.3, made),
            lambda: store.pause_node(late, "late"),
            lambda: store.fail_node(late, "late"),
            lambda: store.fail_export(late, "late"),
            lambda: store.release(late),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert (store.node(late.node_id), store.trials(late.node_id), store.events(late.job_id)) == before
        assert store.renders(trial.id) == []
        assert store.checkpoint(late.node_id) is None

    def test_a_heartbeat_keeps_the_lease(self, store: Store) -> None:
        lease = queued_and_leased(store, seconds=0.5)
        for _ in range(4):
            time.sleep(0.2)
            store.heartbeat(lease)
        assert store.lease_node(OTHER, 30) is None

    def test_a_heartbeat_from_the_future_holds_no_node(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        queued_and_leased(store)
        monkeypatch.setattr(time, "time", lambda: now)
        assert store.lease_node(OTHER, 30) is not None, "the clock was moved back an hour"

    def test_the_nodes_of_a_dead_worker_are_handed_back(self, store: Store) -> None:
        queued(store, "one"), queued(store, "two")
        dead, alive = leased(store), leased(store, OTHER)
        assert store.owners() == {WORKER, OTHER}
        assert store.release_owner(WORKER) == 1
        assert store.owners() == {OTHER}
        states = [store.job(lease.job_id).state for lease in (dead, alive)]
        assert states == [JobState.QUEUED, JobState.RUNNING]

    def test_the_end_of_a_node_is_its_checkpoint(self, store: Store, tmp_path: Path) -> None:
        lease = queued_and_leased(store)
        store.end_search(lease, "all 3 trials are done")
        made = NewCheckpoint("out", tmp_path / "out.safetensors", SHA, 2**40, {"x": 1}, {"y": 2})
        store.finish_node(lease, 0.5, made)
        assert store.job(lease.job_id).state is JobState.DONE
        found = store.checkpoint(lease.node_id)
        assert found is not None
        assert (found.sha256, found.size, found.inspection, found.recipe) == (SHA, 2**40, {"x": 1}, {"y": 2})

    def test_who_made_a_checkpoint_is_found_by_its_hash(self, store: Store, tmp_path: Path) -> None:
        lease = queued_and_leased(store)
        made = NewCheckpoint("out", tmp_path / "out.safetensors", SHA, 9, {}, {"weights": {"IN00": 0.3}})
        store.finish_node(lease, 0.5, made)
        job, (node,) = store.job(lease.job_id), store.nodes(lease.job_id)
        maker = Maker(job.id, job.name, node.name, {"weights": {"IN00": 0.3}})
        assert store.makers([SHA, "f" * 64]) == {SHA: maker}
        assert store.makers([]) == {}

    # Trials.

    def test_a_trial_left_open_is_found_again_with_its_weights_and_renders(self, store: Store) -> None:
        lease = queued_and_leased(store)
        trial = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 0.3})
        store.add_renders(lease, trial.id, [NewRender(1, SHA, 0.1, {"clip": 0.3, "laion": 5.0})])
        again = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 0.9})
        assert again == trial
        assert [(r.probe, r.scores) for r in store.renders(trial.id)] == [(1, {"clip": 0.3, "laion": 5.0})]

    def test_failed_trials_have_no_score_and_are_counted_until_one_succeeds(self, store: Store) -> None:
        lease = queued_and_leased(store)
        counts = []
        for number in range(2):
            trial = store.open_trial(lease, TrialKind.SEARCH, number, {})
            counts.append(store.fail_trial(lease, trial.id, "black image", 1.0, {}))
        run_trial(store, lease, 2, 0.5)
        trial = store.open_trial(lease, TrialKind.SEARCH, 3, {})
        counts.append(store.fail_trial(lease, trial.id, "black image", 1.0, {}))
        assert counts == [1, 2, 1]
        assert [trial.score for trial in store.ended_trials(lease.node_id)] == [None, None, 0.5, None]
        assert store.trial_counts(lease.node_id) == {TrialState.FAILED: 3, TrialState.DONE: 1}

    def test_the_best_trial_is_the_earliest_of_the_highest(self, store: Store) -> None:
        lease = queued_and_leased(store)
        assert store.best_trial(lease.node_id) is None
        for number, score in enumerate([0.2, None, 0.7, 0.7, 0.1]):
            run_trial(store, lease, number, score)
        best = store.best_trial(lease.node_id)
        assert best is not None
        assert best.number == 2

    def test_what_may_not_win_and_what_is_estimated_are_never_the_best(self, store: Store) -> None:
        lease = queued_and_leased(store)
        baseline = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 1.0})
        store.finish_trial(lease, baseline.id, 0.9, 1.0, {}, looks=Looks(may_win=False))
        stopped = store.open_trial(lease, TrialKind.SEARCH, 1, {"IN00": 0.3})
        store.stop_trial(lease, stopped.id, 1.0, {}, found=Estimate(0.8, 0.01, 4, 0.02), reason="behind")
        assert store.best_trial(lease.node_id) is None
        run_trial(store, lease, 2, 0.1)
        best = store.best_trial(lease.node_id)
        assert best is not None
        assert best.number == 2

        read = store.trial(stopped.id)
        assert (read.state, read.score, read.reason) == (TrialState.STOPPED, None, "behind")
        assert (read.estimate, read.standard_error, read.probes_seen) == (0.8, 0.01, 4)
        assert [trial.estimate for trial in store.ended_trials(lease.node_id)] == [None, 0.8, None]
        with pytest.raises(Conflict):
            store.finish_trial(lease, stopped.id, 0.9, 1.0, {})

    def test_the_best_and_the_latest_trials_can_be_read_alone(self, store: Store) -> None:
        lease = queued_and_leased(store)
        for number, score in enumerate([0.9, 0.1, 0.8, 0.2, 0.8]):
            run_trial(store, lease, number, score)
        stopped = store.open_trial(lease, TrialKind.SEARCH, 5, {"IN00": 0.3})
        store.stop_trial(lease, stopped.id, 1.0, {}, found=Estimate(0.85, 0.01, 4, 0.02), reason="behind")
        failed = store.open_trial(lease, TrialKind.SEARCH, 6, {"IN00": 0.4})
        store.fail_trial(lease, failed.id, "black image", 1.0, {})
        store.open_trial(lease, TrialKind.SEARCH, 7, {"IN00": 0.5})
        read = {most: [t.number for t in store.ended_trials(lease.node_id, most)] for most in (1, 2, 3, 9)}
        assert read == {1: [0, 6], 2: [0, 5, 6], 3: [0, 2, 4, 5, 6], 9: [0, 1, 2, 3, 4, 5, 6]}

    def test_a_trial_ends_once(self, store: Store) -> None:
        lease = queued_and_leased(store)
        run_trial(store, lease, 0, 0.5)
        trial = store.trials(lease.node_id)[0]
        with pytest.raises(Conflict, match="is done and cannot become failed"):
            store.fail_trial(lease, trial.id, "late", 1.0, {})

    def test_renders_are_counted_with_the_time_they_took(self, store: Store) -> None:
        lease = queued_and_leased(store)
        assert store.render_totals(lease.node_id) == (0, 0.0)
        for number in range(2):
            trial = store.open_trial(lease, TrialKind.SEARCH, number, {})
            probes = [NewRender(probe, SHA, 0.25, {"clip": 0.5}) for probe in range(3)]
            store.add_renders(lease, trial.id, probes)
        assert store.render_totals(lease.node_id) == (6, 1.5)

    # Events.

    def test_events_can_be_read_on_from_any_of_them(self, store: Store) -> None:
        lease = queued_and_leased(store)
        run_trial(store, lease, 0, 0.5)
        events = store.events(lease.job_id)
        assert [event.id for event in events] == sorted(event.id for event in events)
        assert [event.kind for event in events][-5:] == [
            "node.state",
            "job.state",
            "lease.taken",
            "trial.opened",
            "trial.done",
        ]
        assert store.events(lease.job_id, after=events[2].id) == events[3:]
        assert store.events(lease.job_id, after=events[0].id, limit=2) == events[1:3]
        assert store.last_event_id(lease.job_id) == events[-1].id

    # Values.

    def test_a_trial_keeps_its_choices_and_a_resumed_one_those_that_it_had(self, store: Store) -> None:
        lease = queued_and_leased(store)
        trial = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 0.5}, {"text_encoder": "b"})
        again = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 0.9}, {"text_encoder": "a"})
        assert again.choices == store.trial(trial.id).choices == {"text_encoder": "b"}
        assert store.open_trial(lease, TrialKind.SEARCH, 1, {}).choices is None
        store.finish_trial(lease, trial.id, 0.5, 1.0, {})
        assert [ended.choices for ended in store.ended_trials(lease.node_id)] == [{"text_encoder": "b"}]

    def test_numbers_come_back_to_the_last_bit(self, store: Store) -> None:
        numbers = [0.1 + 0.2, 1 / 3, math.pi, math.nextafter(1.0, 0.0), 5e-324, -1.7976931348623157e308]
        weights = {f"IN{i:02}": number for i, number in enumerate(numbers)}
        lease = queued_and_leased(store)
        trial = store.open_trial(lease, TrialKind.SEARCH, 0, weights)
        renders = [NewRender(i, SHA, number, {"clip": number}) for i, number in enumerate(numbers)]
        store.add_renders(lease, trial.id, renders)
        store.finish_trial(lease, trial.id, numbers[0], numbers[1], {"merge": numbers[2]})
        read = store.trial(trial.id)
        assert read.weights == weights
        assert (read.score, read.seconds, read.timings) == (numbers[0], numbers[1], {"merge": numbers[2]})
        (ended,) = store.ended_trials(lease.node_id)
        assert (ended.weights, ended.score, ended.seconds) == (weights, numbers[0], numbers[1])
        stored = store.renders(trial.id)
        assert [render.seconds for render in stored] == numbers
        assert [render.scores["clip"] for render in stored] == numbers

    def test_text_of_any_kind_comes_back_as_it_was(self, store: Store, tmp_path: Path) -> None:
        odd = {"emoji 🦊": "日本語 \" ' \\ \n % :x ?", "nul": "a\x00b", "nested": [None, True, {"": 1.5}]}
        lease = queued_and_leased(store)
        made = NewCheckpoint("ö", tmp_path / "日本 % 語.safetensors", SHA, 9, odd, odd)
        store.fail_trial(lease, store.open_trial(lease, TrialKind.SEARCH, 0, {}).id, str(odd), 1.0, {})
        store.finish_node(lease, 0.5, made)
        found = store.checkpoint(lease.node_id)
        assert found is not None
        assert (found.inspection, found.recipe, found.path) == (odd, odd, str(made.path))
        assert store.trials(lease.node_id)[0].reason == str(odd)

    # Afterwards.

    def test_all_renders_of_a_node_are_read_at_once(self, store: Store) -> None:
        lease = queued_and_leased(store)
        trials = {}
        for kind, number in ((TrialKind.SEARCH, 0), (TrialKind.SEARCH, 1), (TrialKind.HELDOUT_A, 0)):
            trial = store.open_trial(lease, kind, number, {})
            renders = [NewRender(probe, SHA, 0.1, {"clip": number + probe / 10}) for probe in (1, 0)]
            store.add_renders(lease, trial.id, renders)
            trials[trial.id] = kind
        found = store.node_renders(lease.node_id)
        assert found == {trial_id: store.renders(trial_id) for trial_id in trials}
        assert [render.probe for render in next(iter(found.values()))] == [0, 1]
        searched = store.node_renders(lease.node_id, kinds=[TrialKind.SEARCH])
        assert set(searched) == {trial_id for trial_id, kind in trials.items() if kind is TrialKind.SEARCH}

    def test_an_export_is_recorded_and_a_checkpoint_is_there_again(
        self, store: Store, tmp_path: Path
    ) -> None:
        lease = queued_and_leased(store)
        made = NewCheckpoint("out", tmp_path / "out.safetensors", SHA, 9, {}, {})
        store.finish_node(lease, 0.5, made)
        store.record_export(lease.node_id, 3, "softer", SHA)
        store.restore_checkpoint(lease.node_id, tmp_path / "elsewhere" / "out.safetensors")
        found = store.checkpoint(lease.node_id)
        assert found is not None
        assert (found.path, found.collected_at) == (str(tmp_path / "elsewhere" / "out.safetensors"), None)
        exported, restored = store.events(lease.job_id)[-2:]
        assert (exported.kind, exported.data["trial"], exported.data["name"]) == (
            "checkpoint.exported",
            3,
            "softer",
        )
        assert (restored.kind, restored.data["sha256"]) == ("checkpoint.made_again", SHA)

    def test_renders_of_a_node_that_is_over_are_given_up_and_keep_their_scores(self, store: Store) -> None:
        lease = queued_and_leased(store)
        trials = [store.open_trial(lease, TrialKind.SEARCH, number, {}).id for number in range(3)]
        for trial_id in trials:
            store.add_renders(
                lease, trial_id, [NewRender(probe, SHA, 0.1, {"clip": 0.5}) for probe in (0, 1)]
            )
            store.finish_trial(lease, trial_id, 0.5, 1.0, {})
        seen: list[str] = []

        def all_but_the_first(node: NodeRecord, found: Sequence[TrialRecord]) -> list[int]:
            seen.append(node.name)
            return [trial.id for trial in found[1:]]

        assert store.collect_renders(lease.job_id, all_but_the_first, dry_run=False) == []
        assert seen == [], "the node still runs"
        store.finish_node(lease, 0.5, None)
        expected = [GivenUp("01b", frozenset(trials[1:]), 4)]
        assert store.collect_renders(lease.job_id, all_but_the_first, dry_run=True) == expected
        assert all(render.state is RenderState.STORED for render in store.renders(trials[1]))
        assert store.collect_renders(lease.job_id, all_but_the_first, dry_run=False) == expected
        assert store.collect_renders(lease.job_id, all_but_the_first, dry_run=False) == []
        assert [render.scores for render in store.renders(trials[1])] == [{"clip": 0.5}] * 2
        assert store.events(lease.job_id)[-1].kind == "renders.collected"
        uses = store.image_uses(["cd" * 32, SHA])
        assert sorted((use.trial_id, use.state) for use in uses) == sorted(
            (trial_id, RenderState.STORED if trial_id == trials[0] else RenderState.COLLECTED)
            for trial_id in trials * 2
        )

    def test_outputs_on_the_way_to_the_final_one_are_given_up_once_it_is_written(
        self, store: Store, tmp_path: Path
    ) -> None:
        job = store.create_job(new_job("out", ("one", "two", "three")))
        first = leased(store)
        store.finish_node(first, 0.5, NewCheckpoint("out 01b", tmp_path / "01b", "cd" * 32, 9, {}, {}))
        assert store.collect_checkpoints(job.id, dry_run=False) == []
        store.finish_node(leased(store), 0.6, NewCheckpoint("out", tmp_path / "out", SHA, 9, {}, {}))
        assert [made.name for made in store.collect_checkpoints(job.id, dry_run=True)] == ["out 01b"]
        assert store.collected_checkpoints() == []
        assert [made.name for made in store.collect_checkpoints(job.id, dry_run=False)] == ["out 01b"]
        assert [made.name for made in store.collected_checkpoints()] == ["out 01b"]
        assert store.events(job.id)[-1].data["size"] == 9
        store.restore_checkpoint(first.node_id, tmp_path / "01b")
        assert store.collected_checkpoints() == []

    def test_jobs_at_rest_are_those_in_which_nothing_happens_by_itself(self, store: Store) -> None:
        jobs = {name: queued(store, name).id for name in ("queued", "paused", "cancelled", "done")}
        store.pause_job(jobs["paused"])
        store.cancel_job(jobs["cancelled"])
        lease = store.lease_node(WORKER, 30, job_id=jobs["done"])
        assert lease is not None
        store.finish_node(lease, 0.5, None)
        assert [job.id for job in store.jobs_at_rest()] == [
            jobs[name] for name in ("paused", "cancelled", "done")
        ]

    def test_a_scorers_numbers_are_added_to_the_renders_that_lack_them(self, store: Store) -> None:
        lease = queued_and_leased(store)
        done, failed, opened = (
            store.open_trial(lease, TrialKind.SEARCH, number, {}).id for number in range(3)
        )
        for trial_id in (done, failed, opened):
            renders = [NewRender(probe, SHA, 0.1, {"clip": 0.5}) for probe in range(3)]
            store.add_renders(lease, trial_id, renders)
        store.finish_trial(lease, done, 0.5, 1.0, {})
        store.fail_trial(lease, failed, "black image", 1.0, {})
        assert store.unscored_counts(lease.node_id, "laion") == {RenderState.STORED: 3}
        assert store.unscored_counts(lease.node_id, "clip") == {}
        first, second, third = store.unscored(lease.node_id, "laion", after=0, limit=9)
        assert (first.kind, first.probe, third.probe, first.sha256) == (TrialKind.SEARCH, 0, 2, SHA)
        assert store.unscored(lease.node_id, "laion", after=first.id, limit=1) == [second]
        assert store.add_scores(lease.job_id, "laion", {first.id: 5.0, second.id: 6.0}) == 2
        assert store.add_scores(lease.job_id, "laion", {second.id: 9.0, third.id: 7.0}) == 1
        scores = [render.scores for render in store.renders(done)]
        assert scores == [{"clip": 0.5, "laion": number} for number in (5.0, 6.0, 7.0)]
        assert store.unscored(lease.node_id, "laion", after=0, limit=9) == []
        assert [render.scores for render in store.renders(opened)] == [{"clip": 0.5}] * 3
        assert store.trial(done).score == 0.5

    def test_a_scorer_judges_a_node_with_one_model_alone(self, store: Store) -> None:
        job = new_job()
        plan = {"search": {"trials": 3}, "scorers": [{"scorer": "clip", "model": "/clip"}]}
        (node,) = store.nodes(store.create_job(replace(job, nodes=[replace(job.nodes[0], plan=plan)])).id)
        for _ in range(2):
            store.begin_rescore(node.id, ScorerSpec(scorer="laion", model="/laion"))
        store.begin_rescore(node.id, ScorerSpec(scorer="clip", model="/clip"))
        for scorer in ("laion", "clip"):
            with pytest.raises(Conflict, match=f"has numbers of {scorer} with the model /{scorer}"):
                store.begin_rescore(node.id, ScorerSpec(scorer=scorer, model="/other"))
        begun = [event.data for event in store.events(node.job_id) if event.kind == "rescore.begun"]
        assert [(data["scorer"], data["model"]) for data in begun] == [("laion", "/laion")]

    def test_less_is_better_may_be_said_of_an_added_scorer_alone(self, store: Store) -> None:
        job = new_job()
        plan = {"search": {"trials": 3}, "scorers": [{"scorer": "clip"}], "watch": [{"scorer": "sharpness"}]}
        (node,) = store.nodes(store.create_job(replace(job, nodes=[replace(job.nodes[0], plan=plan)])).id)
        for reverse in (False, True, True):
            store.begin_rescore(node.id, ScorerSpec(scorer="laion", reverse=reverse))
        assert {name: spec.reverse for name, spec in store.judges(node.id).items()} == {
            "laion": True,
            "clip": False,
            "sharpness": False,
        }
        for scorer in ("clip", "sharpness"):
            with pytest.raises(Conflict, match=f"has numbers of {scorer} with the reverse False"):
                store.begin_rescore(node.id, ScorerSpec(scorer=scorer, reverse=True))
        assert sum(event.kind == "rescore.begun" for event in store.events(node.job_id)) == 2

    def test_what_is_told_of_a_trial_comes_back_and_warned_ones_are_counted(self, store: Store) -> None:
        lease = queued_and_leased(store)
        run_trial(store, lease, 0, 0.5)
        seen = Looks({"clip": 0.1 + 0.2, "sharpness": 5.0}, ["score rose while sharpness fell"])
        for number, looks in ((1, seen), (2, Looks({"clip": 0.4}))):
            trial = store.open_trial(lease, TrialKind.SEARCH, number, {})
            store.finish_trial(lease, trial.id, 0.6, 1.0, {}, looks=looks)
        run_trial(store, lease, 3, None)
        told = [(trial.means, trial.warnings) for trial in store.trials(lease.node_id)]
        assert told == [
            (None, None),
            ({"clip": 0.1 + 0.2, "sharpness": 5.0}, ["score rose while sharpness fell"]),
            ({"clip": 0.4}, None),
            (None, None),
        ]
        assert store.warned_trials(lease.node_id) == 1

    # The reference, by which several scorers are normalised.

    def test_nothing_begins_before_the_reference_is_done(self, store: Store) -> None:
        job_id = store.create_job(with_reference()).id
        assert states(store, job_id) == {"01b": "waiting", "average": "waiting", "reference": "ready"}
        lease = leased(store)
        node = store.node(lease.node_id)
        assert (node.name, node.a_model, node.a_sha256) == ("reference", "left", f"{0:064x}")
        assert store.lease_node(OTHER, 30) is None
        store.finish_node(lease, 0.0, None)
        assert states(store, job_id) == {"01b": "ready", "average": "ready", "reference": "done"}

    def test_what_was_paused_or_failed_waits_for_the_reference_again(self, store: Store) -> None:
        job_id = store.create_job(with_reference()).id
        store.pause_job(job_id)
        store.resume_job(job_id)
        assert states(store, job_id) == {"01b": "waiting", "average": "waiting", "reference": "ready"}
        store.fail_node(leased(store), "no spread")
        assert store.job(job_id).state is JobState.FAILED
        assert store.lease_node(OTHER, 30) is None
        store.retry_job(job_id)
        store.finish_node(leased(store), 0.0, None)
        store.pause_job(job_id)
        store.resume_job(job_id)
        assert states(store, job_id) == {"01b": "ready", "average": "ready", "reference": "done"}

    def test_a_token_is_known_by_its_secret_until_it_is_revoked(self, store: Store) -> None:
        assert not store.has_tokens()
        made, secret = store.create_token("anna", Role.SUBMITTER)
        wrong = replace(secret, text=secret.text[:-1] + ("A" if secret.text[-1] != "A" else "B"))
        assert store.token_of(secret) == made
        assert store.token_of(wrong) is None
        session = store.open_session(made.id, 60)
        assert store.token_of_session(session) == made
        with pytest.raises(Conflict, match="'anna' is in use"):
            store.create_token("anna", Role.VIEWER)
        store.revoke_token("anna")
        assert store.token_of(secret) is None
        assert store.token_of_session(session) is None
        with pytest.raises(Conflict, match="revoked already"):
            store.revoke_token(made.id)
        with pytest.raises(NotFound):
            store.revoke_token("bert")
        store.create_token("anna", Role.VIEWER)
        assert store.has_tokens()

    def test_tokens_and_sessions_end_by_themselves(self, store: Store) -> None:
        made, secret = store.create_token("short", Role.VIEWER, time.time() - 1)
        assert store.token_of(secret) is None
        lasting, _ = store.create_token("lasting", Role.VIEWER)
        assert store.token_of_session(store.open_session(lasting.id, -1)) is None
        closed = store.open_session(lasting.id, 60)
        store.close_session(closed.id)
        assert store.token_of_session(closed) is None
        assert store.token_of_session(store.open_session(made.id, 60)) is None, "its token is over"

    def test_the_audit_is_read_back_newest_first(self, store: Store) -> None:
        for number in range(3):
            store.audit(Deed("anna", f"deed {number}", "id", "127.0.0.1", 200, {"n": number}))
        newest, *_ = store.audit_entries(limit=2)
        assert (newest.actor, newest.action, newest.status, newest.data) == ("anna", "deed 2", 200, {"n": 2})
        assert [entry.action for entry in store.audit_entries(before=newest.id)] == ["deed 1", "deed 0"]

    def test_an_answer_is_kept_by_owner_and_key(self, store: Store) -> None:
        assert store.begin_request("anna", "k", "asked") is None
        going = store.begin_request("anna", "k", "asked")
        assert going is not None
        assert going.status is None
        assert store.begin_request("bert", "k", "other") is None
        store.end_request("anna", "k", 201, {"location": "/x"}, b"made")
        kept = store.begin_request("anna", "k", "another")
        assert kept is not None
        assert (kept.fingerprint, kept.status, kept.headers, kept.body) == (
            "asked",
            201,
            {"location": "/x"},
            b"made",
        )
        store.forget_request("anna", "k")
        assert store.begin_request("anna", "k", "another") is None

    def test_a_change_of_what_was_not_seen_is_refused(self, store: Store) -> None:
        job = queued(store)
        seen = store.having_seen(store.last_event_id(job.id))
        seen.set_priority(job.id, 1)
        with pytest.raises(Stale, match="has changed since it was read"):
            seen.set_priority(job.id, 2)
        assert store.job(job.id).priority == 1
        store.set_priority(job.id, 3)

    def test_a_submitter_has_so_many_jobs_at_once(self, store: Store) -> None:
        mine = replace(new_job(), submitted_by="anna", limit=1)
        first = store.create_job(mine)
        with pytest.raises(TooMany):
            store.create_job(replace(new_job("second"), submitted_by="anna", limit=1))
        store.create_job(replace(new_job("second"), submitted_by="bert", limit=1))
        store.cancel_job(first.id)
        store.create_job(replace(new_job("third"), submitted_by="anna", limit=1))

    def test_jobs_are_listed_on_from_one_of_them(self, store: Store) -> None:
        made = [queued(store, f"out {number}").id for number in range(3)]
        listed = [job.id for job in store.jobs()]
        assert sorted(listed) == sorted(made)
        assert [job.id for job in store.jobs(after=listed[0])] == listed[1:]
        with pytest.raises(NotFound):
            store.jobs(after="nope")
