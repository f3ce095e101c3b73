"""The running release: from the name of its directory, which the playbook sets, else from the distribution."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from md5s3stash import version

ROOT = Path(__file__).resolve().parents[2]


def test_checkout_that_is_installed_says_its_version() -> None:
    assert version.running_version() == importlib.metadata.version("md5s3stash")
    assert version.build_info() == {"version": version.running_version(), "python": platform.python_version()}


def test_release_is_called_as_its_directory(tmp_path: Path) -> None:
    release = tmp_path / "releases" / "3.0.0-1a2b3c4d5e6f"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", release], check=True)
    asked = [str(release / "bin/python"), "-c", "from md5s3stash.version import *; print(running_version())"]
    assert subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout == f"{release.name}\n"


def test_checkout_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert version.distribution_version() == version.UNKNOWN
