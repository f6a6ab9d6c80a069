"""A person comes to an empty installation and is told, page by page, what it takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from service.settings import load_settings
from tests.e2e.browser import Visitor
from tests.integration.services import Running, running

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Running]:
    folders = {f"{name}_dir": tmp_path / name for name in ("models", "scorers", "data")}
    with running(load_settings(device="cpu", **folders), tokens=False) as service:
        yield service


def test_what_an_empty_installation_lacks_is_said_until_it_is_there(
    browser: Browser, empty: Running, tmp_path: Path, tiny_models: Path, tiny_scorers: Path
) -> None:
    visitor = Visitor(browser, empty.url)
    page = visitor.open("/")
    steps = page.locator(".steps li")
    expect(steps.nth(0)).to_contain_text(
        f"Two models or more: missingPut checkpoints of one architecture into {tmp_path}"
    )
    expect(steps.nth(1)).to_contain_text("A scorer: missing")

    page.get_by_role("button", name="New job").first.click()
    page.get_by_text("It takes two models or more").wait_for()
    shutil.copytree(tiny_models, tmp_path / "models", dirs_exist_ok=True)
    page.get_by_role("button", name="Look again").click()
    page.get_by_text("No scorer is installed").wait_for()
    expect(page.locator(".command").first).to_contain_text("scorers/pickscore")
    expect(page.locator(".submit-line")).to_contain_text(
        "Still to do: tick two models, write a prompt, tick a scorer."
    )

    shutil.copytree(tiny_scorers / "reward", tmp_path / "scorers" / "reward")
    page.reload()
    expect(page.get_by_role("checkbox", name="clip", exact=True)).to_be_checked()
    page = visitor.open("/")
    expect(page.locator(".steps")).not_to_contain_text("missing")
    visitor.leave()
