"""Notifies systemd as in sd_notify(3): a datagram of NAME=value lines to the socket that systemd names.

No dependency: the packages for this either bind libsystemd or do just the same.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

# systemd may be busy with a reload of its own. A late ping is better than a thread that waits for ever.
_SEND_SECONDS = 1.0


class Notifier:
    """Sends to the socket, if a supervisor gave one. Never raises: no caller could handle it."""

    def __init__(self, address: str | None) -> None:
        # A leading @ stands for the zero byte of an abstract name, see unix(7).
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Call `ready` afterwards. systemd orders the two by the time in this message."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, line: str) -> None:
        self._send(f"STATUS={' '.join(line.split())}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_SEND_SECONDS)
                channel.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            log.warning("cannot notify the supervisor message=%r error=%r", lines[0].partition("=")[0], str(error))


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """The watchdog interval of this process (sd_watchdog_enabled(3)); None if systemd does not watch it."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1_000_000
