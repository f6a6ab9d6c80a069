"""An installation of its own, with its processes and its database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from service.catalog import Catalog
from service.db.records import NodeRecord
from service.db.states import JOB_AT_REST, JobState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import load_settings
from tests.storms.fleet import Fleet, Member
from tests.storms.outcome import Outcome, outcome_of
from tests.tiny_models import job

# Short leases, and one render a batch, so that much can be lost; the log tells of every render.
SETTINGS = {"device": "cpu", "lease_seconds": 3, "max_batch": 1, "log_level": "debug"}
PATIENCE = 180.0
Found = TypeVar("Found")


class Site:
    """An installation in a folder; its processes end with the `with` block."""

    def __init__(self, folder: Path, models_dir: Path, scorers_dir: Path, **changes: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folders = {"models_dir": models_dir, "scorers_dir": scorers_dir, "data_dir": folder / "data"}
        values = {name: str(path) for name, path in folders.items()} | SETTINGS | changes
        file = folder / "autombw.toml"
        # JSON's strings and numbers are TOML's too.
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        self.settings = load_settings(file)
        self.fleet = Fleet(file)
        self.store = Store(self.settings.database_url)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_error: object) -> None:
        self.fleet.end()
        self.store.close()

    def queue(self, **changes: Any) -> str:
        """Queue a job of `left` and `right` with these changes; its id."""
        request = JobRequest.model_validate(job(**changes))
        return self.store.create_job(
            validate_job(request, self.settings, Catalog(self.settings.models_dir))
        ).id

    def run(self, **changes: Any) -> Outcome:
        """The outcome of such a job that nobody disturbs."""
        job_id = self.queue(**changes)
        worker = self.fleet.start_worker()
        assert self.wait_rest(job_id) is JobState.DONE, self.node(job_id).reason
        worker.kill()
        return self.outcome(job_id)

    def node(self, job_id: str) -> NodeRecord:
        """The first node of a job."""
        return self.store.nodes(job_id)[0]

    def renders(self, job_id: str) -> int:
        """How many renders of the first node are stored."""
        return self.store.render_totals(self.node(job_id).id)[0]

    def wait(self, true: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
        """The first truthy value of `true`; fails with what the processes said when none comes in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = true()
            if value:
                return value
            time.sleep(0.005)
        said = "\n".join(f"{member.log.name}: {member.says()[-3000:]}" for member in self.fleet.members)
        raise AssertionError(f"waited {seconds:g} s for {what}\n{said}")

    def wait_renders(self, job_id: str, count: int) -> None:
        """Wait until the first node has so many renders."""
        self.wait(lambda: self.renders(job_id) >= count, f"{count} renders")

    def wait_rest(self, job_id: str) -> JobState:
        """Wait until nothing more happens in a job; its state."""
        self.wait(lambda: self.store.job(job_id).state in JOB_AT_REST, "the job to end")
        return self.store.job(job_id).state

    def holder(self, job_id: str) -> Member | None:
        """The process that holds the first node's lease, by what the lease says."""
        owner = self.node(job_id).lease_owner
        pid = owner.split(":")[1] if owner else None
        return next((member for member in self.fleet.members if str(member.pid) == pid), None)

    def outcome(self, job_id: str) -> Outcome:
        """What a job has left."""
        return outcome_of(self.settings, self.store, job_id)
