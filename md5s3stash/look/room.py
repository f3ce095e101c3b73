"""Has contents looked at in a sealed process (`process`), which is started at the first one and kept.

A content that ends the process, or takes too long, has no known type (LookFailed): it is stashed all the same. The
process is then replaced. A process that cannot be started is an error of this machine: the content is tried again.

The process is a new program, since a fork of this one would have its credentials in memory. It is handed bytes and no
descriptor, which would keep the lease of a dropped file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from md5s3stash.errors import SourceOutOfReach
from md5s3stash.look.process import HEAD, LIFE_SECONDS, PIECE_BYTES
from md5s3stash.media import NO_LIBMAGIC, Kind, LookFailed
from md5s3stash.sealed.process import small_environment, stop_signals_blocked

log = logging.getLogger(__name__)

# `python -P`: not the current directory, where strangers' files may be. Without `site`, which takes half the time.
LOOKER = [sys.executable, "-P", "-S", "-m", "md5s3stash.look.process"]
"""The command of the process. The descriptor of its channel follows."""

# A look takes milliseconds. It may wait for a CPU, so its own CPU time decides.
CPU_SECONDS = 1.0
_WAIT_SECONDS = 60.0
_START_SECONDS = 60.0
_STOP_SECONDS = 2.0
# So often a wait for the process looks how long it has been.
_SLICE_SECONDS = 0.25
# A program that asks for bytes for ever takes our time more than its own.
_MOST_REQUESTS = 10_000

# The second one at a limit of CPU time, which is above that of a look.
_KILLED = (-signal.SIGKILL, -signal.SIGXCPU)
_ANSWER_BYTES = 500
# libmagic has types with a parameter: application/grib;edition=2.
_MIME_TYPE = re.compile(r"[a-z][a-z-]{0,30}/[A-Za-z0-9][\w.+-]{0,120}(;[a-z]{1,30}=[\w.+-]{1,30})?", re.ASCII)
# Of BigTIFF.
_MOST_PIXELS_A_SIDE = 2**64


class _Ended(LookFailed):
    def __init__(self, reason: str, is_killed: bool = False) -> None:
        super().__init__(reason)
        self.is_killed = is_killed


class _TooSlow(_Ended):
    pass


class LookRoom:
    """A `Look` for the threads of one process, one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looker: _Looker | None = None

    def __call__(self, reader: BinaryIO) -> Kind:
        """What the content is. Raises LookFailed, SourceOutOfReach, and OSError of the reader."""
        with self._lock:
            try:
                return self._looked(reader)
            except _TooSlow:
                # As a rule Pillow takes the time. A picture without a size is still a picture.
                return self._looked(reader, only_type=True)

    def close(self) -> None:
        """Ends the process. The next look starts another."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        self._end()

    def _looked(self, reader: BinaryIO, *, only_type: bool = False, is_again: bool = False) -> Kind:
        looker = self._started()
        try:
            return looker.look(reader, only_type)
        except _Ended as ended:
            self._end()
            # From outside: by the kernel, which needed memory or has a limit of CPU time, or by an operator.
            if not ended.is_killed:
                raise
            if is_again:
                raise SourceOutOfReach(f"the process that finds MIME types was killed twice: {ended}") from ended
            return self._looked(reader, only_type=only_type, is_again=True)
        except (OSError, SourceOutOfReach):
            # The process still waits for bytes, or for a CPU.
            self._end()
            raise

    def _started(self) -> _Looker:
        if self._looker is not None and not self._looker.is_usable():
            self._end()
        if self._looker is None:
            try:
                self._looker = _Looker()
            except OSError as error:
                raise SourceOutOfReach(f"cannot start the process that finds MIME types: {error}") from error
        return self._looker

    def _end(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.end()


class _Looker:
    """The process, and our end of its channel."""

    def __init__(self) -> None:
        """Raises OSError if it does not start."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._channel, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE_BYTES)
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._channel.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", 0, round(1e6 * _SLICE_SECONDS)))
        path = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
        with theirs, stop_signals_blocked():
            # Only the process may hold its end, or we would never see it close.
            try:
                self._process = subprocess.Popen(
                    [*LOOKER, str(theirs.fileno())],
                    env={**small_environment(), "PYTHONPATH": os.pathsep.join(path)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                self._channel.close()
                raise
        self._left_seconds, self._most_cpu_seconds = _START_SECONDS, _START_SECONDS
        try:
            ready = self._receive()
        except (_Ended, SourceOutOfReach) as ended:
            self.end()
            raise OSError(str(ended)) from ended
        if not ready.get("has_libmagic"):
            log.warning(NO_LIBMAGIC)

    def is_usable(self) -> bool:
        """Whether it lives, and has not computed for so long that it is to be replaced."""
        return self._process.poll() is None and self._cpu_seconds() < LIFE_SECONDS

    def look(self, reader: BinaryIO, only_type: bool) -> Kind:
        """What the process says. Raises _Ended, and OSError of the reader."""
        size_bytes = reader.seek(0, os.SEEK_END)
        reader.seek(0)
        self._left_seconds = _WAIT_SECONDS
        self._most_cpu_seconds = self._cpu_seconds() + CPU_SECONDS
        self._send(HEAD.pack(size_bytes, only_type), reader.read(PIECE_BYTES))
        for _ in range(_MOST_REQUESTS):
            answer = self._receive()
            try:
                if "type" in answer:
                    return _kind(answer)
                self._check_cpu()
                offset, count = _number(answer["from"], size_bytes), _number(answer["bytes"], PIECE_BYTES)
            except (KeyError, TypeError, ValueError) as error:
                raise _Ended("the process said what it may not say") from error
            reader.seek(offset)
            self._send(reader.read(count))
        raise _Ended(f"the process asked for bytes more than {_MOST_REQUESTS} times")

    def end(self) -> None:
        """Kills it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _send(self, *parts: bytes) -> None:
        try:
            # It waits for this, so there is room.
            self._channel.sendmsg(parts)
        except BlockingIOError as error:
            raise _Ended("the process does not read what it asked for") from error
        except ConnectionError as error:
            raise self._has_ended() from error

    def _receive(self) -> dict[str, Any]:
        while True:
            begun = time.monotonic()
            try:
                packet = self._channel.recv(_ANSWER_BYTES)
            except ConnectionError as error:
                raise self._has_ended() from error
            except BlockingIOError:
                self._check_cpu()
                packet = None
            self._left_seconds -= time.monotonic() - begun
            if self._left_seconds < 0:
                # Not by the content: it would have used up its CPU time long before.
                raise SourceOutOfReach("the process that finds MIME types did not answer in time: it had no CPU")
            if packet == b"":
                raise self._has_ended()
            if packet:
                return _message(packet)

    def _check_cpu(self) -> None:
        if self._cpu_seconds() > self._most_cpu_seconds:
            raise _TooSlow(f"it took more than {CPU_SECONDS:g} seconds of CPU time")

    def _has_ended(self) -> _Ended:
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return _Ended("the process closed its channel")
        return _Ended(f"the process ended with status {status}", is_killed=status in _KILLED)

    def _cpu_seconds(self) -> float:
        # clock_getcpuclockid(3), which Python lacks.
        return time.clock_gettime(~self._process.pid << 3 | 2)


def _message(packet: bytes) -> dict[str, Any]:
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise _Ended("the process said what it may not say")
    return message


def _kind(answer: dict[str, Any]) -> Kind:
    mime_type, (width, height) = answer["type"], answer["size"]
    if not isinstance(mime_type, str) or not _MIME_TYPE.fullmatch(mime_type):
        raise ValueError("not a MIME type")
    return mime_type, (_number(width, _MOST_PIXELS_A_SIDE), _number(height, _MOST_PIXELS_A_SIDE))


def _number(value: object, most: int) -> int:
    # True is an int too.
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number in its bounds")
    return value
