"""Gives a process exactly the user, groups and capabilities of one of our units. Must start as root.

Import all modules before: the user may not be able to read Python's files.
"""

from __future__ import annotations

import configparser
import ctypes
import os
from pathlib import Path

from tests.support.seccomp import restrict_suid_sgid
from tests.support.servers import REPOSITORY
from tests.support.strangers import DAEMON, DROP_GROUP

_NUMBERS = {"CAP_FOWNER": 3, "CAP_LEASE": 28}
_CAPABILITY_VERSION = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"


def become(unit: str) -> None:
    """Changes this process as systemd would for the unit."""
    settings = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    settings.read(REPOSITORY / "systemd" / unit)
    service = settings["Service"]
    assert service["User"] == "md5s3stash"
    assert service["PrivateUsers"] == "no", "a capability in a user namespace has no effect"
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"]
    numbers = [_NUMBERS[name] for name in service["AmbientCapabilities"].split()]
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(int(Path(_LAST_CAPABILITY).read_text()) + 1):
        if number not in numbers:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([DROP_GROUP] if "md5s3stash-drop" in service["SupplementaryGroups"].split() else [])
    os.setresgid(DAEMON, DAEMON, DAEMON)
    os.setresuid(DAEMON, DAEMON, DAEMON)
    granted = sum(1 << number for number in numbers)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; the second three are for capabilities from 32 on.
    data = (ctypes.c_uint32 * 6)(granted, granted, granted, 0, 0, 0)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    for number in numbers:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
    if service["NoNewPrivileges"] == "yes":
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # As after an exec.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    if service["RestrictSUIDSGID"] == "yes":
        restrict_suid_sgid()
    os.umask(int(service["UMask"], 8))
