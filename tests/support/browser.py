"""A real headless browser: a Chromium, which `tools/bootstrap --tests` installs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.support.cannot_run_here import found
from tests.support.which_chromium import which_chromium

DESK = (1280, 900)
PHONE = (390, 844)
# Beside busy processors a page takes this long at most; no test waits for the end of it.
SECONDS = 60.0

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


expect.set_options(timeout=SECONDS * 1000)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A test that needs it and finds none fails as 'cannot run here'."""
    path = found(which_chromium())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """Pages in the browser, and everything that went wrong in them. Leaving it fails the test if anything did."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(
        self, path: str = "", scheme: str = "light", size: tuple[int, int] = DESK, javascript: bool = True
    ) -> Page:
        page = self.new_page(scheme, size, javascript)
        page.goto(self.url + path)
        return page

    def new_page(
        self, scheme: str = "light", size: tuple[int, int] = DESK, javascript: bool = True, scale: float = 1
    ) -> Page:
        """Blank still. `scale` is how many pixels of the screen a side of one of the page has."""
        context = self._browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=javascript,
            device_scale_factor=scale,
        )
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", self._on_request)
        return page

    def pages_asked_for(self, page: Page) -> int:
        # The requests that the page has made until now are told before the answer to this.
        page.evaluate("0")
        return self.requests.count(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for context in self._contexts:
            context.close()
        assert error is not None or self.complaints == [], self.complaints

    def _on_console(self, message: ConsoleMessage) -> None:
        self.complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)


def axe_violations(page: Page) -> list[Any]:
    """What of the page's accessibility axe-core finds wrong."""
    violations = Axe().run(page).response["violations"]
    return [(found["id"], found["impact"], [node["html"] for node in found["nodes"]]) for found in violations]
