"""Which Chromium the tests drive: the machine's, or the one that tools/bootstrap takes from npm on Ubuntu."""

from __future__ import annotations

import functools
import shutil

from tests.support.cannot_run_here import CannotRunHere, announced, errors_of
from tests.support.servers import REPOSITORY

# The names used by distributions and Google, and the one from npm. The same as in tools/bootstrap.
PROGRAMS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    str(REPOSITORY / "build" / "npm" / "chromium" / "chromium"),
)


@functools.cache
def which_chromium() -> str | CannotRunHere:
    """The first that starts; Ubuntu's package, for example, is a script that only names a snap."""
    errors: list[str] = []
    for program in filter(None, map(shutil.which, PROGRAMS)):
        refusal = errors_of([program, "--version"])
        if not refusal:
            return program
        errors.append(f"{program}: {' '.join(refusal)}")
    return CannotRunHere("Chromium", "; ".join(errors) or "tools/bootstrap --tests did not install any")


def pytest_report_header() -> str | None:
    return announced(which_chromium())
