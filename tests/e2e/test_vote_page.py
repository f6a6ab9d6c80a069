"""Vote, gallery and workers in a real browser, on a service whose database holds 100,000 renders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import insert
from sqlalchemy.orm import Session

from optimizer.blocks import BLOCKS, uniform
from service.api.app import create_app
from service.catalog import Catalog
from service.db.models import Render, Trial
from service.db.records import Lease, NewRender, WorkerSign
from service.db.states import TrialKind, TrialState
from service.db.store import Store
from service.images import store_images
from service.jobs import parse_request
from service.planning import validate_job
from service.settings import Settings, load_settings
from tests.e2e.browser import PHONE, Visitor
from tests.integration.conftest import free_port, healthy, wait_until
from tests.tiny_models import job

pytestmark = pytest.mark.slow
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
MANY, PROBES = 1000, 100


@dataclass(frozen=True)
class Site:
    """A service without a worker, whose store the test writes to."""

    url: str
    settings: Settings
    store: Store

    def queued(self, name: str, **changes: object) -> str:
        """A job that waits for a worker; its id."""
        request = job(name=name, output=name.split(maxsplit=1)[0], **changes)
        new = validate_job(parse_request(request, "test"), self.settings, Catalog(self.settings.models_dir))
        return self.store.create_job(new).id

    def voting(self, name: str, needed: int) -> str:
        """A job whose merge waits for votes on four trials; its id."""
        probes = {**job()["probes"], "prompts": [HOSTILE, "a red apple"]}
        job_id = self.queued(name, scorers=[{"scorer": "human"}], probes=probes)
        lease = self.lease(job_id)
        for number in range(4):
            trial = self.store.open_trial(lease, TrialKind.SEARCH, number, {})
            colours = [Image.new("RGB", (96, 96), (60 * number, 200 - 40 * p, 90)) for p in range(2)]
            hashes = store_images(self.settings.renders_dir, colours)
            renders = [NewRender(p, sha256, 0.1, {}) for p, sha256 in enumerate(hashes)]
            self.store.add_renders(lease, trial.id, renders)
            self.store.park_trial(lease, trial.id, 1.0, {})
        self.store.await_votes(lease, needed, f"waits for {needed} votes")
        return job_id

    def lease(self, job_id: str) -> Lease:
        lease = self.store.lease_node("host:1:w", 3600.0, job_id=job_id)
        assert lease is not None
        return lease


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    settings = load_settings(
        models_dir=tiny_models, scorers_dir=tiny_scorers, data_dir=folder / "data", device="cpu"
    )
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: healthy(url), "the service to listen", 120)
    store = Store(settings.database_url)
    yield Site(url, settings, store)
    store.close()
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    visitor = Visitor(browser, site.url)
    yield visitor
    visitor.leave()


def votes(site: Site, job_id: str) -> list[tuple[str, str]]:
    """(voter, outcome) of every vote on a job."""
    (node,) = site.store.nodes(job_id)
    return [(vote.voter, vote.outcome.value) for vote in site.store.votes(node.id)]


def images(page: Page) -> list[str]:
    """The addresses of both images."""
    return [str(image.get_attribute("src")) for image in page.locator(".vote-side img").all()]


def test_nothing_waits_and_then_something_does(visitor: Visitor, site: Site) -> None:
    page = visitor.open("/vote")
    expect(page.get_by_text("Nothing waits for votes")).to_be_visible()
    job_id = site.voting("appears", 2)
    expect(page.locator(".vote-head")).to_contain_text("0 of 2 votes", timeout=10_000)
    expect(page.locator(".vote-head")).to_contain_text("appears · 01b")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".vote-head")).to_contain_text("1 of 2 votes")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Nothing waits for votes")).to_be_visible()
    assert [outcome for _, outcome in votes(site, job_id)] == ["left", "right"]
    assert site.store.job(job_id).state == "queued", "the search goes on"
    site.store.cancel_job(job_id)


def test_keys_a_double_click_and_undo(visitor: Visitor, site: Site) -> None:
    job_id = site.voting("keys", 6)
    page = visitor.open("/vote")
    expect(page.locator(".vote-head")).to_contain_text("0 of 6 votes")
    first = images(page)
    page.get_by_label("Your name").fill("anna")
    page.get_by_label("Your name").blur()
    page.keyboard.press(" ")
    expect(page.locator(".vote-head")).to_contain_text("1 of 6 votes")
    second = images(page)
    assert set(second) != set(first), "another pair"
    page.get_by_role("button", name="The left image is better").dblclick()
    page.wait_for_function("!document.querySelector('.vote-head').textContent.includes('1 of 6')")
    taken = [outcome for _, outcome in votes(site, job_id)]
    assert taken[:2] == ["tie", "left"]

    before = len(votes(site, job_id))
    page.keyboard.press("u")
    expect(page.locator(".vote-head")).to_contain_text(f"{before - 1} of 6 votes")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".vote-head")).to_contain_text(f"{before} of 6 votes")
    found = votes(site, job_id)
    assert found[-1] == ("anna", "right"), "the one that was taken back, judged anew"
    assert page.evaluate("window.hacked") is None
    site.store.cancel_job(job_id)


def test_a_prompt_is_shown_as_text_and_a_phone_can_vote(browser: Browser, site: Site) -> None:
    job_id = site.voting("phone", 3)
    visitor = Visitor(browser, site.url, viewport=PHONE, has_touch=True, is_mobile=True)
    page = visitor.open(f"/vote?job={job_id}")
    expect(page.locator(".vote-head")).to_contain_text("0 of 3 votes")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    tie = page.get_by_role("button", name="Neither")
    box = tie.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= PHONE["height"], "it is reached without scrolling"
    page.get_by_role("button", name="The right image is better").tap()
    expect(page.locator(".vote-head")).to_contain_text("1 of 3 votes")
    tie.tap()
    expect(page.locator(".vote-head")).to_contain_text("2 of 3 votes")
    assert page.evaluate("window.hacked") is None
    visitor.leave()
    site.store.cancel_job(job_id)


@pytest.fixture(scope="module")
def crowded(site: Site) -> str:
    """A job with 100,000 renders of 200 different images; its id."""
    made = site.voting("crowd of renders", 9)
    (node,) = site.store.nodes(made)
    pictures = [Image.new("RGB", (300, 300), (i, 255 - i, (7 * i) % 256)) for i in range(200)]
    hashes = store_images(site.settings.renders_dir, pictures)
    with Session(site.store.engine) as session, session.begin():
        trials = [
            {"node_id": node.id, "kind": TrialKind.SEARCH, "number": 10 + i, "state": TrialState.DONE}
            | {"weights": uniform(BLOCKS, i / MANY), "score": i / MANY, "created_at": 1.0}
            for i in range(MANY)
        ]
        ids = session.scalars(insert(Trial).returning(Trial.id), trials).all()
        for trial in ids:
            rows = [
                {"trial_id": trial, "probe": p, "sha256": hashes[(trial + p) % 200], "seconds": 0.1}
                | {"created_at": 1.0}
                for p in range(PROBES)
            ]
            session.execute(insert(Render), rows)
    return made


def test_the_gallery_scrolls_through_a_hundred_thousand_renders(
    visitor: Visitor, site: Site, crowded: str
) -> None:
    page = visitor.open("/gallery")
    expect(page.locator(".gallery-bar")).to_contain_text("100,0")
    page.locator(".tile img").first.wait_for()
    expect(page.get_by_text("No renders here")).to_be_hidden()
    page.wait_for_function("[...document.querySelectorAll('.tile img')].some(i => i.naturalWidth > 0)")
    page.evaluate(
        """() => { window.longest = 0; let before = performance.now();
        const beat = () => { const now = performance.now(); longest = Math.max(longest, now - before);
        before = now; requestAnimationFrame(beat); }; requestAnimationFrame(beat); }"""
    )
    loaded = 0
    for _ in range(30):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_function(f"+document.getElementById('gallery').dataset.loaded > {loaded}")
        loaded = int(page.evaluate("document.getElementById('gallery').dataset.loaded"))
    assert loaded >= 7000
    assert page.locator(".tile").count() < 300, "only what can be seen is in the document"
    assert page.evaluate("longest") < 1000, "it never stalls"
    page.get_by_label("Job", exact=True).select_option(crowded)
    page.get_by_label("Trial", exact=True).fill("700")
    page.get_by_label("Trial", exact=True).press("Enter")
    expect(page.locator(".gallery-bar")).to_contain_text("100 images")
    expect(page.locator(".tile").first).to_contain_text("trial 700")
    page.get_by_label("Trials", exact=True).select_option("heldout")
    expect(page.get_by_text("No renders here")).to_be_visible()


def test_workers_are_shown_with_what_they_do(visitor: Visitor, site: Site) -> None:
    page = visitor.open("/workers")
    expect(page.locator(".empty-title")).to_have_text("No worker lives")
    sign = WorkerSign("host:1:w", "host", 1, "cuda:0", HOSTILE, 3 * 10**9, 24 * 10**9, 1.0)
    site.store.show_worker(sign, 60)
    expect(page.locator("h2", has_text="host, process 1")).to_be_visible(timeout=10_000)
    expect(page.locator(".stat-value").first).to_have_text("3.0 GB of 24.0 GB")
    expect(page.get_by_text("waits for work")).to_be_visible()
    job_id = site.queued("at work")
    lease = site.lease(job_id)
    trial = site.store.open_trial(lease, TrialKind.SEARCH, 7, {})
    expect(page.get_by_text("trial 7", exact=False)).to_be_visible(timeout=10_000)
    expect(page.get_by_text("waits for work")).to_be_hidden()
    (sha256,) = store_images(site.settings.renders_dir, [Image.new("RGB", (8, 8), "red")])
    site.store.add_renders(lease, trial.id, [NewRender(0, sha256, 0.1, {})])
    expect(page.get_by_text("1 image of it is stored")).to_be_visible(timeout=10_000)
    page.get_by_role("link", name="at work").click()
    page.wait_for_url(f"**/jobs/{job_id}")
    site.store.cancel_job(job_id)
    page.go_back()
    expect(page.get_by_text("waits for work")).to_be_visible(timeout=10_000)
    assert page.evaluate("window.hacked") is None


def test_models_are_inspected_and_screenings_listed(visitor: Visitor, site: Site) -> None:
    page = visitor.open("/screening")
    expect(page.locator(".empty-title")).to_have_text("No contact sheets yet")
    folder = site.settings.data_dir / "screenings" / HOSTILE.replace("/", "")
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(folder / "sheet.png")
    page.wait_for_function(
        "[...document.querySelectorAll('section img')].some(i => i.naturalWidth == 64)", timeout=15_000
    )
    page = visitor.open("/models")
    page.locator(".q-expansion-item", has_text="left").click()
    expect(page.get_by_text("sha256")).to_be_visible(timeout=60_000)
    assert page.evaluate("window.hacked") is None
