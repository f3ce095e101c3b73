"""Seals this process, once it has imported what it needs: nothing opens that room again.

A sealed process computes, in memory and with the descriptors that it has or is handed through a socket. It cannot open
a file by a name, make a socket, start a program or a process, signal or trace another one, or read an environment. It
can still ask whether a path exists, and how large it is. Only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from md5s3stash.sealed import landlock, seccomp

_PR_SET_NO_NEW_PRIVS = 38

# A process that will be sealed is started with these alone: its first environment stays in its memory.
_HARMLESS = ("PYTHON", "LD_LIBRARY_PATH", "LC_", "LANG", "TZ", "GLIBC_TUNABLES", "MALLOC_", "VIPS_")


def missing() -> list[str]:
    """What this kernel, or the unit of this process, does not give. Without it a sealed process has less of a room."""
    has = {"seccomp": seccomp.is_available(), "landlock": landlock.version() > 0}
    return [name for name, is_there in has.items() if not is_there]


def small_environment() -> dict[str, str]:
    """Of this process's environment what a process that will be sealed may know."""
    # Each thread of OpenBLAS reserves memory, and a sealed process must have one thread.
    kept = {name: value for name, value in os.environ.items() if name.startswith(_HARMLESS)}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """A process that is started inherits blocked signals. A signal to the whole group or unit must stop only the
    program that has started it, which lets it finish and then closes its channel. A handler in the child would not
    cover the time of its imports.
    """
    stopping = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def seal(keep: Collection[int]) -> None:
    """Leaves this process these descriptors, and the room. Raises OSError, or RuntimeError if it has several threads,
    of which Landlock would hold only one.

    All that this kernel has must work; `missing` says what it has not.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process with several threads cannot be sealed")
    os.environ.clear()
    _close(keep)
    _restrict(to_load=False)


def seal_for_command(keep: Collection[int], readable: Iterable[str]) -> None:
    """The same before an exec: what is at or below these paths may be read and executed as well, and nothing else."""
    _close(keep)
    _restrict(to_load=True, readable=readable)


def _restrict(*, to_load: bool, readable: Iterable[str] = ()) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lacks = missing()
    _set_no_new_privileges()
    if "landlock" not in lacks:
        landlock.restrict(readable)
    if "seccomp" not in lacks:
        seccomp.restrict(to_load=to_load)


def _close(keep: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            # The list's own is closed already.
            with suppress(OSError):
                os.close(int(name))


def _set_no_new_privileges() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no new privileges")
