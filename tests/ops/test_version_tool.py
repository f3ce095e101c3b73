"""tools/version: one command closes a release, and `make release` builds none that is open."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import REPOSITORY

PROJECT = '[project]\nname = "md5s3stash"\nversion = "{version}"\n\n[tool.x]\nversion = "1"\n'
CHANGES = "# Changes\n\n## {section}\n\n- A change.\n\n## 2.0.0 (2014-01-01)\n\n- Another one.\n"


class Tree:
    def __init__(self, directory: Path, version: str, section: str) -> None:
        self.project, self.changes = directory / "pyproject.toml", directory / "CHANGELOG.md"
        self.project.write_text(PROJECT.format(version=version))
        self.changes.write_text(CHANGES.format(section=section))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-IS", str(REPOSITORY / "tools/version"), *arguments]
        return subprocess.run(command, cwd=self.project.parent, capture_output=True, text=True, timeout=60, check=False)

    def texts(self) -> tuple[str, str]:
        return self.project.read_text(), self.changes.read_text()


def test_a_release_is_closed_and_the_next_one_opened_by_a_command_each(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "3.0.0a1", "3.0.0a1 (unreleased)")
    today = {str(datetime.datetime.now(datetime.UTC).date())}

    assert (tree.run("close", "3.0.0").returncode, tree.run("check").returncode) == (0, 0)
    closed = tree.texts()
    assert tree.run("open", "3.1.0a1").returncode == tree.run("check").returncode == 0
    opened = tree.texts()

    today.add(str(datetime.datetime.now(datetime.UTC).date()))
    assert closed[0] == PROJECT.format(version="3.0.0")
    assert closed[1] in {CHANGES.format(section=f"3.0.0 ({day})") for day in today}
    assert opened[0] == PROJECT.format(version="3.1.0a1")
    assert opened[1] == closed[1].replace("## 3.0.0", "## 3.1.0a1 (unreleased)\n\n## 3.0.0")


@pytest.mark.parametrize(
    ("version", "section", "command", "says"),
    [
        ("3.0.0", "3.0.0 (unreleased)", ["check"], "is not closed"),
        ("3.0.0a1", "3.0.0a1 (2026-12-01)", ["check"], "that is not a release"),
        ("3.0.0", "3.0.1 (2026-12-01)", ["check"], "has version 3.0.0"),
        ("3.0.0", "3.0.0 (2026-12-01)", ["close", "3.0.0"], "not an open one"),
        ("3.0.0a1", "3.0.0a1 (unreleased)", ["close", "4.0.0"], "not an open one"),
        ("3.0.0a1", "3.0.0a1 (unreleased)", ["close", "3.0.0a1"], "tools/version close 3.0.0 "),
        ("3.0.0a1", "3.0.0a1 (unreleased)", ["open", "3.1.0a1"], "close it first"),
        ("3.0.0", "3.0.0 (2026-12-01)", ["open", "2.9.0a1"], "is not later"),
        ("3.0.0", "3.0.0 (2026-12-01)", ["open", "3.0.0rc2"], "is not later"),
        ("3.10.0", "3.10.0 (2026-12-01)", ["open", "3.9.0a1"], "is not later"),
        ("3.0.0a1", "3.0.0a1 (unreleased)", [], "tools/version close 3.0.0 "),
    ],
)
def test_what_does_not_fit_is_said_and_changes_nothing(
    tmp_path: Path, version: str, section: str, command: list[str], says: str
) -> None:
    tree = Tree(tmp_path, version, section)
    before = tree.texts()

    done = tree.run(*command)

    assert done.returncode == 1
    assert says in done.stderr
    assert tree.texts() == before


def test_this_tree_is_consistent_and_a_release_is_built_only_of_one_that_is() -> None:
    done = subprocess.run(
        [REPOSITORY / "tools/version", "check"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    release = (REPOSITORY / "tools/release").read_text(encoding="utf-8")

    assert (done.returncode, done.stderr) == (0, "")
    assert "tools/version check" in release.partition("-m build")[0]
