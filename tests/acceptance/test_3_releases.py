"""An upgrade to a second release and back, under drops and requests for thumbnails."""

from __future__ import annotations

import re

from tests.acceptance import image
from tests.acceptance.box import THUMBNAILERS, Box, DropLoad, ThumbnailLoad
from tests.acceptance.conftest import Baked
from tests.acceptance.ingredients import NEXT_VERSION


def current_release(box: Box) -> str:
    return box.guest.run("readlink", "/opt/md5s3stash/current").removeprefix("releases/")


def running_releases(box: Box) -> set[str]:
    """The releases that the thumbnail servers run."""
    pids = ",".join(str(box.main_pid(unit)) for unit in THUMBNAILERS)
    return set(
        re.findall("^/opt/md5s3stash/releases/([^/]+)/", box.guest.run("ps", "-o", "args=", "-p", pids), re.MULTILINE)
    )


def test_upgrade_and_rollback_lose_no_request_and_no_file(box: Box, baked: Baked) -> None:
    box.all_active()
    first = current_release(box)
    wheels = baked.ingredients.next_wheels.result()
    # As many as are kept, and newer than the one in use; that one is kept too, because it runs, and for the way back.
    box.guest.run("mkdir", *(f"/opt/md5s3stash/releases/0.0.{number}" for number in range(3)))

    with ThumbnailLoad(box, "before-upgrade") as load, DropLoad(box, "upgrade"):
        image.playbook(box.login, *baked.variables, "--extra-vars", f"md5s3stash_wheels={wheels}")
        second = current_release(box)
        assert second.startswith(f"{NEXT_VERSION}-")
        assert running_releases(box) == {second}
        assert f"/{second}/" in box.guest.run("realpath", "/usr/local/share/man/man1/md5s3stash.1")
        kept = box.guest.run("ls", "/opt/md5s3stash/releases").split()
        assert {first, second} < set(kept)
        assert len(kept) == 4

        image.playbook(box.login, "--tags", "release", "--extra-vars", f"md5s3stash_release={first}")
        assert current_release(box) == first
        assert running_releases(box) == {first}

    load.nobody_was_cut_off()
    box.all_active()
    box.nothing_is_lost()
