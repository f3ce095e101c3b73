"""How many processors this process may use: the machine's, its affinity (cpuset), and the quota of its control groups.

`os.cpu_count` and `os.process_cpu_count` know no quota, which is how `docker run --cpus`, Kubernetes and systemd's
CPUQuota= limit a program.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")


def usable_processors(proc: Path = _PROC) -> int:
    """At least 1. A quota of 1.5 processors counts as 2, because less would leave some of it unused."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The quota of each control group that this process is in, in processors. A group's parents limit it, too."""
    for mount, group in _groups(proc):
        # The part of the path that is above the mount is not visible here.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            quota = _quota(mount.joinpath(*parts[:depth]))
            if quota is not None:
                yield quota


def _groups(proc: Path) -> Iterator[tuple[Path, str]]:
    """Where the controller of processor time is mounted, and the path of this process below it: cgroups(7)."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return  # not Linux
    # Version 2 is the hierarchy 0 and names no controllers.
    paths = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        root, point = place.split()[3:5]
        filesystem, _, options = kind.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(filesystem)
        if controller in paths and (not controller or controller in options.split(",")):
            path = paths[controller]
            yield Path(point), path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def _quota(group: Path) -> float | None:
    """None without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
