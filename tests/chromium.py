"""The Chromium of the system, driven by Playwright, which brings and downloads none itself."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find():
    """Path of a browser, or None."""
    given = os.environ.get("ACTPRUNE_CHROMIUM")
    return given or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def launched():
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    path = find()
    if path is None:
        pytest.skip(f"no browser: set ACTPRUNE_CHROMIUM, or install one of {', '.join(_NAMES)}")
    with api.sync_playwright() as playwright:
        # Browsers refuse to make a sandbox for root, which runs the tests in containers.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page opened from disk, and all that it did besides showing itself."""

    def __init__(self, browser, path, **context):
        size = {"width": 1400, "height": 1000}
        self.context = browser.new_context(**{"viewport": size} | context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.noise, self.requests = [], []
        self.page.on("console", lambda message: self.noise.append(message.text))
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("dialog", lambda dialog: self.noise.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def close(self):
        """Closes it and checks that nothing went wrong and nothing was asked for."""
        url = self.page.url.partition("#")[0]
        self.context.close()
        assert self.noise == []
        assert {request.partition("#")[0] for request in self.requests} == {url}
