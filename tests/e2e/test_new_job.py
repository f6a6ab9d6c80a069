"""The form's folded parts, its job file, and where it says what is wrong."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import PHONE, Visitor
from tests.e2e.conftest import Service

pytestmark = pytest.mark.slow


@pytest.fixture
def form(visitor: Visitor) -> Page:
    """The form with two models and a prompt."""
    return begun(visitor)


def begun(visitor: Visitor) -> Page:
    page = visitor.open("/new")
    for name in ("left", "right"):
        page.get_by_role("checkbox", name=name, exact=True).click()
    page.get_by_label("Prompts, one a line").first.fill("a cat\na dog")
    page.get_by_label("Steps").fill("1")
    return page


def test_what_is_folded_stands_in_the_job_file_which_can_be_changed_checked_and_sent(
    form: Page, service: Service
) -> None:
    page = form
    page.get_by_text("Who watches beside them").click()
    page.get_by_role("checkbox", name="contrast watches").click()
    page.get_by_role("checkbox", name="colourfulness watches").click()
    page.get_by_text("Which block weights are tried").click()
    page.get_by_label("Frozen blocks").fill("TIME_EMBED: 0, OUT: 0.25")
    page.get_by_label("Blocks that share one weight").fill("IN00-IN05")
    page.get_by_text("How it is searched").click()
    page.get_by_role("switch", name="Racing").click()
    page.get_by_text("Merges that differ").click()
    page.get_by_label("Trials of 01b").fill("4")
    page.get_by_text("Text encoders and VAEs").click()
    page.get_by_label("VAE of left").click()
    page.get_by_role("option", name="right").click()
    page.get_by_label("Priority").fill("-7")
    page.get_by_text("From A1111").last.click()
    infotext = "a fox\nSteps: 1, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 32x32"
    page.get_by_label("Infotexts").last.fill(infotext)
    page.get_by_text("What a trial renders").click()
    expect(page.locator("table.plain tbody tr td:first-child")).to_have_text(["a cat", "a dog"])

    page.get_by_role("button", name="Job file").click()
    dialog = page.get_by_role("dialog")
    area = dialog.get_by_label("Job file")
    area.fill(area.input_value().replace("name: left + right", "name: by its file\noutput: by-its-file"))
    dialog.get_by_role("button", name="Check").click()
    expect(dialog.get_by_role("status")).to_contain_text("merge 01b = left + right", timeout=60_000)
    dialog.get_by_role("button", name="Submit this").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator(".chip", has_text="left put together")).to_be_visible()
    job_id = page.url.rsplit("/", 1)[1]
    service.store.cancel_job(job_id)
    asked = service.store.job(job_id).request
    assert (asked["name"], asked["priority"]) == ("by its file", -7)
    assert [spec["scorer"] for spec in asked["watch"]] == ["contrast", "sharpness"]
    assert asked["search"]["space"]["freeze"] == {"TIME_EMBED": 0, "OUT": 0.25}
    assert asked["search"]["space"]["ties"] == ["IN00-IN05"]
    assert asked["search"]["racing"] is True
    assert asked["nodes"]["01b"]["search"] == {"trials": 4}
    assert asked["leaves"][0]["vae"] == {"from": "right"}
    assert asked["heldout"]["infotext"].startswith("a fox")


def test_an_error_opens_the_part_that_it_is_in(form: Page) -> None:
    page = form
    page.get_by_text("Which block weights are tried").click()
    page.get_by_label("Frozen blocks").fill("IN99: 0")
    page.get_by_text("Which block weights are tried").click()
    expect(page.get_by_label("Frozen blocks")).to_be_hidden()
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="IN99")).to_be_visible()
    expect(page.get_by_label("Frozen blocks")).to_be_visible()


def test_what_is_folded_is_no_wider_than_a_phone(browser: Browser, service: Service) -> None:
    visitor = Visitor(browser, service.url, viewport=PHONE, has_touch=True)
    page = begun(visitor)
    for fold in page.locator(".form .wipe-box").all():
        fold.locator(".q-item").first.click()
    page.locator("table.plain tbody tr").first.wait_for()
    page.get_by_label("Tally of 01b").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visitor.leave()


def test_a_job_file_can_be_pasted_into_an_empty_form(visitor: Visitor) -> None:
    page = visitor.open("/new")
    page.get_by_role("button", name="Job file").click()
    area = page.get_by_label("Job file").last
    area.fill("leaves: [left")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("alert").filter(has_text="cannot be read as YAML")).to_be_visible()
    area.fill(
        "{name: x, leaves: [left, nobody], probes: [{prompt: a cat, seed: 1}], scorers: [{scorer: clip}]}"
    )
    page.get_by_role("button", name="Submit this").click()
    expect(page.get_by_role("alert").filter(has_text="'nobody'")).to_be_visible()
