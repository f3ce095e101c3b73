"""Render workers as forks of a process that has imported all that they use: each takes half a second of CPU less.

For servers of a single test. What such a worker has imported and inherited is not what a worker has elsewhere: servers
that draw every kind of picture start their workers as the product does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

# The server itself is a fork of a process that imports this module.
import md5s3stash_thumbnailer.app  # noqa: F401
from md5s3stash.sealed.channel import Channel
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.workers import pool, worker
from tests.support import warm
from tests.support.servers import is_alive

_SECONDS = 60.0


def warm_up() -> None:
    """Imports what a worker imports, late as well."""
    for kind in kinds.every().values():
        with suppress(ImportError):
            kind.prepare()
    worker._import_the_rest()


def fork_workers() -> None:
    """Has this process, the server to be, fork its workers. It has one thread."""
    forks = _Forks()
    replaced: Any = pool
    replaced.subprocess = SimpleNamespace(
        Popen=forks.start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )


def workers_of(server: int) -> list[int]:
    """The living render workers of a server, whichever way it starts them. A server may run ffmpeg, too."""
    children = _children(server)
    started = [child for child in children if b"workers.worker" in _command(child)]
    # The forking process has the command of the server, and no other children.
    forked = [each for child in children if _command(child) == _command(server) for each in _children(child)]
    return sorted(filter(is_alive, (*started, *forked)))


def _children(process: int) -> list[int]:
    found: list[int] = []
    # The thread that notices a dead worker starts its replacement.
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _command(process: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{process}/cmdline", "rb") as file:
        return file.read()
    return b""


class _Forks:
    """Our end of the process that forks the workers, which ends with this one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        server = os.getpid()
        if os.fork() == 0:
            ours.close()
            warm.tie_to(server)
            _fork_as_asked(Channel(theirs))
        theirs.close()
        self._channel = Channel(ours)
        # Each worker has a thread.
        self._lock = threading.Lock()

    def start(self, _: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int], **__: object) -> warm.Fork:
        """In the place of `subprocess.Popen`."""
        return warm.Fork(self, self.ask({"environment": dict(env)}, pass_fds))

    def ask(self, request: Mapping[str, Any], files: Sequence[int] = ()) -> Any:
        with self._lock:
            self._channel.send(dict(request), files=files)
            return self._channel.receive(0, _SECONDS)[0]["answer"]


def _fork_as_asked(channel: Channel) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with suppress(EOFError):
        while True:
            request, files = channel.receive_files()
            answer = warm.polled(request["poll"]) if "poll" in request else os.fork()
            if answer == 0 and files:
                channel.close()
                _work(request["environment"], files[0])
            for file in files:
                os.close(file)
            channel.send({"answer": answer})
    os._exit(0)


def _work(environment: Mapping[str, str], descriptor: int) -> NoReturn:
    status = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        for standard in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        sys.argv[1:] = [str(descriptor)]
        worker.main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
