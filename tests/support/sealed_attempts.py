"""What an attacker who controls a sealed process would try, as a program that says how each attempt ended.

It also runs as a thumbnailer whose workers try all this instead of drawing, and as the process that looks at contents.
It is never installed: `python sealed_attempts.py alone|open|serve|look ...`; SEALED_ATTEMPTS names what there is to
reach, as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
# Numbers on x86_64 and on aarch64, arguments.
_RAW: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "ptrace the server": (101, 117, (16, -1)),
    "be traced": (101, 117, (0,)),
    "read the memory of the server": (310, 270, (-1,)),
    "write the memory of the server": (311, 271, (-1,)),
    "open the server by pidfd": (434, 434, (-1, 0)),
    "take a descriptor of the server": (438, 438, (3, 0, 0)),
    "queue a signal to the server": (129, 138, (-1, 0, 0)),
    "signal a thread": (200, 130, (-1, 0)),
    "signal a thread of the server": (234, 131, (-1, -1, 0)),
    "change a limit of the server": (302, 261, (-1, 7, 0, 0)),
    "vfork": (58, 220, (0x4111,)),
    "clone a process": (56, 220, (17, 0)),
    "clone in new namespaces": (56, 220, (0x10000000 | 17, 0)),
    "clone3": (435, 435, (0, 0)),
    "execveat": (322, 281, (-100, 0, 0, 0, 0)),
    "openat2": (437, 437, (-100, 0, 0, 0)),
    "open by handle": (304, 265, (-100, 0, 0)),
    "io_uring": (425, 425, (1, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "perf": (298, 241, (0, 0, -1, -1, 0)),
    "keyctl": (250, 219, (0, -3, 0)),
    "add a key": (248, 217, (0, 0, 0, 0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "unshare": (272, 97, (0x10000000,)),
    "enter a namespace": (308, 268, (0, 0)),
    "shared memory": (29, 194, (0, 4096, 0o600)),
    "a message queue": (68, 186, (0, 0o600)),
    "inotify": (294, 26, (0,)),
    "kcmp": (312, 272, (-1, 1, 0, 0, 0)),
    "another seccomp filter": (317, 277, (1, 0, 0)),
    "be dumpable": (157, 167, (4, 1)),
    "executable memory": (9, 222, (0, 4096, 7, 0x22, 0xFFFFFFFF, 0)),
    "type into a terminal": (16, 29, (2, 0x5412, 0)),
    "own the signals of a descriptor": (72, 25, (2, 8, -1)),
    "set the affinity of the server": (203, 122, (-1, 0, 0)),
}


def attempts(reach: Mapping[str, Any], channel: socket.socket | None = None) -> dict[str, str]:
    """How each attempt ended: `refused`, and with which error, or what came of it. `reach` has credentials (a file),
    secret (a variable of the server), tcp (a port), unix (a path), abstract (a name), server (a process).
    """
    server, path = int(reach["server"]), reach["credentials"]
    directory = os.path.dirname(path)
    sockets = {"tcp": ("127.0.0.1", reach["tcp"]), "unix": reach["unix"], "abstract": "\0" + reach["abstract"]}
    tries: dict[str, Callable[[], object]] = {
        "read the credentials": lambda: os.open(path, os.O_RDONLY),
        "list their directory": lambda: os.listdir(directory),
        "read the environment": lambda: os.open("/proc/self/environ", os.O_RDONLY),
        "read the memory by /proc": lambda: os.open("/proc/self/mem", os.O_RDWR),
        "read the environment of the server": lambda: os.open(f"/proc/{server}/environ", os.O_RDONLY),
        "list the descriptors of the server": lambda: os.listdir(f"/proc/{server}/fd"),
        "open a library": lambda: os.open(ctypes.__file__, os.O_RDONLY),
        "open again what it has": lambda: os.open("/proc/self/fd/2", os.O_WRONLY),
        "connect by TCP": lambda: socket.create_connection(sockets["tcp"], 5),
        "send by UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", sockets["tcp"]),
        "connect to a Unix socket": lambda: socket.socket(socket.AF_UNIX).connect(sockets["unix"]),
        "connect to an abstract socket": lambda: socket.socket(socket.AF_UNIX).connect(sockets["abstract"]),
        "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "a pair of sockets": socket.socketpair,
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "fork": os.fork,
        "signal the server": lambda: os.kill(server, 0),
        "signal all": lambda: os.kill(-1, 0),
        "write a file": lambda: os.open(f"{directory}/written", os.O_WRONLY | os.O_CREAT, 0o600),
        "write the credentials": lambda: os.open(path, os.O_WRONLY),
        "truncate": lambda: os.truncate(path, 0),
        "remove": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, f"{directory}/renamed"),
        "link": lambda: os.link(path, f"{directory}/linked"),
        "symlink": lambda: os.symlink(path, f"{directory}/symlinked"),
        "make a directory": lambda: os.mkdir(f"{directory}/made"),
        "change a mode": lambda: os.chmod(path, 0o777),
        "change a time": lambda: os.utime(path),
        "change directory": lambda: os.chdir("/"),
    }
    ended = {what: _ended(attempt) for what, attempt in tries.items()}
    if channel is not None:
        ended["send to an abstract socket"] = _ended(lambda: channel.sendto(b"x", sockets["abstract"]))
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    for what, (*numbers, arguments) in _RAW.items():
        numbered = [server if argument == -1 and "server" in what else argument for argument in arguments]
        ended[what] = _ended(lambda: _raw(numbers[column], *numbered))  # noqa: B023 - called at once
    return {**ended, **facts(reach["secret"])}


def facts(name: str) -> dict[str, str]:
    """What the process has, and what it must still be able to do."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    getenv = _LIBC.getenv
    getenv.restype = ctypes.c_char_p
    return {
        "the secret": str(os.environ.get(name) or getenv(name.encode())),
        "descriptors": ",".join(str(number) for number in range(256) if _is_open(number)),
        "memory": str(len(mmap.mmap(-1, 4096))),
        "not refused": str(_unknown_calls()),
    }


