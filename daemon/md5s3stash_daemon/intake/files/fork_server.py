"""Forks worker processes from a process without threads.

The daemon has threads, and any lock that one of them holds during a fork would stay locked in the child. So the daemon
forks a fork server before it starts any thread. The fork server has everything imported, and only forks workers on
request; workers share its memory until they write to it.

No process is left behind: the kernel kills the fork server when the daemon dies, and the workers when the fork server
dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

from md5s3stash.errors import StashError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1

# Interval between checks for ended workers. The daemon notices sooner, because the worker's connection closes.
_REAP_SECONDS = 1.0

# A fork takes milliseconds.
_ANSWER_SECONDS = 30.0

_ORDER = b"+"

# Ctrl-C and systemd signal every process, but the daemon decides when each process stops.
_LEFT_TO_THE_DAEMON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Work = Callable[[Connection], object]


class ForkServerGone(StashError):
    """No worker can be started any more, and all workers have died with the fork server."""


class ForkServer:
    """The daemon's side. Create it before any thread is started."""

    def __init__(self, work: Work) -> None:
        """Each worker calls `work` with its end of a connection, and ends when `work` returns."""
        self._control, theirs = socket.socketpair()
        # Garbage collection would write to existing objects, and so copy their shared pages into each process.
        gc.freeze()
        daemon = os.getpid()
        if os.fork() == 0:
            self._control.close()
            _run(functools.partial(_fork_workers, theirs, work), daemon)
        theirs.close()
        self._control.settimeout(_ANSWER_SECONDS)

    def start(self) -> tuple[Connection, int]:
        """Starts a worker; returns the daemon's end of its connection, and its pid. Raises ForkServerGone."""
        try:
            self._control.sendall(_ORDER)
            pid, descriptors, _, _ = socket.recv_fds(self._control, 20, 1)
        except OSError:
            pid, descriptors = b"", []
        if not descriptors:
            raise ForkServerGone("cannot start worker processes: restart the daemon")
        return Connection(descriptors[0]), int(pid)

    def close(self) -> None:
        """Ends the fork server and its workers."""
        self._control.close()


def _fork_workers(control: socket.socket, work: Work) -> None:
    fork_server = os.getpid()
    while True:
        asked, _, _ = select.select([control], [], [], _REAP_SECONDS)
        _reap()
        if not asked:
            continue
        if not control.recv(1):
            return
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            control.close()
            ours.close()
            connection = Connection(theirs.detach())
            _run(functools.partial(work, connection), fork_server)
        theirs.close()
        socket.send_fds(control, [str(pid).encode()], [ours.fileno()])
        ours.close()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(ended[1])
            if status != 0:
                log.error("worker ended pid=%d status=%d", ended[0], status)


def _run(main: Callable[[], object], parent: int) -> NoReturn:
    """Runs `main` in a forked process, and exits."""
    status = 1
    try:
        for number in _LEFT_TO_THE_DAEMON:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before prctl.
        if os.getppid() == parent:
            main()
            status = 0
    except BaseException:
        log.exception("unexpected")
    # Not sys.exit: it would run the parent's exit handlers and wait for blocked threads.
    logging.shutdown()
    os._exit(status)
