"""A run without namespaces or a browser reports this and fails. Every way to namespaces is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

TESTS = """
import os, pytest

@pytest.mark.needs_namespaces
def test_as_root():
    assert os.environ["LET_IN"] and os.geteuid() == 0

@pytest.mark.needs_namespaces
def test_wrong():
    assert "this" == "that"

def test_other():
    pass
"""
TESTS_WITH_A_BROWSER = """
import pytest
from tests.support.browser import chromium

@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser

def test_page(browser):
    assert browser.new_page()

def test_other_page(browser):
    assert browser.new_page()
"""
PLUGINS = ("cannot_run_here", "needs_namespaces", "which_chromium")
REFUSED = "unshare failed: Operation not permitted"
UNSHARE = shutil.which("unshare")

REFUSE = f"echo '{REFUSED}' >&2; exit 1"
# Only the working way sets LET_IN. These tests run as root.
ONLY_IN = f'[ "$LET_IN" ] && exec {UNSHARE} "$@"; {REFUSE}'
LET_IN_AS_USER = f'[ "$1 $2" = "--user --map-root-user" ] && shift 2 && LET_IN=1 exec {UNSHARE} "$@"; {ONLY_IN}'
LET_IN_BY_SUDO = 'shift 2; LET_IN=1 exec "$@"'


def run(directory: Path, programs: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on the directory's tests, on a machine with these programs."""
    for name, script in programs.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    environment = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTEST_PLUGINS": ",".join(f"tests.support.{name}" for name in PLUGINS),
    }
    return subprocess.run(
        # With its own directory it does not remove files of earlier runs, which can take a minute.
        [sys.executable, "-m", "pytest", "--rootdir=.", f"--basetemp={directory / 'files'}", *arguments],
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("processes", ["0", "1"])
def test_without_a_way_the_run_fails_and_names_the_tests_that_it_could_not_run(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_pages.py").write_text(TESTS_WITH_A_BROWSER)
    refusing = {"unshare": REFUSE, "sudo": "echo 'sudo: a password is required' >&2; exit 1"}
    # As Ubuntu's package of it.
    refusing["chromium"] = "echo; echo 'This requires the chromium snap to be installed.'; echo; exit 1"
    only = "from tests.support import which_chromium\nwhich_chromium.PROGRAMS = ('chromium',)\n"
    (tmp_path / "conftest.py").write_text(only)

    done = run(tmp_path, refusing, f"--numprocesses={processes}")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    namespaces = f"{REFUSED}; sudo: a password is required"
    browser = f"{tmp_path}/chromium: This requires the chromium snap to be installed."
    assert f"tests that need namespaces will fail as 'cannot run here': {namespaces}" in lines[:5]
    assert f"tests that need Chromium will fail as 'cannot run here': {browser}" in lines[:5]
    *named, number, number_with_a_browser, total = lines[-7:]
    assert sorted(named) == [
        f"CANNOT RUN HERE {name}"
        for name in (
            *("test_pages.py::test_other_page", "test_pages.py::test_page"),
            *("test_some.py::test_as_root", "test_some.py::test_wrong"),
        )
    ]
    assert sorted([number, number_with_a_browser]) == [
        f"2 tests need Chromium and cannot run here: {browser}",
        f"2 tests need namespaces and cannot run here: {namespaces}",
    ]
    assert " 1 passed, 4 cannot run here in " in total


@pytest.mark.needs_namespaces(users=True)
@pytest.mark.parametrize(
    "programs",
    [{"unshare": LET_IN_AS_USER, "sudo": REFUSE}, {"unshare": ONLY_IN, "sudo": LET_IN_BY_SUDO}],
    ids=["user namespace", "sudo"],
)
def test_a_test_is_run_as_root_by_the_way_that_is_open_and_fails_for_its_own_reasons(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)

    done = run(tmp_path, programs)

    assert done.returncode == 1
    assert "cannot run here" not in done.stdout
    assert "AssertionError: assert 'this' == 'that'" in done.stdout
    assert " 1 failed, 2 passed in " in done.stdout.splitlines()[-1]
