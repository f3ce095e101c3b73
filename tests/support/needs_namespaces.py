"""A pytest plugin for tests that need root to make mounts or networks: it runs each as root.

`pytest.mark.needs_namespaces` marks such a test. The plugin uses the first way to root that works: this process is
root; a user namespace, in which an ordinary user is root; sudo without a password. If none works, as in most
containers, the test fails as 'cannot run here' (`cannot_run_here.py`), and the run reports this at its start, too.

`pytest.mark.needs_namespaces(users=True)` is for tests that also run programs as several users: an ordinary user's
namespace has only one.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from tests.support.cannot_run_here import CannotRunHere, announced, errors_of, found

MARKER = "needs_namespaces"

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


@functools.cache
def way_to_root(users: bool = False) -> tuple[str, ...] | CannotRunHere:
    """The first way that works; otherwise what to raise, with the error of each."""
    trial = ("unshare", "--mount", "--net", "sh", "-c", _TRIAL_OF_USERS if users else _TRIAL)
    refusals: list[str] = []
    for way in (_AS_WE_ARE, _IN_A_USER_NAMESPACE, _THROUGH_SUDO):
        errors = errors_of([*way, *trial])
        if not errors:
            return way
        if errors[-1] not in refusals:
            refusals.append(errors[-1])
    only_users = users and not isinstance(way_to_root(), CannotRunHere)
    return CannotRunHere("several users" if only_users else "namespaces", "; ".join(refusals))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: makes mounts or networks of its own, and is run as root for that")


def pytest_report_header() -> str | None:
    return announced(way_to_root(users=True))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fixtures need root too: if another pytest runs the test, this one sets up none."""
    marker = item.get_closest_marker(MARKER)
    if marker and isinstance(item, pytest.Function) and way_to_root(**marker.kwargs) != _AS_WE_ARE:
        item.fixturenames = []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs the test in another pytest as root, unless this one is root."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if not marker:
        return None
    way = found(way_to_root(**marker.kwargs))
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
