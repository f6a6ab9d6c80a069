"""An installation with a job of many renders that a worker goes on with, and a server to be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from service.access.roles import Role
from service.catalog import Catalog
from service.images import store_images
from service.jobs import JobRequest
from service.planning import validate_job
from tests.storms.fleet import Member
from tests.storms.many_trials import fill
from tests.storms.site import Site
from tests.tiny_models import job, write_models, write_reward

PROBES = 20
IMAGES, PIXELS = 200, 512
OTHER_JOBS = 50


@dataclass(frozen=True)
class Installation:
    """A server and a worker that run.

    token: a viewer's, as most who look are. hashes: of the images there are; last_trial: the highest id of
    the trials written in bulk, last_event: of the events.
    """

    site: Site
    api: Member
    worker: Member
    job_id: str
    node: str
    token: str
    hashes: list[str]
    last_trial: int
    last_event: int

    @property
    def url(self) -> str:
        """Where the server answers."""
        return self.site.fleet.server


@contextmanager
def installation(folder: Path, renders: int, steps: int) -> Iterator[Installation]:
    """A job with about so many renders that a worker goes on with, 50 jobs behind it, and tokens asked for.

    steps: of the sampler, which say how often the tiny model ends a trial.
    The rows are those that a search writes, only written in bulk: 20 probes a trial, with scores and events.
    Behind the 100,000 lie 200 different images of 512 pixels.
    """
    write_models(folder / "models")
    write_reward(folder / "scorers" / "reward")
    changes = {"max_batch": 4, "log_level": "info", "lease_seconds": 30, "request_rate": 0}
    with Site(folder / "site", folder / "models", folder / "scorers", **changes) as site:
        hashes = store_images(site.settings.renders_dir, [_picture(number) for number in range(IMAGES)])
        trials = renders // PROBES
        # So many are planned that the search doesn't end while it is measured.
        job_id = site.queue(**_big_job(trials + 1_000_000, steps))
        fill(site, job_id, trials, images=hashes)
        _queue_others(site)
        _, secret = site.store.create_token("spectator", Role.VIEWER)
        api, worker = site.fleet.start_api(), site.fleet.start_worker()
        yield Installation(
            site=site,
            api=api,
            worker=worker,
            job_id=job_id,
            node=site.node(job_id).name,
            token=secret.text,
            hashes=hashes,
            last_trial=trials,
            last_event=site.store.last_event_id(job_id),
        )


def _queue_others(site: Site) -> None:
    """Jobs that wait their turn. One catalog looks at their models once."""
    catalog = Catalog(site.settings.models_dir)
    for number in range(OTHER_JOBS):
        request = JobRequest.model_validate(job(name=f"other {number}", output=f"other-{number}"))
        site.store.create_job(validate_job(request, site.settings, catalog))


def _big_job(trials: int, steps: int) -> dict[str, object]:
    defaults = {"sampler": "Euler", "steps": steps, "width": 32, "height": 32}
    return {
        "probes": {
            "defaults": defaults,
            "prompts": ["a cat", "a red apple"],
            "seeds": list(range(PROBES // 2)),
        },
        "heldout": None,
        "search": {"sampler": "random", "trials": trials},
    }


def _picture(number: int) -> Image.Image:
    """A picture with colours that flow and some grain, as large in its file as a rendered one."""
    drawn = np.random.default_rng(number)
    coarse = Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = drawn.integers(-6, 7, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
