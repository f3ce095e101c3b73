"""A real headless browser: the machine's Chromium, which `tools/bootstrap --tests` installs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

# The names used by distributions and Google.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Its sandbox does not run as root; and without these it contacts Google.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Raises if there is no Chromium: a test that needs it must not pass without it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise FileNotFoundError("there is no Chromium here: tools/bootstrap --tests installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()
