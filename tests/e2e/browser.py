"""A real browser: Debian's chromium under Playwright, which notes down whom it asks for what."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

REMEDY = "the tests of the page need a browser: apt-get install chromium (or set CHROMIUM to its path)"
PHONE = {"width": 390, "height": 844}
LOCAL = ("127.0.0.1", "localhost")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Fails, and says what to install, where there is none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.fail(REMEDY)
    # A busy machine takes its time; what must be fast is measured by its test.
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as which containers run tests.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A person with a browser window; every request and every error of their pages is noted down."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.context: BrowserContext = browser.new_context(accept_downloads=True, **options)
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("console", self._said)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))

    def open(self, path: str) -> Page:
        """Go to a page of the service, and wait until it is alive."""
        self.page.goto(self.url + path)
        self.page.wait_for_function("window.socket && window.socket.connected")
        return self.page

    def leave(self) -> None:
        """Close the window. No request may have left this machine, and nothing may have gone wrong."""
        self.context.close()
        foreign = [url for url in self.asked if urlsplit(url).hostname not in (*LOCAL, None)]
        assert not foreign, foreign
        assert not self.errors, self.errors

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)
