"""Runs a program in its own mount namespace, with other files and disks than this machine's. Needs root, which
`pytest.mark.needs_namespaces` provides.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def tiny_disk(directory: Path, size: str) -> str:
    """The mount of a disk in memory; `size` as in mount(8) for tmpfs, optionally with more options after it."""
    return f"mount -t tmpfs -o mode=700,size={size} none {shlex.quote(str(directory))}"


def in_the_place_of(path: str, file: Path) -> str:
    """The mount that replaces another file by this one."""
    return f"mount --bind {shlex.quote(str(file))} {shlex.quote(path)}"


def ways_to(paths: Sequence[Path], hidden: Path) -> list[str]:
    """The mounts that let every user reach these directories. A parent that is closed to others, such as a home, then
    shows only these; its original content is at `hidden`, a directory that may be created.
    """
    mounts = []
    places: dict[Path, str] = {}
    for path in paths:
        closed = next((above for above in reversed(path.parents) if not above.stat().st_mode & stat.S_IXOTH), None)
        if closed is None:
            continue
        shown = shlex.quote(str(closed))
        if closed not in places:
            places[closed] = place = shlex.quote(str(hidden / str(len(places))))
            mounts += [f"mkdir -p {place}", f"mount --bind {shown} {place}", f"mount -t tmpfs -o mode=755 none {shown}"]
        way = shlex.quote(str(path))
        inside = shlex.quote(str(path.relative_to(closed)))
        mounts += [f"mkdir -p {way}", f"mount --bind {places[closed]}/{inside} {way}"]
    return mounts


def enter_own_mounts(command: str) -> None:
    """Gives this process, which must have no threads, mounts of its own, as `with_mounts` does for a program."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["sh", "-c", command], check=True)


def with_mounts(mounts: Sequence[str], command: Sequence[str]) -> list[str]:
    """The command with these mounts. They are private to it and end with it; it keeps the process id."""
    unshare = shutil.which("unshare")
    assert unshare, "util-linux is part of every Debian"
    return [unshare, "--mount", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh", *command]
