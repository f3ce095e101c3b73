"""The socket that systemd holds, shared by several servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from md5s3stash_thumbnailer.listening import listening_sockets

# As systemd does it: the descriptor is 3, and the variables name this process. Says what it got.
_SERVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
environ = {"LISTEN_PID": sys.argv[2] or str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
from md5s3stash_thumbnailer.listening import listening_sockets
(got,) = listening_sockets(environ, 0, "127.0.0.1")
print(got.getsockname()[1], got.getblocking(), os.get_inheritable(got.fileno()), sorted(environ))
"""


def told(listener: socket.socket, pid: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _SERVER, str(listener.fileno()), pid],
        pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split(maxsplit=3)


def test_a_socket_from_systemd_is_taken_and_kept_from_the_workers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        assert told(listener) == [str(port), "False", "False", "[]\n"]


def test_a_socket_that_was_meant_for_another_process_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert told(listener, pid="1")[0] != str(listener.getsockname()[1])


def test_without_systemd_the_port_is_bound() -> None:
    for bound in listening_sockets({}, 0, "127.0.0.1"):
        with bound:
            assert bound.getsockname()[1] != 0
