"""Opens folders and files in the spool to the daemon's user: a program of its own, for it takes CAP_FOWNER.

systemd starts it when the daemon asks, over a socket of Unix, and it ends when nobody has asked for a while. A request
is one packet: "r" for a file or "w" for a folder, then the bytes of its name below the spool. The answer is "y" or "n".
It only ever opens to its own user, which is the daemon's, and only what is below the states whose files have modes of
others' choice (`beneath`).

It imports no more than that takes, to be small and to start fast.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from md5s3stash_daemon.disk.access import READ, READ_WRITE_SEARCH, open_up
from md5s3stash_daemon.disk.beneath import Place, is_name

# Then systemd listens again, and starts the next one.
IDLE_SECONDS = 60.0
# A client that does not go on must not hold up the next.
REQUEST_SECONDS = 1.0
# More than any path that the spool takes (PATH_MAX).
MAX_REQUEST_BYTES = 4200

_STATES = ("incoming", "active", "deferred")
_PERMISSIONS = {b"r": READ, b"w": READ_WRITE_SEARCH}
_LISTENING = 3  # SD_LISTEN_FDS_START
_CREDENTIALS = struct.Struct("iII")


def main(arguments: list[str]) -> int:
    """The exit status."""
    if len(arguments) != 1 or os.environ.get("LISTEN_FDS") != "1":
        print("usage: md5s3stash_daemon.disk.access_helper SPOOL, started by its socket unit", file=sys.stderr)
        return 2
    with socket.socket(fileno=_LISTENING) as listening:
        serve(listening, arguments[0])
    return 0


def serve(listening: socket.socket, spool: str, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answers until nobody has asked for so long."""
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
    """Whether what was asked for is open now."""
    permissions = _PERMISSIONS.get(request[:1])
    state, _, name = os.fsdecode(request[1:]).partition("/")
    if permissions is None or len(request) == MAX_REQUEST_BYTES or state not in _STATES or not is_name(name):
        return False
    return open_up(Place(f"{spool}/{state}", name), permissions)


def ask(path: str, name: str, permissions: int, seconds: float) -> bool:
    """The daemon's side. Raises OSError where there is no answer."""
    request = (b"r" if permissions == READ else b"w") + os.fsencode(name)
    if len(request) >= MAX_REQUEST_BYTES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.send(request)
        told = connection.recv(1)
    if not told:
        raise ConnectionResetError("the helper has closed the connection")
    return told == b"y"


def _is_ours(connection: socket.socket) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user == os.geteuid()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
