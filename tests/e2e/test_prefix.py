"""The page behind a real reverse proxy that serves it below a path."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browser import Visitor
from tests.e2e.conftest import Service, all_pages
from tests.e2e.reverse_proxy import proxied

pytestmark = pytest.mark.slow
PREFIX = "/tools/merge"
# Those that can be seen: others are loaded when one scrolls to them.
ALL_LOADED = """() => [...document.images].every(image => {
  const place = image.getBoundingClientRect()
  return place.bottom <= 0 || place.top >= innerHeight || (image.complete && image.naturalWidth > 0)
})"""


@pytest.fixture
def visitor(browser: Browser, service: Service) -> Iterator[Visitor]:
    """Somebody who knows the proxy alone; every request of theirs goes below its path."""
    with proxied(int(service.url.rsplit(":", 1)[1]), PREFIX) as url:
        visitor = Visitor(browser, url)
        yield visitor
        visitor.leave()
        astray = [asked for asked in visitor.asked if f"{PREFIX}/" not in asked or f"{PREFIX}/tools" in asked]
        assert not astray


def test_every_page_works_below_a_path(visitor: Visitor, done: str) -> None:
    for path in all_pages(done):
        page = visitor.open(path)
        page.locator(".panel, .gallery-bar").first.wait_for()
        links = page.eval_on_selector_all("a[href]", "found => found.map(a => a.getAttribute('href'))")
        assert len(links) > 6
        assert not [link for link in links if not link.startswith((f"{PREFIX}/", "#"))], path
        page.wait_for_function(ALL_LOADED)


def test_one_clicks_through_to_the_pictures_and_the_file(visitor: Visitor, done: str) -> None:
    page = visitor.open("/")
    page.get_by_role("link", name="finished").click()
    page.wait_for_url(f"**{PREFIX}/jobs/{done}")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Recipe").click()
    assert saved.value.path().stat().st_size > 100
    page.get_by_role("link", name="01b").click()
    page.wait_for_url(f"**{PREFIX}/jobs/*/nodes/01b")
    page.locator(".shown img").first.wait_for()
    page.wait_for_function(ALL_LOADED)
    page.get_by_role("link", name="Gallery").click()
    page.locator(".tile img").first.wait_for()
    page.wait_for_function(ALL_LOADED)


def test_votes_are_given_below_a_path(visitor: Visitor, service: Service) -> None:
    job_id = service.submit(
        name="judged",
        output="judged",
        scorers=[{"scorer": "human"}],
        heldout=None,
        votes={"trials": 4, "votes": 2},
    )
    service.wait_for(job_id, "voting")
    page = visitor.open(f"/vote?job={job_id}")
    page.locator(".vote-side img").first.wait_for()
    page.wait_for_function(ALL_LOADED)
    expect(page.locator(".vote-head")).to_contain_text("0 of 2 votes")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".vote-head")).to_contain_text("1 of 2 votes")
    page.get_by_role("button", name="The right image is better").click()
    service.wait_for(job_id, "done")
    page = visitor.open(f"/jobs/{job_id}")
    expect(page.locator(".head .state")).to_have_text(re.compile("done"))
