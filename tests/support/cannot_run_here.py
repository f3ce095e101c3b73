"""A pytest plugin: a test whose machine lacks something fails as 'cannot run here', not as a fault of the product.

The test or its fixture raises CannotRunHere. At its end the run names these tests, and what each group of them needs.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import pytest

NAME = "cannot run here"
_OF_REPORT = "cannot_run_here"
Found = TypeVar("Found")


class CannotRunHere(Exception):
    """What the test needs, such as 'namespaces', and the machine's errors. Functions that look for it return it."""

    def __init__(self, needed: str, errors: str) -> None:
        super().__init__(needed, errors)
        self.needed = needed
        self.errors = errors


def found(what: Found | CannotRunHere) -> Found:
    if isinstance(what, CannotRunHere):
        raise what.with_traceback(None)
    return what


def announced(what: object) -> str | None:
    """The line for the start of the run, if it was not found."""
    if isinstance(what, CannotRunHere):
        return f"tests that need {what.needed} will fail as '{NAME}': {what.errors}"
    return None


def errors_of(command: Sequence[str]) -> list[str]:
    """The lines that the command prints if it fails; none if it succeeds."""
    try:
        tried = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        return [f"{error.filename} is not installed"]
    except OSError as error:
        return [str(error)]
    if tried.returncode == 0:
        return []
    lines = filter(None, map(str.strip, tried.stdout.splitlines()))
    return list(lines) or [f"{command[0]} ended with {tried.returncode}"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, CannotRunHere):
        # Attributes of the report reach the process that prints it.
        vars(report)[_OF_REPORT] = f"{call.excinfo.value.needed} and {NAME}: {call.excinfo.value.errors}"
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """The name under which the failure is counted."""
    return (NAME, "C", NAME.upper()) if _OF_REPORT in vars(report) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports(NAME)
    if not reports:
        return
    terminalreporter.section(f"{len(reports)} {NAME}")
    for report in reports:
        terminalreporter.write_line(f"{NAME.upper()} {report.nodeid}")
    for needed, tests in Counter(vars(report)[_OF_REPORT] for report in reports).items():
        terminalreporter.write_line(f"{tests} tests need {needed}")
