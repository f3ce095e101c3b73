"""The supervisor's end of sd_notify: a real datagram socket that keeps all messages."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

Message = dict[str, str]


class NotifySocket:
    """The received messages, one dictionary per datagram."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._receive, name="notify socket")
        self._thread.start()

    def received(self, key: str) -> list[str]:
        """The values of one key, in order."""
        return [message[key] for message in list(self.messages) if key in message]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while data := self._socket.recv(65536):
            self.messages.append(dict(line.split("=", 1) for line in data.decode().split("\n")))


@contextlib.contextmanager
def notify_socket(address: str) -> Iterator[NotifySocket]:
    """Listens on a path, or on an abstract address that begins with @."""
    listener = NotifySocket(address)
    try:
        yield listener
    finally:
        listener.close()
