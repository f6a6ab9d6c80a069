"""A person logs in to the page in a real browser, on a service with tokens, works, and logs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from service.access.roles import Role
from service.settings import load_settings
from tests.e2e.browser import Visitor
from tests.integration.services import Running, running
from tests.tiny_models import job

pytestmark = pytest.mark.slow


@pytest.fixture
def guarded(installation: Path) -> Iterator[Running]:
    with running(load_settings(installation), tokens=True) as service:
        yield service


def log_in(visitor: Visitor, token: str) -> None:
    visitor.page.goto(visitor.url)
    expect(visitor.page).to_have_url(f"{visitor.url}/login?next=%2F")
    visitor.page.get_by_label("Token").fill(token)
    visitor.page.get_by_role("button", name="Log in").click()
    visitor.page.wait_for_function("window.socket && window.socket.connected")


def test_a_person_logs_in_works_and_logs_out(guarded: Running, browser: Browser) -> None:
    admin = guarded.bearer(Role.ADMIN)
    made = httpx.post(f"{guarded.url}/api/v1/jobs", json=job(), headers=admin, timeout=120).json()["id"]
    visitor = Visitor(browser, guarded.url)
    log_in(visitor, guarded.tokens[Role.SUBMITTER])
    page = visitor.open(f"/jobs/{made}")
    page.get_by_role("button", name="Pause").first.click()
    expect(page.get_by_text("paused").first).to_be_visible()
    assert guarded.store.job(made).state == "paused"
    entry = guarded.store.audit_entries()[0]
    assert (entry.actor, entry.action) == ("submitter", f"page: pause job {made}")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{guarded.url}/login")
    page.goto(guarded.url)
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    visitor.leave()


def test_a_viewer_looks_and_changes_nothing(guarded: Running, browser: Browser) -> None:
    admin = guarded.bearer(Role.ADMIN)
    made = httpx.post(f"{guarded.url}/api/v1/jobs", json=job(), headers=admin, timeout=120).json()["id"]
    visitor = Visitor(browser, guarded.url)
    log_in(visitor, guarded.tokens[Role.VIEWER])
    page = visitor.open(f"/jobs/{made}")
    page.get_by_role("button", name="Pause").first.click()
    expect(page.get_by_text("it takes the role submitter")).to_be_visible()
    assert guarded.store.job(made).state == "queued"
    visitor.leave()
