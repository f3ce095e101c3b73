"""Forks worker processes from a process without threads.

The daemon has threads, and a fork of such a process has the locks that they held, for ever. So a fork server is forked
while there is only one thread yet; it holds everything imported and does nothing but fork a worker when it is asked to.
They share their memory with it until they write to it.

Nobody is left behind: the kernel kills the fork server when the daemon dies, and the workers when the fork server does.
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

# Between two looks for workers that have ended, in seconds. Whoever waits for one sees its connection close at once.
_REAP_SECONDS = 1.0

# A fork takes milliseconds.
_ANSWER_SECONDS = 30.0

_ORDER = b"+"

# Ctrl-C and systemd tell every process; who stops and when is the daemon's to say.
_LEFT_TO_THE_DAEMON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Work = Callable[[Connection], object]


class ForkServerGone(StashError):
    """Without it no worker can be started; with it all of them have died."""


class ForkServer:
    """The daemon's side. To be made before any thread is started."""

    def __init__(self, work: Work) -> None:
        """`work` is called in each worker, with its end of a connection, and the worker ends when it returns."""
        self._control, theirs = socket.socketpair()
        # What is there stays where it is: a collection would write to it, and then each process had its own.
        gc.freeze()
        daemon = os.getpid()
        if os.fork() == 0:
            self._control.close()
            _run(functools.partial(_tend, theirs, work), daemon)
        theirs.close()
        self._control.settimeout(_ANSWER_SECONDS)

    def start(self) -> tuple[Connection, int]:
        """A new worker: the daemon's end of its connection, and its process id. Raises ForkServerGone."""
        try:
            self._control.sendall(_ORDER)
            pid, descriptors, _, _ = socket.recv_fds(self._control, 20, 1)
        except OSError:
            pid, descriptors = b"", []
        if not descriptors:
            raise ForkServerGone("the process that starts workers is gone: the daemon has to be started anew")
        return Connection(descriptors[0]), int(pid)

    def close(self) -> None:
        """Ends the fork server, and what workers are left."""
        self._control.close()


def _tend(control: socket.socket, work: Work) -> None:
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
    """The rest of a forked process's life."""
    status = 1
    try:
        for number in _LEFT_TO_THE_DAEMON:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have died before that.
        if os.getppid() == parent:
            main()
            status = 0
    except BaseException:
        log.exception("unexpected")
    # Nothing of the parent's is to be run at its end, and threads that hang hold up nobody.
    logging.shutdown()
    os._exit(status)
