"""Failed upgrades: the next run of the playbook finishes them, or says what to do."""

from __future__ import annotations

import json

import pytest

from tests.acceptance import image
from tests.acceptance.box import DAEMON, THUMBNAILERS, Box
from tests.acceptance.conftest import Baked

RELEASES = "/opt/md5s3stash/releases"
# Accepts every option but not the settings, like a release that is older than one of them.
OLD_DAEMON = '#!/bin/sh\ncase "$*" in *--check-config*) echo "spool.newer is not a setting" >&2; exit 2;; esac\n'


def current_release(box: Box) -> str:
    return box.guest.run("readlink", "/opt/md5s3stash/current").removeprefix("releases/")


def running_releases(box: Box) -> set[str]:
    """The release that each of our processes reports."""
    status = json.loads(box.guest.run("md5s3stashctl", "status", "--json"))
    # The kernel chooses which thumbnail server answers.
    page = box.guest.run("curl", "--silent", "--head", "http://127.0.0.1:8888/healthz")
    (server,) = (line.split("/")[-1].strip() for line in page.splitlines() if line.startswith("Server: "))
    commands = box.guest.run("ps", "-o", "args=", "-p", ",".join(str(box.main_pid(unit)) for unit in THUMBNAILERS))
    return {status["daemon_release"], server, *(line.split("/")[4] for line in commands.splitlines())}


def go_back(box: Box, release: str) -> None:
    image.playbook(box.login, "--tags", "release", "--extra-vars", f"md5s3stash_release={release}")
    box.all_active()
    assert running_releases(box) == {release}


def test_the_next_run_finishes_an_upgrade_that_failed_half_way(box: Box, baked: Baked) -> None:
    # An earlier test may have left releases that are newer than the one in use.
    box.guest.run("sh", "-c", f"rm -rf {RELEASES}/0.0.*")
    box.all_active()
    first = current_release(box)
    assert running_releases(box) == {first}
    wheels = f"md5s3stash_wheels={baked.ingredients.next_wheels.result()}"
    refused = json.dumps({"md5s3stash_sftp_users": [{"name": "Dr. Who", "keys": ["ssh-ed25519 AAAA x"]}]})

    with pytest.raises(AssertionError, match=r"Dr\. Who"):
        image.playbook(box.login, "--extra-vars", refused, "--extra-vars", wheels)
    second = current_release(box)
    assert second != first, "the run should fail after the release was put in use"
    image.playbook(box.login, *baked.variables, "--extra-vars", wheels)

    box.all_active()
    assert running_releases(box) == {second}
    go_back(box, first)
    box.nothing_is_lost()


def test_a_release_is_installed_again_for_another_python(box: Box) -> None:
    box.all_active()
    release = current_release(box)
    before = [box.main_pid(unit) for unit in (DAEMON, *THUMBNAILERS)]
    # As after a release upgrade of Debian: the installation belongs to a removed Python.
    box.guest.run("sh", "-c", f"cd {RELEASES}/{release}/lib && mv python3.* python3.0")

    image.playbook(box.login, "--tags", "release")

    box.all_active()
    assert running_releases(box) == {release}
    assert not set(before) & {box.main_pid(unit) for unit in (DAEMON, *THUMBNAILERS)}
    box.drop("another-python", 3)
    box.nothing_is_lost()


def test_a_release_that_does_not_take_the_settings_is_not_put_in_use(box: Box) -> None:
    box.all_active()
    release = current_release(box)
    old = f"{RELEASES}/0.9.0-000000000000"
    box.guest.run("mkdir", "--parents", f"{old}/bin")
    box.guest.run("touch", f"{old}/.complete", f"{old}/requirements.txt")
    for name in ("md5s3stashd", "md5s3stash-thumbnailer"):
        box.guest.run("install", "--mode=0755", "/dev/stdin", f"{old}/bin/{name}", text=OLD_DAEMON)

    try:
        with pytest.raises(AssertionError, match=r"does not accept the settings[\s\S]*spool\.newer is not a setting"):
            image.playbook(box.login, "--tags", "release", "--extra-vars", "md5s3stash_release=0.9.0-000000000000")
        assert current_release(box) == release
        box.all_active()
        assert running_releases(box) == {release}
    finally:
        box.guest.run("rm", "--recursive", old)
