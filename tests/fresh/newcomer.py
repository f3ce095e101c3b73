"""Acts as a new user after cloning the project: runs `make run`, drops a file, fetches its thumbnail, presses Ctrl-C.

tools/fresh runs it in the clone, on a machine whose Python has no packages. Ends with 0 on success.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import sys
import time
import urllib.request

INSTALL_SECONDS = 900.0
ANSWER_SECONDS = 60.0
CTRL_C = b"\x03"
# The machine shares its network with the host, where the default ports may be in use.
PORTS = ("THUMBNAILER_PORT", "S3_PORT", "REDIS_PORT", "METRICS_PORT")
JPEG = b"\xff\xd8\xff"


class Terminal:
    """A command on its own terminal; its output is printed here too."""

    def __init__(self, *command: str) -> None:
        self._said = ""
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            # A shell starts background commands with it ignored.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvp(command[0], command)

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first match in the output since the last match. Raises AssertionError at the deadline or the command's
        end.
        """
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._said, re.MULTILINE)):
            assert time.monotonic() < deadline, f"not printed within {seconds:g} seconds: {pattern}"
            assert self._read(deadline), f"it ended without printing: {pattern}"
        self._said = self._said[found.end() :]
        return found

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def wait_for_the_end(self, seconds: float) -> None:
        """Raises AssertionError if it still runs at the deadline."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            assert time.monotonic() < deadline, f"it still runs after {seconds:g} seconds"
        os.waitpid(self._process, 0)

    def _read(self, deadline: float) -> bool:
        """Reads output until the deadline; False if the terminal was closed."""
        if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return True
        try:
            read = os.read(self._terminal, 65536).decode(errors="replace")
        except OSError:
            return False
        print(read, end="", flush=True)
        self._said += read
        return bool(read)


def main() -> None:
    os.environ["NO_COLOR"] = "1"
    os.environ |= {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    appliance = Terminal("make", "run")
    incoming = appliance.wait_for(r"^Drop files here +(\S+)", INSTALL_SECONDS)[1]
    # Not shutil.copy, which sets the mode after it closes the file: the daemon may already have taken it.
    shutil.copyfile("docs/pictures/crop.jpg", f"{incoming}/evening.jpg")
    thumbnail = appliance.wait_for(r"^stashed +evening\.jpg .*(http://\S+)", ANSWER_SECONDS)[1]
    with urllib.request.urlopen(thumbnail, timeout=ANSWER_SECONDS) as answer:
        assert answer.read().startswith(JPEG), f"not a JPEG: {thumbnail}"
    appliance.type(CTRL_C)
    appliance.wait_for("^Stopped: ", ANSWER_SECONDS)
    appliance.wait_for_the_end(ANSWER_SECONDS)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"make run: {error}")
