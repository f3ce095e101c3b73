"""A file system on a disk of its own, whose power can be cut: what was not synced is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.image import run
from tests.support.servers import wait_until

FILESYSTEMS = ("ext4", "xfs")

# XFS wants 300 MB.
_SIZE_BYTES = 512 * 1024 * 1024

# FS_IOC_SHUTDOWN of the kernel's fs.h, and to let nothing out of memory any more.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = struct.pack("I", 2)


@dataclass(frozen=True, slots=True)
class Disk:
    """Mounted at `directory`."""

    image: Path
    directory: Path

    def cut_the_power(self) -> None:
        """From now on every call fails, and memory is forgotten. A program that synced a file of its own has just made
        the journal's names durable, but no data of others: so files are there, and are empty.
        """
        other = self.directory / ".other"
        with open(other, "w") as file:
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """As at the next boot: the journal is replayed. Nobody may have a file open on it."""
        # The kernel takes a moment to let go of the guest's mounts.
        unmount = ["umount", str(self.directory)]
        wait_until(lambda: subprocess.run(unmount, capture_output=True).returncode == 0, "an unmounted disk", 60)
        # While another mount namespace still has it, a new mount is of the same file system, which stays without power.
        loops = ["losetup", "--noheadings", "--associated", str(self.image)]
        wait_until(lambda: run(loops) == "", "a disk that no namespace has mounted", 60)
        self.mount()

    def mount(self) -> None:
        run(["mount", "-o", "loop", self.image, self.directory])


@contextlib.contextmanager
def mounted(filesystem: str, directory: Path, image: Path) -> Iterator[Disk]:
    """A disk with a copy of the directory on it, mounted in its place; what was there is back at the end."""
    disk = Disk(image, directory)
    with open(image, "wb") as file:
        file.truncate(_SIZE_BYTES)
    run([f"mkfs.{filesystem}", "-q", image])
    try:
        copy = image.with_suffix(".copy")
        run(["cp", "--archive", directory, copy])
        disk.mount()
        try:
            run(["cp", "--archive", f"{copy}/.", directory])
            yield disk
        finally:
            # A test that failed in the middle may have left a program on it.
            run(["umount", "--lazy", directory])
            run(["rm", "-rf", copy])
    finally:
        image.unlink()
