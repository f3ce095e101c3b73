"""Does inotify report what other machines do to this directory? On a network file system it does not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

MOUNTINFO = "/proc/self/mountinfo"

AUTO = "auto"
INOTIFY = "inotify"
POLL = "poll"

# As /proc spells them. All of FUSE counts (sshfs, s3fs, glusterfs): the kernel sees only what this machine does.
# fuseblk does not count: it mounts a local disk.
_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "gpfs", "lustre", "afs", "ncpfs", "beegfs", "virtiofs",
    "vboxsf", "ocfs2", "gfs2", "orangefs", "fuse",
}  # fmt: skip


def by_inotify(setting: str, filesystem: str) -> bool:
    """Whether to watch the directory with inotify, from the setting `spool.watch` and the type of its file system."""
    if setting != AUTO:
        return setting == INOTIFY
    return not is_network(filesystem)


def is_network(filesystem: str) -> bool:
    """Whether other machines may write to a file system of this type."""
    return filesystem in _NETWORK or filesystem.startswith("fuse.")


def filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the file system that has an absolute path without links, from the text of proc(5)'s mountinfo; empty
    if unknown.
    """
    found, longest = "", -1
    for mount_point, kind in _mounts(mountinfo):
        prefix = mount_point.rstrip("/") + "/"
        # A later mount on the same point hides the earlier one: first the automounter's own, then the real one.
        if f"{path}/".startswith(prefix) and len(prefix) >= longest:
            found, longest = kind, len(prefix)
    return found


def filesystem_type(directory: str) -> str:
    """The type of the file system that a directory is on."""
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            return filesystem_of(os.path.realpath(directory), file.read())
    except OSError:
        return ""


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.split("\n"):
        # ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [OPTIONAL...] - TYPE SOURCE OPTIONS
        fields, separator, rest = line.partition(" - ")
        if separator and len(fields.split(" ")) > 4:
            yield _unescaped(fields.split(" ")[4]), rest.split(" ")[0]


def _unescaped(text: str) -> str:
    r"""Blanks and backslashes are written as \040 and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
