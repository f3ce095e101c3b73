"""The acceptance tests are honest: they never pass where they cannot run, and each of them can fail."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.guest import PROGRAMS
from tests.acceptance.sabotage import SABOTAGES

PROJECT = Path(__file__).resolve().parents[2]
NOBODY = 65534
# Root lacks it in most containers.
WITHOUT_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")


def run(command: Sequence[str | Path], programs: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(programs or ""), os.environ["PATH"]]))
    return subprocess.run(
        [str(word) for word in command],
        cwd=PROJECT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Stubs for programs that a machine without acceptance tests lacks; none of them is started."""
    for name in PROGRAMS:
        program = tmp_path / name
        program.write_text("#!/bin/sh\nexit 3\n")
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        ("acceptance", "The acceptance tests boot a guest and need root: sudo make acceptance\n"),
        ("fresh", "Only root can make a root file system: sudo make fresh\n"),
    ],
)
def test_who_is_not_root_is_told_so(tool: str, sentence: str) -> None:
    dropped = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    # The user `nobody` may have no access to the directories of pytest and the project.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        script = shutil.copy(PROJECT / "tools" / tool, directory)

        done = run([*dropped, script])

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == sentence


@pytest.mark.needs_namespaces
def test_a_machine_without_namespaces_is_a_failure_and_no_skip(programs: Path) -> None:
    done = run([*WITHOUT_NAMESPACES, sys.executable, "-m", "pytest", "tests/acceptance"], programs)

    assert done.returncode == 1
    assert "The acceptance test cannot run here: this machine does not allow namespaces" in done.stdout
    assert "passed" not in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.needs_namespaces
def test_missing_programs_are_named(programs: Path) -> None:
    code = "from tests.acceptance.guest import demand_a_machine_that_can_boot as demand; demand()"
    (programs / "packer").unlink()

    done = run(["env", f"PATH={programs}", sys.executable, "-c", code])

    assert done.returncode != 0
    assert "programs are missing: packer" in done.stderr


def test_each_acceptance_test_is_known_to_fail_when_what_it_checks_is_broken() -> None:
    tests = {
        f"{file.name}::{node.name}"
        for file in (PROJECT / "tests/acceptance").glob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }

    sabotaged = {test.partition("[")[0] for sabotage in SABOTAGES.values() for test in sabotage.fails}

    assert sabotaged == tests
