"""A file system on its own disk, whose power can be cut: data that was not synced is lost."""

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

# XFS needs 300 MB.
_SIZE_BYTES = 512 * 1024 * 1024

# FS_IOC_SHUTDOWN of the kernel's fs.h, and the flag to write nothing more.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = struct.pack("I", 2)


@dataclass(frozen=True, slots=True)
class Disk:
    """Mounted at `directory`."""

    image: Path
    directory: Path

    def cut_the_power(self) -> None:
        """From now on every call fails, and cached data is lost. Just before, a program synced its own file, which
        makes the journal's names durable, but not the data of other files: so these exist, and are empty.
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
        """Mounts it again as at the next boot: the journal is replayed. No process may have a file open on it."""
        # The kernel needs a moment to release the guest's mounts.
        unmount = ["umount", str(self.directory)]
        wait_until(lambda: subprocess.run(unmount, capture_output=True).returncode == 0, "an unmounted disk", 60)
        # While another mount namespace has it, a new mount would use the same file system, still without power.
        loops = ["losetup", "--noheadings", "--associated", str(self.image)]
        wait_until(lambda: run(loops) == "", "a disk that no namespace has mounted", 60)
        self.mount()

    def mount(self) -> None:
        run(["mount", "-o", "loop", self.image, self.directory])


@contextlib.contextmanager
def mounted(filesystem: str, directory: Path, image: Path) -> Iterator[Disk]:
    """A disk with a copy of the directory, mounted over it; unmounted at the end."""
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
            # A failed test may have left a program that uses it.
            run(["umount", "--lazy", directory])
            run(["rm", "-rf", copy])
    finally:
        image.unlink()
