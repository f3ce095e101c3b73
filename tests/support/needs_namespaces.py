"""A pytest plugin for tests that need root to make mounts or networks: it runs each as root.

`pytest.mark.needs_namespaces` marks such a test. The plugin uses the first way to root that works: this process is
root; a user namespace, in which an ordinary user is root; sudo without a password. If none works, as in most
containers, the test fails as 'cannot run here', and the run reports this at its start and at its end.

`pytest.mark.needs_namespaces(users=True)` is for tests that also run programs as several users: an ordinary user's
namespace has only one.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

MARKER = "needs_namespaces"
CANNOT_RUN_HERE = "cannot run here"

# Prefixes that run a command as root.
_AS_WE_ARE: tuple[str, ...] = ()
# With its own network from the start: a test that leaves the network of another user namespace cannot return.
_IN_A_USER_NAMESPACE = (
    *("unshare", "--user", "--map-root-user", "--net"),
    *("sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
)
_THROUGH_SUDO = ("sudo", "--non-interactive", "--preserve-env")

_TRIAL = "mount -t tmpfs none /tmp && ip link set lo up && ip link add trial type bridge"
_TRIAL_OF_USERS = f"{_TRIAL} && setpriv --reuid=12001 --regid=12001 --groups=12100 true"
# In a directory that only root can change: systemd-tmpfiles as root does not enter users' directories.
_RUN_AND_REMOVE = (
    'directory=$(mktemp -d) && "$@" --basetemp="$directory/files"; status=$?; rm -rf "$directory"; exit $status'
)


class CannotRunHere(Exception):
    """This user may not make namespaces; the message holds the machine's errors."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The way that works, or the error of each."""

    way: tuple[str, ...] | None
    refusals: str


@functools.cache
def ways(users: bool = False) -> Ways:
    refusals: list[str] = []
    for way in (_AS_WE_ARE, _IN_A_USER_NAMESPACE, _THROUGH_SUDO):
        refusal = _refusal_of(way, _TRIAL_OF_USERS if users else _TRIAL)
        if refusal is None:
            return Ways(way, "")
        if refusal not in refusals:
            refusals.append(refusal)
    return Ways(None, "; ".join(refusals))


def _refusal_of(way: tuple[str, ...], trial: str) -> str | None:
    """The last line that a trial of it prints; None if the trial succeeds."""
    try:
        tried = subprocess.run(
            [*way, "unshare", "--mount", "--net", "sh", "-c", trial],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    said = tried.stdout.strip().splitlines() or [f"{way} ended with {tried.returncode}"]
    return said[-1] if tried.returncode != 0 else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: makes mounts or networks of its own, and is run as root for that")


def pytest_report_header() -> list[str]:
    if ways(users=True).way is not None:
        return []
    return [f"tests that need {_needed()} will fail as '{CANNOT_RUN_HERE}': {ways(users=True).refusals}"]


def _needed() -> str:
    return "namespaces" if ways().way is None else "several users"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fixtures need root too: if another pytest runs the test, this one sets up none."""
    marker = item.get_closest_marker(MARKER)
    if marker and isinstance(item, pytest.Function) and ways(**marker.kwargs).way != _AS_WE_ARE:
        item.fixturenames = []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs the test in another pytest as root, unless this one is root."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if not marker:
        return None
    found = ways(**marker.kwargs)
    way = found.way
    if way is None:
        raise CannotRunHere(found.refusals)
    if way == _AS_WE_ARE:
        return None
    _run_as_root(way, pyfuncitem)
    return True


def _run_as_root(way: tuple[str, ...], test: pytest.Function) -> None:
    again = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test.nodeid]
    done = subprocess.run(
        [*way, "sh", "-c", _RUN_AND_REMOVE, "sh", *again],
        cwd=test.config.rootpath,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"run as root by `{' '.join(way)}`:\n{done.stdout}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    if call.excinfo is not None and call.excinfo.errisinstance(CannotRunHere):
        # Attributes of the report reach the process that prints it.
        vars(report)[MARKER] = True
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """The name under which the failure is counted."""
    return (CANNOT_RUN_HERE, "C", CANNOT_RUN_HERE.upper()) if vars(report).get(MARKER) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports(CANNOT_RUN_HERE)
    if not reports:
        return
    terminalreporter.section(f"{len(reports)} {CANNOT_RUN_HERE}")
    for report in reports:
        terminalreporter.write_line(f"{CANNOT_RUN_HERE.upper()} {report.nodeid}")
    terminalreporter.write_line(
        f"{len(reports)} tests need {_needed()} and {CANNOT_RUN_HERE}: {ways(users=True).refusals}"
    )