def _unknown_calls() -> list[int]:
    """Numbers of system calls that are neither refused nor in the list of those that are allowed."""
    from md5s3stash.sealed import seccomp

    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    allowed = {numbers[column] for numbers in seccomp._NUMBERS.values()}
    return [
        number
        for number in range(600)
        if number not in allowed
        # The kernel's own probes use these two; it ends any other caller with SIGILL.
        and number not in (335, 336)
        and not _ended(lambda: _raw(number)).startswith("refused")  # noqa: B023
    ]


def _raw(number: int, *arguments: int) -> int:
    ctypes.set_errno(0)
    given = [ctypes.c_long(argument) for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    result: int = _LIBC.syscall(ctypes.c_long(number), *given)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result


def _ended(attempt: Callable[[], object]) -> str:
    try:
        return f"done: {attempt()!r}"
    except OSError as error:
        code = error.errno or 0
        is_refused = code in (errno.EPERM, errno.EACCES, errno.ENOSYS)
        return f"{'refused' if is_refused else 'failed'}: {errno.errorcode.get(code, error)}"


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def in_the_open(reach: Mapping[str, Any]) -> dict[str, str]:
    """Some of them without a room, to show that only the room refuses them."""
    server, path = int(reach["server"]), reach["credentials"]
    return {
        "read the credentials": _ended(lambda: os.open(path, os.O_RDONLY)),
        "read the environment": _ended(lambda: os.open("/proc/self/environ", os.O_RDONLY)),
        "connect by TCP": _ended(lambda: socket.create_connection(("127.0.0.1", reach["tcp"]), 5)),
        "connect to a Unix socket": _ended(lambda: socket.socket(socket.AF_UNIX).connect(reach["unix"])),
        "connect to an abstract socket": _ended(
            lambda: socket.socket(socket.AF_UNIX).connect("\0" + reach["abstract"])
        ),
        "signal the server": _ended(lambda: os.kill(server, 0)),
        "write the credentials": _ended(lambda: os.open(path, os.O_WRONLY)),
        "spawn": _ended(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]),
    }


def _alone() -> None:
    from md5s3stash.sealed.process import seal

    reach = json.loads(os.environ["SEALED_ATTEMPTS"])
    seal({0, 1, 2})
    ended = attempts(reach)
    # In a unit, systemd's filter ends a process that tries another kind of system call.
    if platform.machine() == "x86_64":
        ended["a socket by x32"] = _ended(lambda: _raw(0x40000000 + 41, socket.AF_INET, socket.SOCK_STREAM))
    print(json.dumps(ended))


def _serve() -> int:
    from md5s3stash_thumbnailer.main import main
    from md5s3stash_thumbnailer.workers import pool

    reach = {**json.loads(os.environ["SEALED_ATTEMPTS"]), "server": os.getpid()}
    pool.WORKER = [sys.executable, __file__, "work", json.dumps(reach)]
    return main() or 0


def _work() -> None:
    from md5s3stash_thumbnailer.render.pipeline import Thumbnail
    from md5s3stash_thumbnailer.workers import worker
    from md5s3stash_thumbnailer.workers.messages import written_thumbnail

    reach = json.loads(sys.argv[2])

    def answer(worker: Any, message: Any, descriptors: list[int]) -> None:
        ended = attempts(reach, worker._channel._end)
        # What the request has brought may be read and no more.
        ended["the original"] = _ended(lambda: len(os.pread(descriptors[0], 100, 0)))
        ended["write the original"] = _ended(lambda: os.ftruncate(descriptors[0], 0))
        for descriptor in descriptors:
            os.close(descriptor)
        body = json.dumps(ended).encode()
        worker._channel.send(written_thumbnail(Thumbnail("image/png", b""), 0), body)

    worker.Worker.answer = answer  # type: ignore[method-assign,assignment]
    sys.argv[1:] = sys.argv[3:]
    worker.main()


def _look() -> None:
    from md5s3stash.look import here, process

    reach, prepared = json.loads(sys.argv[2]), here.look

    def look(reader: Any, **_: Any) -> Any:
        # It is called once before the seal.
        return prepared(reader) if reader.read() == b"prepare" else (json.dumps(attempts(reach)), (0, 0))

    here.look = look
    sys.argv[1:] = sys.argv[3:]
    process.main()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if sys.argv[1] == "alone":
        _alone()
    elif sys.argv[1] == "open":
        print(json.dumps(in_the_open(json.loads(os.environ["SEALED_ATTEMPTS"]))))
    elif sys.argv[1] == "look":
        _look()
    elif sys.argv[1] == "work":
        _work()
    else:
        del sys.argv[1]
        sys.exit(_serve())
