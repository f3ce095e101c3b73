"""Gives a process exactly the user, groups and capabilities of one of our units. Must start as root.

Import all modules before: the user may not be able to read Python's files.
"""

from __future__ import annotations

import configparser
import ctypes
import os

from tests.support.seccomp import restrict_suid_sgid
from tests.support.servers import REPOSITORY
from tests.support.strangers import DAEMON, DROP_GROUP

_NUMBERS = {"CAP_FOWNER": 3, "CAP_LEASE": 28}
_CAPABILITY_VERSION = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8


def become(unit: str) -> None:
    """Changes this process as systemd would for the unit."""
    settings = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    settings.read(REPOSITORY / "systemd" / unit)
    service = settings["Service"]
    assert service["User"] == "md5s3stash"
    assert service["PrivateUsers"] == "no", "a capability in a user namespace has no effect"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([DROP_GROUP] if "md5s3stash-drop" in service["SupplementaryGroups"].split() else [])
    os.setresgid(DAEMON, DAEMON, DAEMON)
    os.setresuid(DAEMON, DAEMON, DAEMON)
    granted = sum(1 << _NUMBERS[name] for name in service["AmbientCapabilities"].split())
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; the second three are for capabilities from 32 on.
    data = (ctypes.c_uint32 * 6)(granted, granted, 0, 0, 0, 0)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    # As after an exec.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    if service["RestrictSUIDSGID"] == "yes":
        restrict_suid_sgid()
    os.umask(int(service["UMask"], 8))
