"""To a second release and back, while files come in and thumbnails are asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance import image
from tests.acceptance.box import THUMBNAILERS, Box, DropLoad, ThumbnailLoad
from tests.acceptance.conftest import Baked

NEXT_VERSION = "99.0.0"


@pytest.fixture(scope="module")
def next_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of a later version that does the same."""
    directory = tmp_path_factory.mktemp("next")
    source, wheels = directory / "source", directory / "wheels"
    files = subprocess.run(["git", "ls-files"], cwd=image.PROJECT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (image.PROJECT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image.PROJECT / name, source / name)
    project = source / "pyproject.toml"
    project.write_text(
        re.sub(r'^version = ".*"', f'version = "{NEXT_VERSION}"', project.read_text(), flags=re.MULTILINE)
    )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    image.run([*command, "--no-build-isolation", "--wheel-dir", wheels, source])
    (pilbox,) = (image.PROJECT / "build/wheels").glob("pilbox-*.whl")
    shutil.copy(pilbox, wheels)
    return wheels


def current_release(box: Box) -> str:
    return box.guest.run("readlink", "/opt/md5s3stash/current").removeprefix("releases/")


def running_releases(box: Box) -> set[str]:
    """What the thumbnail servers were started from."""
    pids = ",".join(str(box.main_pid(unit)) for unit in THUMBNAILERS)
    return set(
        re.findall("^/opt/md5s3stash/releases/([^/]+)/", box.guest.run("ps", "-o", "args=", "-p", pids), re.MULTILINE)
    )


def test_upgrade_and_rollback_lose_no_request_and_no_file(box: Box, baked: Baked, next_wheels: Path) -> None:
    box.all_active()
    md5s = list(box.drop("before-upgrade", 3).values())
    box.nothing_is_lost()
    first = current_release(box)

    with ThumbnailLoad(box, md5s) as load, DropLoad(box, "upgrade"):
        image.playbook(box.login, *baked.variables, "--extra-vars", f"md5s3stash_wheels={next_wheels}")
        second = current_release(box)
        assert second.startswith(f"{NEXT_VERSION}-")
        assert running_releases(box) == {second}

        image.playbook(box.login, "--tags", "release", "--extra-vars", f"md5s3stash_release={first}")
        assert current_release(box) == first
        assert running_releases(box) == {first}

    assert load.failures == []
    assert load.answered > 0
    box.all_active()
    box.nothing_is_lost()
