"""Whether a process that was too slow had the CPU: if others had it, that is not the fault of the picture."""

from __future__ import annotations

import time

# Of the time that a picture has: a process that computed for less of it was kept from it by others.
_OWN_SHARE = 0.5


def cpu_seconds(pid: int) -> float:
    """What a process has used since its start. Raises OSError if it has ended and is gone."""
    # What clock_getcpuclockid(3) returns. /proc/PID/stat counts in hundredths of a second, and a tile takes less.
    return time.clock_gettime(~pid << 3 | 2)


def had_the_cpu(used_seconds: float, seconds: float) -> bool:
    """Whether so much CPU was used in a time that the picture, and not the load of the box, took it."""
    return used_seconds >= seconds * _OWN_SHARE
