"""The supervisor's end of sd_notify: a real datagram socket that keeps all messages."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

Message = dict[str, str]


class NotifySocket:
    """The received messages, one dictionary per datagram."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._messages: list[Message] = []
        self._is_closed = False
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._receive_all, name="notify socket")
        self._thread.start()

    @property
    def messages(self) -> list[Message]:
        """All that was sent up to now, in order: also what still lay in the socket."""
        self._receive_waiting()
        return list(self._messages)

    def received(self, key: str) -> list[str]:
        """The values of one key, in order."""
        return [message[key] for message in self.messages if key in message]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _receive_all(self) -> None:
        """Keeps the socket empty: a sender must never wait for a test."""
        while not self._is_closed:
            select.select([self._socket], [], [])
            self._receive_waiting()

    def _receive_waiting(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(65536, socket.MSG_DONTWAIT):
                self._messages.append(dict(line.split("=", 1) for line in data.decode().split("\n")))
            self._is_closed = True


@contextlib.contextmanager
def notify_socket(address: str) -> Iterator[NotifySocket]:
    """Listens on a path, or on an abstract address that begins with @."""
    listener = NotifySocket(address)
    try:
        yield listener
    finally:
        listener.close()
