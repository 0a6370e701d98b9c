"""The Chromium of the system, driven by Playwright, which brings and downloads none itself."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# The colours on a canvas: how many different ones there are, and the first.
COLOURS = """canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
    copy.drawImage(canvas, 0, 0);
    const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 4).join());
    return [seen.size, [...data.slice(0, 4)]];
}"""

# A change of the medium or of the colour scheme is told to the page before it draws the next
# frame, whenever that is on a busy machine; a frame after that, all has been answered.
_NEXT_FRAME = "new Promise(next => requestAnimationFrame(() => requestAnimationFrame(next)))"


def next_frame(page):
    """Waits until the page has answered to all that it was told."""
    page.evaluate(_NEXT_FRAME)


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
        self.page.set_default_timeout(30_000)
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


def assert_shows(page, group):
    """The plots of the chosen layer are there, large enough, and show the plan."""
    for kind in (".curve-plot", ".map", ".heat canvas >> nth=1", ".strip"):
        box = page.locator(f"#layer {kind}").bounding_box()
        assert box["width"] > 150, kind
        assert box["height"] > (20 if kind == ".strip" else 100), kind
    assert page.locator("#layer .map circle.channel").count() == group.channels
    assert page.locator("#layer .map circle.channel.kept").count() == len(group.keep)
    assert page.locator("#layer .map .tie").count() == group.channels - len(group.keep)
    assert page.locator("#layer .strip rect.fill-kept").count() == len(group.keep)
    if len(group.keep) < group.channels:
        labels = page.locator("#layer .curve-plot text.knee").text_content()
        assert str(group.k_star) in labels
    colours, _ = page.locator("#layer .heat canvas").nth(1).evaluate(COLOURS)
    assert colours > 3
