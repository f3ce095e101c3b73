"""A power cut while S3 is unavailable, with the spool on a real file system: files damaged by it are not stashed.

In the other power cut (test_2_faults.py) the kernel's cache survives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.box import DAEMON, SETTLED_SECONDS, Box, md5_of, picture
from tests.acceptance.conftest import Baked
from tests.acceptance.disks import FILESYSTEMS, Disk, mounted
from tests.support.servers import wait_until


@pytest.fixture(params=FILESYSTEMS)
def disk(request: pytest.FixtureRequest, box: Box, baked: Baked) -> Iterator[Disk]:
    """A disk with the box's spool, during a test."""
    box.nothing_is_lost()
    box.guest.shut_down()
    with mounted(request.param, box.spool, baked.disk / f"{request.param}.disk") as disk:
        box.guest.boot()
        box.all_active()
        yield disk
        box.guest.shut_down()
    box.guest.boot()
    box.all_active()


def drop_synced(box: Box, label: str, count: int) -> None:
    """Drops files as a program that syncs the data and the name."""
    for number in range(count):
        data, name = picture(), f"{label}-{number}.jpg"
        temporary = box.spool / f"incoming/.{name}"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o664)
        os.rename(temporary, box.spool / f"incoming/{name}")
        descriptor = os.open(box.spool / "incoming", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        box.remember({name: data})


def synced_until(spool: Path) -> float:
    """The time up to which the daemon has synced the spool."""
    return int((spool / ".boot").read_text().split()[2]) / 1e9


def held(box: Box) -> dict[str, Path]:
    return {name: Path(folder, name) for folder, _, names in os.walk(box.spool / "hold") for name in names}


def test_a_power_cut_loses_nothing_that_was_synced_and_nothing_that_it_damaged_is_stashed(box: Box, disk: Disk) -> None:
    label = f"cut-{Path(disk.image).stem}"
    with box.cloud.s3_away():
        # The daemon syncs waiting files.
        box.drop(f"{label}-waits", 10)
        dropped = time.time()
        wait_until(lambda: synced_until(box.spool) > dropped, "a spool that is synced while files wait", 60)
        # It has no time to sync these.
        box.send("STOP", DAEMON)
        unsynced = box.drop(f"{label}-unsynced", 20)
        drop_synced(box, f"{label}-synced", 10)
        disk.cut_the_power()
        box.guest.cut_the_power()
        disk.come_back()
    box.guest.boot()
    box.all_active()

    wait_until(lambda: not box.waiting() - held(box).keys(), "only held files in the spool", SETTLED_SECONDS)
    kept, recorded = held(box), box.ledger()
    wrong = [name for name, md5 in box.dropped.items() if recorded.get(name, md5) != md5]
    assert not wrong, f"recorded as other bytes: {', '.join(wrong)}"
    assert kept, "the cut damaged no file, so the test proves nothing"
    assert kept.keys() <= unsynced.keys()
    assert "it is empty" in box.guest.run("journalctl", f"--unit={DAEMON}", "--boot", "--output=cat")
    # The producer drops these again, and an operator removes the others.
    for name, path in kept.items():
        path.unlink()
        box.remember({name: (data := picture())})
        (box.spool / f"incoming/{name}").write_bytes(data)
        assert box.dropped[name] == md5_of(data)
    # A name that never reached the disk must be dropped again by its producer.
    for name in unsynced.keys() - kept.keys() - recorded.keys():
        del box.dropped[name]
    box.nothing_is_lost()
