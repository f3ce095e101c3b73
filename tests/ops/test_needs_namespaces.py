"""A run of a user who may not make namespaces reports this and fails; if another way works, it is used."""

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
REFUSED = "unshare failed: Operation not permitted"
UNSHARE = shutil.which("unshare")

REFUSE = f"echo '{REFUSED}' >&2; exit 1"
# Only the working way sets LET_IN. These tests run as root.
ONLY_IN = f'[ "$LET_IN" ] && exec {UNSHARE} "$@"; {REFUSE}'
LET_IN_AS_USER = f'[ "$1 $2" = "--user --map-root-user" ] && shift 2 && LET_IN=1 exec {UNSHARE} "$@"; {ONLY_IN}'
LET_IN_BY_SUDO = 'shift 2; LET_IN=1 exec "$@"'


def run(directory: Path, programs: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on TESTS, on a machine with these programs."""
    (directory / "test_some.py").write_text(TESTS)
    for name, script in programs.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    environment = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTEST_PLUGINS": "tests.support.needs_namespaces",
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
    refusing = {"unshare": REFUSE, "sudo": "echo 'sudo: a password is required' >&2; exit 1"}

    done = run(tmp_path, refusing, f"--numprocesses={processes}")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    reason = f"{REFUSED}; sudo: a password is required"
    assert f"tests that need namespaces will fail as 'cannot run here': {reason}" in lines[:4]
    *named, number, total = lines[-4:]
    assert sorted(named) == [f"CANNOT RUN HERE test_some.py::{name}" for name in ("test_as_root", "test_wrong")]
    assert number == f"2 tests need namespaces and cannot run here: {reason}"
    assert " 1 passed, 2 cannot run here in " in total


@pytest.mark.needs_namespaces(users=True)
@pytest.mark.parametrize(
    "programs",
    [{"unshare": LET_IN_AS_USER, "sudo": REFUSE}, {"unshare": ONLY_IN, "sudo": LET_IN_BY_SUDO}],
    ids=["user namespace", "sudo"],
)
def test_a_test_is_run_as_root_by_the_way_that_is_open_and_fails_for_its_own_reasons(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    done = run(tmp_path, programs)

    assert done.returncode == 1
    assert "cannot run here" not in done.stdout
    assert "AssertionError: assert 'this' == 'that'" in done.stdout
    assert " 1 failed, 2 passed in " in done.stdout.splitlines()[-1]
