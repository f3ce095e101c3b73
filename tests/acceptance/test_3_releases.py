"""To a second release and back, while files come in and thumbnails are asked for."""

from __future__ import annotations

import re

from tests.acceptance import image
from tests.acceptance.box import THUMBNAILERS, Box, DropLoad, ThumbnailLoad
from tests.acceptance.conftest import Baked
from tests.acceptance.ingredients import NEXT_VERSION


def current_release(box: Box) -> str:
    return box.guest.run("readlink", "/opt/md5s3stash/current").removeprefix("releases/")


def running_releases(box: Box) -> set[str]:
    """What the thumbnail servers were started from."""
    pids = ",".join(str(box.main_pid(unit)) for unit in THUMBNAILERS)
    return set(
        re.findall("^/opt/md5s3stash/releases/([^/]+)/", box.guest.run("ps", "-o", "args=", "-p", pids), re.MULTILINE)
    )


def test_upgrade_and_rollback_lose_no_request_and_no_file(box: Box, baked: Baked) -> None:
    box.all_active()
    first = current_release(box)
    wheels = baked.ingredients.next_wheels.result()
    # As many as stay on a box, and later than the one in use; which stays too: it runs, and it is the way back.
    box.guest.run("mkdir", *(f"/opt/md5s3stash/releases/0.0.{number}" for number in range(3)))

    with ThumbnailLoad(box, "before-upgrade") as load, DropLoad(box, "upgrade"):
        image.playbook(box.login, *baked.variables, "--extra-vars", f"md5s3stash_wheels={wheels}")
        second = current_release(box)
        assert second.startswith(f"{NEXT_VERSION}-")
        assert running_releases(box) == {second}
        kept = box.guest.run("ls", "/opt/md5s3stash/releases").split()
        assert {first, second} < set(kept)
        assert len(kept) == 4

        image.playbook(box.login, "--tags", "release", "--extra-vars", f"md5s3stash_release={first}")
        assert current_release(box) == first
        assert running_releases(box) == {first}

    load.nobody_was_cut_off()
    box.all_active()
    box.nothing_is_lost()
