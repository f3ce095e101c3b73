"""The system call filter of systemd's RestrictSUIDSGID=, which both units with a capability have.

`python -m tests.support.seccomp PROGRAM ARGUMENT...` runs a program behind it; with `--without=landlock` or
`--without=seccomp` before the program, as on a kernel or in a unit that does not give it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence

# System calls: openat2, and those of chmod with the index of their mode argument.
_OPENAT2 = 437
_CHMODS = {"x86_64": {90: 1, 91: 1, 268: 2}, "aarch64": {52: 1, 53: 2}}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
# How the kernel refuses what it has not got, and a unit what it does not give.
_SEALS = {
    "landlock": ({"x86_64": 444, "aarch64": 444}, errno.ENOSYS),
    "seccomp": ({"x86_64": 317, "aarch64": 277}, errno.EPERM),
}
# Classic BPF: load a word, jump if equal, jump if any bit is set, return.
_LOAD, _IF_EQUAL, _IF_ANY, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def restrict_suid_sgid() -> None:
    """Does the relevant part of systemd's seccomp_restrict_sxid. It refuses openat2 completely, because a filter cannot
    see the flags of that call.
    """
    filters = [(_LOAD, 0, 0, 0), (_IF_EQUAL, 0, 1, _OPENAT2), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    for number, place in _CHMODS[platform.machine()].items():
        filters += [
            (_IF_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, 16 + 8 * place),
            (_IF_ANY, 0, 1, 0o6000),
            (_RETURN, 0, 0, _REFUSE | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    _apply([*filters, (_RETURN, 0, 0, _ALLOW)])


def without(name: str) -> None:
    """Refuses the call that one of the seals needs first."""
    numbers, error = _SEALS[name]
    refuse = [(_IF_EQUAL, 0, 1, numbers[platform.machine()]), (_RETURN, 0, 0, _REFUSE | error)]
    _apply([(_LOAD, 0, 0, 0), *refuse, (_RETURN, 0, 0, _ALLOW)])


def _apply(filters: Sequence[tuple[int, int, int, int]]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = (_Instruction * len(filters))(*(_Instruction(*parts) for parts in filters))
    program = _Program(len(filters), instructions)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    if sys.argv[1].startswith("--without="):
        without(sys.argv.pop(1).partition("=")[2])
    else:
        restrict_suid_sgid()
    os.execv(sys.argv[1], sys.argv[1:])
