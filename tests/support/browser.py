"""A real browser without a screen: the Chromium of the machine, which `tools/bootstrap --tests` installs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

# By the names that distributions and Google give it.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# It runs as root in some places, where its sandbox does not; and it would call home otherwise.
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
    """Raises where there is none: a test that needs it must not pass without it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise FileNotFoundError("there is no Chromium here: tools/bootstrap --tests installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()
