"""The system calls that a sealed process may make, as a filter that the kernel applies to all its threads.

The list names what is allowed: what a later kernel adds is refused. It holds what Python, Pillow, OpenCV and libvips
were seen to need once they are imported, and what the C library may use instead. Only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_SECCOMP_SET_MODE_FILTER, _SECCOMP_GET_ACTION_AVAIL, _TSYNC = 1, 2, 1
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# The number of each call on x86_64 and on aarch64, which lacks the older ones.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    # Pipes and events wake threads; a file in memory takes what libtiff says.
    "pipe": (22, None),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    "memfd_create": (319, 279),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # On the descriptors that the process has. It cannot make a socket.
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "msync": (26, 227),
    "mincore": (27, 232),
    "brk": (12, 214),
    "get_mempolicy": (239, 236),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "clone": (56, 220),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "tgkill": (234, 131),
    "set_tid_address": (218, 96),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_getattr": (315, 275),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getcwd": (79, 17),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getpriority": (140, 141),
    "getrlimit": (97, 163),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
}
# What a program that is started needs besides, until it has loaded its libraries.
_NUMBERS_TO_LOAD: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "open": (2, None),
    "openat": (257, 56),
    "arch_prctl": (158, None),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "stat": (4, None),
    "lstat": (6, None),
    "getdents64": (217, 61),
}
_CLONE3 = 435
# Newer ones do not exist for the process, so that a newer C library uses what it used before.
_NEWEST = 462

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# Classic BPF: load a word, AND with a constant, jump if equal, above, or any bit is set, return.
_LOAD, _AND, _IF_EQUAL, _IF_ABOVE, _IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000 - 1

_CLONE_THREAD, _PROT_EXEC = 0x10000, 4
# Everything of an open that writes.
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
# Whether it is a terminal; close on exec, or not; blocking, or not. Others type into a terminal, for example.
_TCGETS, _FIOCLEX, _FIONCLEX, _FIONBIO = 0x5401, 0x5451, 0x5450, 0x5421
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_available() -> bool:
    """Whether there is a list for this processor, and this process may apply it: units have filters as well."""
    number = _SYS_SECCOMP.get(platform.machine())
    action = ctypes.byref(ctypes.c_uint32(_ERRNO))
    return number is not None and ctypes.CDLL(None).syscall(number, _SECCOMP_GET_ACTION_AVAIL, 0, action) == 0


def restrict(*, to_load: bool) -> None:
    """Applies the filter for good. Raises OSError. `to_load` is for a process that starts a program, see `command`.

    PR_SET_NO_NEW_PRIVS must be set.
    """
    machine = platform.machine()
    code = b"".join(struct.pack("=HBBI", *each) for each in _filter(machine, to_load=to_load))
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_SECCOMP[machine], _SECCOMP_SET_MODE_FILTER, _TSYNC, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _filter(machine: str, *, to_load: bool) -> list[_Instruction]:
    column = list(_AUDIT_ARCH).index(machine)
    names = {**_NUMBERS, **_NUMBERS_TO_LOAD} if to_load else _NUMBERS
    judged = _judged(to_load=to_load)
    code = [
        *_if(_ARCH, (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]), _KILL),
        *_if(_NUMBER, (_IF_ABOVE, 0, 1, _X32), _ERRNO | errno.EPERM),
        *_if(_NUMBER, (_IF_ABOVE, 0, 1, _NEWEST), _ERRNO | errno.ENOSYS),
        # A filter cannot see its flags, and the C library then uses clone.
        *_if(_NUMBER, (_IF_EQUAL, 0, 1, _CLONE3), _ERRNO | errno.ENOSYS),
    ]
    for name, numbers in names.items():
        if (number := numbers[column]) is not None:
            then = judged.get(name, [(_RETURN, 0, 0, _ALLOW)])
            code += [(_IF_EQUAL, 0, len(then), number), *then]
    return [*code, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _judged(*, to_load: bool) -> dict[str, list[_Instruction]]:
    """The calls whose arguments decide."""
    judged = {
        "clone": _any_bit(0, _CLONE_THREAD, then=_ALLOW, otherwise=_ERRNO | errno.EPERM),
        # To itself: abort() does it.
        "tgkill": _one_of(0, os.getpid()),
        "fcntl": _one_of(1, _F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC),
        "ioctl": _one_of(1, _TCGETS, _FIOCLEX, _FIONCLEX, _FIONBIO),
        "prctl": _one_of(0, _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA),
        # It may read its own limits.
        "prlimit64": [*_unless_zero(0), *_unless_zero(4), *_unless_zero(5), (_RETURN, 0, 0, _ALLOW)],
    }
    if to_load:
        return {**judged, "open": _none_of(1, _WRITING), "openat": _none_of(2, _WRITING)}
    not_executable = _any_bit(2, _PROT_EXEC, then=_ERRNO | errno.EPERM, otherwise=_ALLOW)
    return {**judged, "mmap": not_executable, "mprotect": not_executable}


def _if(offset: int, test: _Instruction, answer: int) -> list[_Instruction]:
    return [(_LOAD, 0, 0, offset), test, (_RETURN, 0, 0, answer)]


def _word(argument: int) -> _Instruction:
    # The lower half. Both processors keep it first.
    return _LOAD, 0, 0, _ARGUMENTS + 8 * argument


def _one_of(argument: int, *values: int) -> list[_Instruction]:
    allowed = [each for value in values for each in ((_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [_word(argument), *allowed, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def _any_bit(argument: int, bits: int, *, then: int, otherwise: int) -> list[_Instruction]:
    return [_word(argument), (_IF_ANY, 0, 1, bits), (_RETURN, 0, 0, then), (_RETURN, 0, 0, otherwise)]


def _none_of(argument: int, bits: int) -> list[_Instruction]:
    return _any_bit(argument, bits, then=_ERRNO | errno.EPERM, otherwise=_ALLOW)


def _unless_zero(half: int) -> list[_Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 4 * half), (_IF_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
