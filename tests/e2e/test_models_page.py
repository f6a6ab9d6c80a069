"""What a merged model was made of, and the map of the models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import Visitor
from tests.e2e.conftest import Service

pytestmark = pytest.mark.slow


@pytest.fixture
def merged(service: Service, done: str) -> Iterator[Path]:
    """The result of a job, put among the models."""
    made = service.store.checkpoint(service.store.nodes(done)[0].id)
    assert made is not None
    path = service.settings.models_dir / "merged.safetensors"
    shutil.copy(made.path, path)
    yield path
    path.unlink(missing_ok=True)


def test_a_merged_model_shows_who_it_came_from_and_which_node_made_it(
    visitor: Visitor, merged: Path, done: str
) -> None:
    page = visitor.open("/models")
    page.get_by_text(merged.stem, exact=True).click()
    tree = page.locator(".recipe")
    expect(tree.locator(".box.leaf .box-name")).to_have_text(["left", "right"])
    child = tree.get_by_role("button", name="merged, 01b: Block-weighted sum")
    child.click()
    expect(tree.locator(".recipe-told")).to_contain_text("left and right")
    expect(tree.get_by_role("img", name="Block weights as a U").locator("canvas")).to_be_visible()
    tree.get_by_role("link", name="made by 01b of the job finished").click()
    page.wait_for_url(f"**/jobs/{done}/nodes/01b")


def test_a_map_that_cannot_be_drawn_says_why_and_is_drawn_once_it_can(visitor: Visitor, merged: Path) -> None:
    away = merged.with_suffix(".away")
    page = visitor.open("/models")
    draw = page.get_by_role("button", name="Draw the map")
    draw.wait_for()
    merged.rename(away)
    draw.click()
    expect(page.get_by_role("alert").filter(has_text="no model 'merged'")).to_be_visible()
    away.rename(merged)
    page.get_by_role("button", name="Try again").click()
    page.locator("[alt='Map of the models'] img, img[alt='Map of the models']").first.wait_for()
    page.reload()
    page.locator("[alt='Map of the models']").first.wait_for()
