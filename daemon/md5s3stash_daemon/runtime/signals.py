"""Signals, handled in a thread.

A Python signal handler runs in the main thread between any two of its instructions, perhaps while that holds a lock:
then setting an Event in the handler could block for ever. And a stuck main thread would never handle the signal.
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
    """In this context, calls the action of each signal, one after the other. Main thread only."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    earlier_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # Python writes the signal's number to the descriptor at once; its handler has nothing left to do.
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
        # Three SIGHUPs at once count as one.
        for number in dict.fromkeys(numbers):
            try:
                actions[signal.Signals(number)]()
            except KeyError:
                # Another part of the program handles this one.
                continue
            except Exception:
                log.exception("signal number=%d", number)
