"""The calls of the API: for each what is sent, and what its answer is read as.

The models are those of the service. They are imported when they are needed: SQLAlchemy comes with some, and
a command should not wait for what it does not use.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from service.access.roles import Role
from service.client.errors import NoService

if TYPE_CHECKING:
    from optimizer.checkpoints import Inspection
    from service.afterwards.export import Exported
    from service.afterwards.gc import Collected
    from service.afterwards.rescore import Rescored
    from service.afterwards.retally import Retally
    from service.api.access import MadeToken, Whoami
    from service.api.views import (
        BracketRow,
        EventView,
        Health,
        JobRender,
        JobView,
        ModelView,
        TrialDetail,
        TrialView,
    )
    from service.db.access import AuditRecord, TokenRecord
    from service.db.records import WorkerRecord
    from service.progress import JobProgress

T = TypeVar("T")
JOBS = "/api/v1/jobs"
KEY_HEADER = "Idempotency-Key"


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. answer: what its JSON is read as. A POST has an idempotency key, so it can be repeated."""

    method: str
    path: str
    answer: Any
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def built(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, the same each time that it is sent."""
        headers = dict(self.headers)
        if self.method == "POST":
            headers[KEY_HEADER] = str(uuid.uuid4())
        query = {name: value for name, value in self.query.items() if value is not None}
        return http.build_request(self.method, self.path, json=self.body, params=query, headers=headers)

    def read(self, response: httpx.Response) -> T:
        """The answer. Raises NoService when it is none of autombw's."""
        try:
            found: T = TypeAdapter(self.answer).validate_json(response.content)
        except ValidationError as error:
            raise NoService(
                f"{response.request.url} answered what this version does not understand "
                f"({error.error_count()} places); is that an autombw service of the same version?"
            ) from error
        return found


def health() -> Call[Health]:
    """Whether the service is well."""
    from service.api.views import Health

    return Call("GET", "/healthz", Health)


def whoami() -> Call[Whoami]:
    """Whose token this is, and its role."""
    from service.api.access import Whoami

    return Call("GET", "/api/v1/whoami", Whoami)


def submit(request: Mapping[str, Any]) -> Call[JobProgress]:
    """Queue a job; request: as a job file has it. It takes seconds for models of several GB."""
    return _job("POST", JOBS, dict(request))


def bracket(request: Mapping[str, Any]) -> Call[list[BracketRow]]:
    """The tree that a job would get."""
    from service.api.views import BracketRow

    return Call("POST", f"{JOBS}/bracket", list[BracketRow], dict(request))


def jobs(*, page: int = 100) -> Call[list[JobView]]:
    """All jobs, the newest first. page: how many are fetched at once."""
    from service.api.views import JobView

    return Call("GET", JOBS, list[JobView], query={"limit": page})


def job(job_id: str) -> Call[JobProgress]:
    """One job and how far it is."""
    return _job("GET", _of(job_id))


def trials(job_id: str, *, node: str | None = None, page: int = 100) -> Call[list[TrialView]]:
    """The search trials of a node, the final one if none is named."""
    from service.api.views import TrialView

    return Call("GET", f"{_of(job_id)}/trials", list[TrialView], query={"node": node, "limit": page})


def trial(job_id: str, trial_id: int) -> Call[TrialDetail]:
    """One trial with its renders."""
    from service.api.views import TrialDetail

    return Call("GET", f"{_of(job_id)}/trials/{trial_id}", TrialDetail)


def best(job_id: str, *, node: str | None = None) -> Call[TrialDetail]:
    """The best trial of a node so far."""
    from service.api.views import TrialDetail

    return Call("GET", f"{_of(job_id)}/best", TrialDetail, query={"node": node})


def renders(job_id: str, *, node: str | None = None, page: int = 100) -> Call[list[JobRender]]:
    """Every render of a node with its scores."""
    from service.api.views import JobRender

    return Call("GET", f"{_of(job_id)}/renders", list[JobRender], query={"node": node, "limit": page})


def log(job_id: str, *, after: int = 0, page: int = 100) -> Call[list[EventView]]:
    """What has happened in a job so far; `events` follows it."""
    from service.api.views import EventView

    return Call("GET", f"{_of(job_id)}/log", list[EventView], query={"after": after or None, "limit": page})


def recipe(job_id: str, *, node: str | None = None) -> Call[dict[str, Any]]:
    """The recipe of a merged checkpoint."""
    return Call("GET", f"{_of(job_id)}/recipe", dict[str, Any], query={"node": node})


def pause(job_id: str, *, if_match: str | None = None) -> Call[JobProgress]:
    """Stop working on a job until it is resumed. if_match: the ETag of the job as it was seen."""
    return _act(job_id, "pause", if_match)


def resume(job_id: str, *, if_match: str | None = None) -> Call[JobProgress]:
    """Go on with a paused job."""
    return _act(job_id, "resume", if_match)


def cancel(job_id: str, *, if_match: str | None = None) -> Call[JobProgress]:
    """End a job for good."""
    return _act(job_id, "cancel", if_match)


def retry(job_id: str, *, node: str | None = None, if_match: str | None = None) -> Call[JobProgress]:
    """Go on with a failed or paused job, or one node of it."""
    return _act(job_id, "retry", if_match, query={"node": node})


def extend(job_id: str, node: str, trials: int, *, if_match: str | None = None) -> Call[JobProgress]:
    """Search a finished node for so many trials more."""
    return _act(job_id, f"nodes/{quote(node, safe='')}/extend", if_match, {"trials": trials})


def add_leaves(job_id: str, leaves: Sequence[str], *, if_match: str | None = None) -> Call[JobProgress]:
    """Add models to the bracket of a running job."""
    return _act(job_id, "leaves", if_match, {"leaves": list(leaves)})


def set_priority(job_id: str, priority: int, *, if_match: str | None = None) -> Call[JobProgress]:
    """Change which job comes first: the highest."""
    return _act(job_id, "priority", if_match, {"priority": priority})


def clone(job_id: str, changes: Mapping[str, Any] | None = None) -> Call[JobProgress]:
    """Queue a job again; changes: a JSON merge patch of its request."""
    return _act(job_id, "clone", None, dict(changes or {}))


def retally(job_id: str, **request: Any) -> Call[Retally]:
    """Judge a job's trials anew; request: as RetallyRequest has it."""
    from service.afterwards.retally import Retally

    return Call("POST", f"{_of(job_id)}/retally", Retally, request)


def rescore(job_id: str, **request: Any) -> Call[Rescored]:
    """Let a new scorer judge the stored images; request: as RescoreRequest has it."""
    from service.afterwards.rescore import Rescored

    return Call("POST", f"{_of(job_id)}/rescore", Rescored, request)


def export(job_id: str, **request: Any) -> Call[Exported]:
    """Write the merge of any trial; request: as ExportRequest has it."""
    from service.afterwards.export import Exported

    return Call("POST", f"{_of(job_id)}/export", Exported, request)


def gc(**request: Any) -> Call[Collected]:
    """Give up images and checkpoints; request: as CollectRequest has it. A dry run unless it says not."""
    from service.afterwards.gc import Collected

    return Call("POST", "/api/v1/gc", Collected, request)


def models() -> Call[list[ModelView]]:
    """The models that jobs may name."""
    from service.api.views import ModelView

    return Call("GET", "/api/v1/models", list[ModelView])


def workers() -> Call[list[WorkerRecord]]:
    """The workers that live, and what each is at."""
    from service.db.records import WorkerRecord

    return Call("GET", "/api/v1/workers", list[WorkerRecord])


def model(name: str) -> Call[Inspection]:
    """What a model is."""
    from optimizer.checkpoints import Inspection

    return Call("GET", f"/api/v1/models/{quote(name, safe='')}", Inspection)


def tokens() -> Call[list[TokenRecord]]:
    """All tokens, without their secrets."""
    from service.db.access import TokenRecord

    return Call("GET", "/api/v1/tokens", list[TokenRecord])


def make_token(name: str, role: Role, *, expires_days: float | None = None) -> Call[MadeToken]:
    """Make a token."""
    from service.api.access import MadeToken

    body = {"name": name, "role": role, "expires_days": expires_days}
    return Call("POST", "/api/v1/tokens", MadeToken, body)


def revoke_token(name: str) -> Call[TokenRecord]:
    """End a token, by its id or name."""
    from service.db.access import TokenRecord

    return Call("DELETE", f"/api/v1/tokens/{quote(name, safe='')}", TokenRecord)


def audit(*, page: int = 100) -> Call[list[AuditRecord]]:
    """Who did what, the newest first."""
    from service.db.access import AuditRecord

    return Call("GET", "/api/v1/audit", list[AuditRecord], query={"limit": page})


def image_path(sha256: str) -> str:
    """Where an image is."""
    return f"/api/v1/images/{quote(sha256, safe='')}.png"


def artefact_path(job_id: str) -> str:
    """Where a merged checkpoint is."""
    return f"{_of(job_id)}/artefact"


def events_path(job_id: str) -> str:
    """Where a job's events are streamed."""
    return f"{_of(job_id)}/events"


def next_page(response: httpx.Response) -> str | None:
    """The address of the page after this one; None where it is the last."""
    link = response.links.get("next", {}).get("url")
    return None if link is None else str(response.request.url.join(link))


def _of(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _job(method: str, path: str, body: Any = None, **more: Any) -> Call[JobProgress]:
    from service.progress import JobProgress

    return Call(method, path, JobProgress, body, **more)


def _act(job_id: str, action: str, if_match: str | None, body: Any = None, **more: Any) -> Call[JobProgress]:
    headers = {} if if_match is None else {"If-Match": if_match}
    return _job("POST", f"{_of(job_id)}/{action}", body, headers=headers, **more)
