"""The processes of a running daemon."""

from __future__ import annotations

import contextlib
import os

from tests.support.servers import is_alive, stat_fields


def children_of(pid: int) -> list[int]:
    """The ids of living children."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            if int(stat_fields(int(name))[1]) == pid and is_alive(int(name)):
                found.append(int(name))
    return sorted(found)


def workers_of(pid: int) -> list[int]:
    """The workers of a daemon, whose only child is the process that forks them."""
    return [worker for fork_server in children_of(pid) for worker in children_of(fork_server)]
