"""The listening socket: one that systemd holds and several instances share, or one of our own."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import tornado.netutil

# sd_listen_fds(3): they begin here.
_FIRST_INHERITED = 3


def listening_sockets(environ: MutableMapping[str, str], port: int, address: str) -> list[socket.socket]:
    """What systemd passed to this process, as sd_listen_fds(3) has it; where it passed nothing, sockets bound to the
    port and address. Raises OSError where the port cannot be had."""
    count = _inherited_count(environ)
    # Not for the processes that this one starts.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if not count:
        return tornado.netutil.bind_sockets(port, address=address)
    return [_inherited(descriptor) for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + count)]


def _inherited_count(environ: MutableMapping[str, str]) -> int:
    count = environ.get("LISTEN_FDS", "")
    return int(count) if environ.get("LISTEN_PID") == str(os.getpid()) and count.isdecimal() else 0


def _inherited(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    inherited = socket.socket(fileno=descriptor)
    # Another instance may have been quicker to accept.
    inherited.setblocking(False)
    return inherited
