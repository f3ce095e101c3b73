"""Messages between a process and a sealed one: JSON, bytes, and to the sealed one open files.

Neither side unpickles anything. The side that does not trust the other says how long a message may take and how many
bytes it may have, and takes no descriptor.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct(">II")
_MAX_JSON_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MAX_FILES = 4

Message = dict[str, Any]


class BrokenMessage(OSError):
    """What came is not a message, or too large."""


class Channel:
    """One end of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end.fileno()

    def send(
        self, message: Message, body: bytes = b"", *, files: Sequence[int] = (), seconds: float | None = None
    ) -> None:
        """Raises OSError, as TimeoutError if the other side does not read. The trusted side has no limit of time."""
        self._end.settimeout(seconds)
        text = json.dumps(message).encode()
        parts = [_HEAD.pack(len(text), len(body)) + text, body]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))] if files else []
        sent = self._end.sendmsg(parts, rights)
        for part in parts:
            if sent < len(part):
                self._end.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def receive(self, max_bytes: int, seconds: float) -> tuple[Message, bytes]:
        """A message of the side that is not trusted. Raises EOFError if that has ended, TimeoutError, or OSError."""
        deadline = time.monotonic() + seconds
        text_bytes, body_bytes = _HEAD.unpack(self._bytes(_HEAD.size, deadline))
        if text_bytes > _MAX_JSON_BYTES or body_bytes > max_bytes:
            raise BrokenMessage(f"the message has {text_bytes + body_bytes} bytes, more than are allowed")
        message = _message(self._bytes(text_bytes, deadline))
        return message, self._bytes(body_bytes, deadline)

    def receive_files(self) -> tuple[Message, list[int]]:
        """A message of the side that is trusted, and the descriptors that came with it. Raises EOFError or OSError."""
        head, files, _, _ = socket.recv_fds(self._end, _HEAD.size, _MAX_FILES)
        if not head:
            raise EOFError
        head += self._bytes(_HEAD.size - len(head))
        return _message(self._bytes(_HEAD.unpack(head)[0])), files

    def close(self) -> None:
        self._end.close()

    def _bytes(self, size: int, deadline: float | None = None) -> bytes:
        # Most messages come in one piece, which is not copied.
        chunks = []
        while size:
            if deadline is not None:
                self._end.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._end.recv(min(size, _CHUNK_BYTES))
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
            if size and deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("the message did not end in time")
        return b"".join(chunks)


def _message(text: bytes) -> Message:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenMessage("the message is not JSON") from error
    if not isinstance(message, dict):
        raise BrokenMessage("the message is not an object")
    return message
