"""Signals, handled in a thread.

A Python signal handler runs in the main thread between any two of its instructions, and so while that holds a lock: to
set an Event there may wait for ever. And a main thread that is stuck would never handle it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping

from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)


@contextlib.contextmanager
def handled(actions: Mapping[signal.Signals, Callable[[], object]], liveness: Liveness) -> Iterator[None]:
    """Calls the action of each signal that comes while the context lasts, one after the other. Main thread only."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    earlier_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # Python writes the number to the descriptor at once; its own part, later, has nothing left to do.
    earlier = {number: signal.signal(number, lambda *_: None) for number in actions}
    thread = spawn("signals", lambda: _act(reader, actions), liveness)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_descriptor)
        writer.close()
        thread.join(1.0)
        reader.close()


def _act(reader: socket.socket, actions: Mapping[signal.Signals, Callable[[], object]]) -> None:
    while numbers := reader.recv(64):
        # Three SIGHUPs at once are one.
        for number in dict.fromkeys(numbers):
            try:
                actions[signal.Signals(number)]()
            except KeyError:
                # Some other part of the program handles this one.
                continue
            except Exception:
                log.exception("signal number=%d", number)
