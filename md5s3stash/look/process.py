"""A sealed process that looks at contents, one after the other, until its channel closes: see `room`.

A message is one packet. It gets the number of bytes of a content, whether only the type is asked for, and the first of
the bytes. It may ask for others, as JSON `{"from": offset, "bytes": count}`. Its answer is
`{"type": MIME type, "size": [width, height]}`.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import resource
import socket
import struct
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from md5s3stash.sealed.process import seal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEAD = struct.Struct(">Q?")
# A packet may have as many by the defaults of the kernel. Most contents that are not pictures are smaller.
PIECE_BYTES = 96 * 1024
# After that much CPU time the process is replaced. It ends by itself if the program cannot do that.
LIFE_SECONDS, MOST_SECONDS = 60, 65

# Enough for a header whose fields are in several places.
_BUFFER_BYTES = 16 * 1024
# Beside what it has at the start. All that reads a header is content with a tenth.
_MEMORY_BYTES = 256 * 1024 * 1024
# If the box runs out of memory, the kernel should end this process first.
_OOM_SCORE = 1000
_STANDARD = (0, 1, 2)


def main() -> None:
    """Serves the channel whose descriptor is the first argument."""
    descriptor = int(sys.argv[1])
    channel = socket.socket(fileno=descriptor)
    # Here: the program imports this module too, and not Pillow.
    from md5s3stash.look.here import has_libmagic, look, prepare

    logging.disable()
    warnings.simplefilter("ignore")
    prepare()
    # What is imported stays: no collection has to go through it.
    gc.freeze()
    try:
        _bound_process()
        seal({*_STANDARD, descriptor})
    except OSError as error:
        sys.exit(f"cannot seal the process that finds MIME types: {error}")
    # What it says from here on, strangers may have written.
    os.dup2(0, 2)
    # The other end closes when the program stops or dies.
    with suppress(ConnectionError):
        channel.send(json.dumps({"has_libmagic": has_libmagic()}).encode())
        while packet := channel.recv(HEAD.size + PIECE_BYTES):
            size_bytes, only_type = HEAD.unpack_from(packet)
            content = opened(channel, size_bytes, packet[HEAD.size :])
            mime_type, (width, height) = look(content, only_type=only_type)
            channel.send(json.dumps({"type": mime_type, "size": [int(width), int(height)]}).encode())


def opened(channel: socket.socket, size_bytes: int, head: bytes) -> BinaryIO:
    """The content of which these are the first bytes."""
    if size_bytes <= len(head):
        return io.BytesIO(head)
    return io.BufferedReader(_Distant(channel, size_bytes, head), _BUFFER_BYTES)


class _Distant(io.RawIOBase):
    """A content that the program has."""

    def __init__(self, channel: socket.socket, size_bytes: int, head: bytes) -> None:
        self._channel = channel
        self._size_bytes = size_bytes
        self._head = head
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError("negative position")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._piece(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        # Not by small buffers: Pillow reads some formats as a whole.
        return b"".join(iter(self._next_piece, b""))

    def _next_piece(self) -> bytes:
        return self._piece(PIECE_BYTES)

    def _piece(self, most_bytes: int) -> bytes:
        count = min(most_bytes, PIECE_BYTES, self._size_bytes - self._position)
        piece = self._head[self._position : self._position + max(0, count)]
        if count > 0 and not piece:
            self._channel.send(json.dumps({"from": self._position, "bytes": count}).encode())
            piece = self._channel.recv(count)
        self._position += len(piece)
        return piece


def _bound_process() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    # Only address space can be limited, and libraries have reserved much more of it than they use.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _bound(resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY_BYTES)
    _bound(resource.RLIMIT_CPU, MOST_SECONDS)
    # It has no file to write to.
    _bound(resource.RLIMIT_FSIZE, 0)


def _bound(limit: int, most: int) -> None:
    # A hard limit cannot be raised.
    _, hard = resource.getrlimit(limit)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (bound, bound))


if __name__ == "__main__":
    main()
