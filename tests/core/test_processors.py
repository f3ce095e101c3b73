"""The number of processors that a program may use, under each form of limit that an engine or systemd sets.

`make container-test` starts the thumbnail server in a control group of the kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from md5s3stash.processors import usable_processors

ALLOWED = frozenset(range(8))


class Kernel:
    """A directory like /proc/self, and mounted control groups, in the form that cgroups(7) describes."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.proc.mkdir()
        self._directory = directory
        self._groups: list[str] = []
        self._mounts = ["31 23 0:28 / /sys rw,relatime - sysfs sysfs rw"]
        self._write()

    def _write(self) -> None:
        (self.proc / "cgroup").write_text("".join(f"{line}\n" for line in self._groups))
        (self.proc / "mountinfo").write_text("".join(f"{line}\n" for line in self._mounts))

    def version_2(self, path: str, root: str = "/") -> None:
        self._groups.append(f"0::{path}")
        self._mounts.append(
            f"41 31 0:38 {root} {self._directory}/v2 rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
        )
        self._write()

    def version_1(self, controllers: str, path: str, root: str = "/") -> None:
        self._groups.append(f"4:{controllers}:{path}")
        self._mounts.append(f"33 31 0:30 {root} {self._directory}/{controllers} rw - cgroup cgroup rw,{controllers}")
        self._write()

    def limit(self, group: str, **files: str) -> None:
        place = self._directory / group
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: ALLOWED)
    return Kernel(tmp_path)


def test_without_a_limit_the_affinity_counts(kernel: Kernel) -> None:
    assert usable_processors(kernel.proc) == 8
    assert usable_processors(kernel.proc / "missing") == 8

    kernel.version_2("/user.slice")
    kernel.limit("v2/user.slice", cpu__max="max 100000")
    kernel.version_1("cpu,cpuacct", "/user.slice")
    kernel.limit("cpu,cpuacct/user.slice", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")

    assert usable_processors(kernel.proc) == 8


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [(100_000, 100_000, 1), (150_000, 100_000, 2), (1_000, 100_000, 1), (20_000, 10_000, 2), (9_900_000, 100_000, 8)],
)
def test_a_quota_counts_in_whole_processors(
    kernel: Kernel, tmp_path: Path, quota: int, period: int, count: int
) -> None:
    kernel.version_2("/")
    kernel.limit("v2", cpu__max=f"{quota} {period}")
    assert usable_processors(kernel.proc) == count

    (tmp_path / "old").mkdir()
    old = Kernel(tmp_path / "old")
    old.version_1("cpu", "/")
    old.limit("cpu", cpu__cfs_quota_us=str(quota), cpu__cfs_period_us=str(period))
    assert usable_processors(old.proc) == count


def test_the_smallest_quota_of_a_group_and_its_parents_counts(kernel: Kernel) -> None:
    kernel.version_2("/system.slice/stash.service/child")
    kernel.limit("v2/system.slice", cpu__max="300000 100000")
    kernel.limit("v2/system.slice/stash.service", cpu__max="max 100000")
    kernel.limit("v2/system.slice/stash.service/child", cpu__max="500000 100000")

    assert usable_processors(kernel.proc) == 3


@pytest.mark.parametrize(
    ("path", "root"),
    [
        # The host's path, which the container does not see: it has the group itself at the mount.
        ("/docker/0123", "/docker/0123"),
        ("/docker/0123", "/"),
        # A control group namespace whose process was moved out of it.
        ("/../4567", "/.."),
    ],
)
def test_a_container_that_sees_its_own_group_alone_has_its_quota(kernel: Kernel, path: str, root: str) -> None:
    kernel.version_1("cpu,cpuacct", path, root)
    kernel.limit("cpu,cpuacct", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")

    assert usable_processors(kernel.proc) == 2


def test_a_group_below_the_root_of_the_mount_is_found(kernel: Kernel) -> None:
    kernel.version_2("/docker/0123/worker", "/docker/0123")
    kernel.limit("v2/worker", cpu__max="200000 100000")
    # Another group, whose name begins like that of ours.
    kernel.limit("v2/docker/0123/worker", cpu__max="100000 100000")

    assert usable_processors(kernel.proc) == 2


@pytest.mark.parametrize("text", ["", "max", "0 0", "x 100000", "-5 100000", "100000 x"])
def test_a_file_that_cannot_be_read_is_no_limit(kernel: Kernel, text: str) -> None:
    kernel.version_2("/")
    kernel.limit("v2", cpu__max=text)

    assert usable_processors(kernel.proc) == 8
