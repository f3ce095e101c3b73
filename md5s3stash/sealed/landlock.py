"""Landlock: the files that a process may open, and no connection, signal or abstract socket beyond it.

Every kernel has its version. Each adds to what can be refused, and all that it has is refused. Only the standard
library is imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

# The same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 2, 1 << 3
# What a file, which has no entries, may be given.
_OF_A_FILE = _EXECUTE | _READ_FILE

# The version that brought each: bits of accesses to files; bind and connect by TCP; abstract sockets and signals.
_FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
_NETWORK = {4: 0x3}
_SCOPES = {6: 0x3}


def version() -> int:
    """0: there is none, the kernel was started without it, or this process may not ask."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict(readable: Iterable[str] = ()) -> None:
    """Refuses for good all that this kernel's version can, except reading and executing what is at or below these
    paths. Paths that do not exist are left out. Raises OSError.

    PR_SET_NO_NEW_PRIVS must be set. It holds for this thread and those that it starts.
    """
    libc, abi = _libc(), version()
    words = [_bits(_FILES, abi), _bits(_NETWORK, abi), _bits(_SCOPES, abi)]
    # An older kernel refuses a structure with parts that it does not know.
    attributes = struct.pack("=QQQ", *words)[: 24 if words[2] else 16 if words[1] else 8]
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path in readable:
            _allow(libc, ruleset, path)
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        access = _OF_A_FILE | _READ_DIRECTORY if os.path.isdir(path) else _OF_A_FILE
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0))
    except OSError as error:
        # A pipe, a socket or a file in memory needs no rule.
        if error.errno != errno.EBADFD:
            raise
    finally:
        os.close(descriptor)


def _bits(by_version: dict[int, int], abi: int) -> int:
    return max((bits for since, bits in by_version.items() if since <= abi), default=0)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
