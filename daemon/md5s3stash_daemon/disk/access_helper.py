"""Gives the daemon's user access to folders and files in the spool: a separate program, because it needs CAP_FOWNER.

systemd starts it on a request of the daemon over a Unix socket; it ends after a minute without requests. A request is
one packet: "r" for a file or "w" for a folder, then the bytes of its name below the spool. The answer is "y" or "n".
It gives access only to its own user, which is the daemon's, and only below the states whose files keep the modes that
producers chose (`beneath`).

It imports only what it needs, to be small and to start fast.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from md5s3stash_daemon.disk.access import READ, READ_WRITE_SEARCH, open_up
from md5s3stash_daemon.disk.beneath import Place, is_name

# Then it ends, and systemd listens again.
IDLE_SECONDS = 60.0
# A client that hangs must not block the next one.
REQUEST_SECONDS = 1.0
# Longer than any path in the spool (PATH_MAX).
MAX_REQUEST_BYTES = 4200

_STATES = ("incoming", "active", "deferred")
_PERMISSIONS = {b"r": READ, b"w": READ_WRITE_SEARCH}
_LISTENING = 3  # SD_LISTEN_FDS_START
_CREDENTIALS = struct.Struct("iII")


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if len(arguments) != 1 or os.environ.get("LISTEN_FDS") != "1":
        print("usage: md5s3stash_daemon.disk.access_helper SPOOL, started by its socket unit", file=sys.stderr)
        return 2
    with socket.socket(fileno=_LISTENING) as listening:
        serve(listening, arguments[0])
    return 0


def serve(listening: socket.socket, spool: str, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answers requests until none has come for `idle_seconds`."""
    listening.settimeout(idle_seconds)
    while True:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            return
        with connection:
            connection.settimeout(REQUEST_SECONDS)
            try:
                if _is_ours(connection):
                    connection.send(b"y" if answer(connection.recv(MAX_REQUEST_BYTES), spool) else b"n")
            except OSError as error:
                print(f"request failed error={str(error)!r}", file=sys.stderr)


def answer(request: bytes, spool: str) -> bool:
    """Whether the daemon has the requested access now."""
    permissions = _PERMISSIONS.get(request[:1])
    state, _, name = os.fsdecode(request[1:]).partition("/")
    if permissions is None or len(request) == MAX_REQUEST_BYTES or state not in _STATES or not is_name(name):
        return False
    return open_up(Place(f"{spool}/{state}", name), permissions)


def ask(path: str, name: str, permissions: int, seconds: float) -> bool:
    """The daemon's side of a request. Raises OSError if there is no answer."""
    request = (b"r" if permissions == READ else b"w") + os.fsencode(name)
    if len(request) >= MAX_REQUEST_BYTES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.send(request)
        reply = connection.recv(1)
    if not reply:
        raise ConnectionResetError("the access helper closed the connection")
    return reply == b"y"


def _is_ours(connection: socket.socket) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user == os.geteuid()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
