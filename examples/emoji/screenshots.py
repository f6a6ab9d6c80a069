"""The pictures of docs/page.md: a real job on the zoo, looked at with a real browser.

    python -m examples.emoji.screenshots --out docs

A job of four leaves is submitted and runs for some minutes; docs/page-*.png are made while it runs and when
it is done. Needs Playwright and a chromium (CHROMIUM, or the one on PATH).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from examples.emoji.assemble import assemble, assemble_reward
from examples.emoji.demo import END_STATES, JOB, service, submit

DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 780}
EVERY = 6
"""Of the demo's probes every sixth: it is about the page, not about the gain."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        raise SystemExit(
            "the pictures need a browser: apt-get install chromium (or set CHROMIUM to its path)"
        )
    with tempfile.TemporaryDirectory() as folder:
        job = prepared(Path(folder))
        with service(Path(folder)) as client, sync_playwright() as playwright:
            # Chromium refuses its sandbox to root, as which containers run.
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            take(browser, client, job, arguments.out)
            browser.close()


def prepared(folder: Path) -> dict[str, Any]:
    """The models and the reward in `folder`; the demo's job, shortened."""
    job: dict[str, Any] = yaml.safe_load(JOB.read_text())
    for field in ("probes", "heldout"):
        job[field]["prompts"] = job[field]["prompts"][::EVERY]
    job["search"]["trials"] = 16
    job["nodes"] = {"03b": {"search": {"trials": 60}}}
    assemble(folder / "models")
    assemble_reward(folder / "scorers/emoji-clip")
    return job


def take(browser: Browser, client: httpx.Client, job: dict[str, Any], out: Path) -> None:
    """Submit the job and make every picture."""
    base = str(client.base_url).rstrip("/")
    page = opened(browser, f"{base}/new", DESK)
    fill(page, job)
    page.screenshot(path=out / "page-new.png", full_page=False)
    page.context.close()
    job_id = submit(client, job)
    wait_for(client, job_id, lambda told: final(told)["trials_done"] >= 25)
    submit(client, {**job, "name": "once more", "output": "again"})
    shot(browser, f"{base}/", out / "page-jobs.png", {**DESK, "height": 480})
    shot(browser, f"{base}/jobs/{job_id}", out / "page-job.png", {**DESK, "height": 1000})
    shot(browser, f"{base}/jobs/{job_id}/nodes/03b", out / "page-node.png", {**DESK, "height": 1330})
    wait_for(client, job_id, lambda told: told["state"] in END_STATES)
    at = f"{base}/jobs/{job_id}/nodes/03b"
    shot(browser, at, out / "page-compare.png", {**DESK, "height": 1080}, panel="Compare", dark=True)
    shot(browser, f"{base}/jobs/{job_id}", out / "page-phone.png", PHONE, dark=True)


def fill(page: Page, job: dict[str, Any]) -> None:
    """The form with the job's models and prompts in it."""
    page.get_by_text("What is merged with what").wait_for()
    for leaf in job["leaves"]:
        page.get_by_role("checkbox", name=leaf).click()
    page.get_by_label("Prompts, one a line").first.fill("\n".join(job["probes"]["prompts"][:4]))
    page.locator(".bracket .merge", has_text="03b").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(600)


def wait_for(client: httpx.Client, job_id: str, true: Any) -> None:
    """Until what the API tells of the job is so."""
    while not true(client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json()):
        time.sleep(1)


def final(told: dict[str, Any]) -> dict[str, Any]:
    """The job's last merge."""
    return next(node for node in told["nodes"] if node["final"])


def opened(browser: Browser, url: str, size: Any, *, dark: bool = False) -> Page:
    """A page that has shown what there is."""
    context = browser.new_context(
        viewport=size, color_scheme="dark" if dark else "light", device_scale_factor=1
    )
    page = context.new_page()
    page.goto(url)
    page.locator(".panel").first.wait_for(timeout=60_000)
    page.wait_for_timeout(2500)
    return page


def shot(browser: Browser, url: str, to: Path, size: Any, *, panel: str = "", dark: bool = False) -> None:
    """One picture: of the window, or of the part with this heading."""
    page = opened(browser, url, size, dark=dark)
    if panel:
        page.locator(".panel", has=page.get_by_role("heading", name=panel)).screenshot(path=to)
    else:
        page.screenshot(path=to)
    page.context.close()


if __name__ == "__main__":
    main()
