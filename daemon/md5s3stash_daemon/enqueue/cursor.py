"""The cursor file, which saves how much of a list is in the queue; and the reader that resumes the list there.

The cursor holds a digest of everything before it, so it is never used for another list.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from md5s3stash.errors import SettingsError
from md5s3stash_daemon.downloads.url_lines import Line, read_lines

_READ_BYTES = 1024 * 1024
_NOT_TAKEN = re.compile("[\ufffe\uffff]")
_MAX_CURSOR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Cursor:
    """What is sent: lines, bytes and their SHA-256; the URLs, and the lines that are not URLs."""

    lines: int = 0
    offset: int = 0
    sha256: str = hashlib.sha256(b"").hexdigest()
    urls: int = 0
    faults: int = 0


class CursorFile:
    """Replaced atomically: a crash leaves the old cursor or the new one."""

    def __init__(self, path: Path, queue_url: str) -> None:
        self._path = path
        self._queue_url = queue_url

    def read(self) -> Cursor:
        """An empty cursor if there is no file. Raises SettingsError if it is for another queue, or not a cursor."""
        try:
            with open(self._path, "rb") as file:
                found = json.loads(file.read(_MAX_CURSOR_BYTES))
            queue_url = found.pop("queue")
            cursor = Cursor(**found)
            counts = (cursor.lines, cursor.offset, cursor.urls, cursor.faults)
            if not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError
        except FileNotFoundError:
            return Cursor()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise SettingsError(
                f"{self._path} is not a cursor file of md5s3stash-enqueue: remove it to start over"
            ) from None
        if queue_url != self._queue_url:
            raise SettingsError(f"{self._path} belongs to another queue ({queue_url!r}): remove it to start over")
        return cursor

    def write(self, cursor: Cursor) -> None:
        """Raises OSError."""
        new = self._path.with_name(f"{self._path.name}.new")
        with open(new, "w") as file:
            json.dump({**asdict(cursor), "queue": self._queue_url}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)

    def remove(self) -> None:
        """After the whole list is sent."""
        self._path.unlink(missing_ok=True)


class ListReader:
    """The lines of a list after a cursor. Raises SettingsError if the cursor belongs to another list."""

    def __init__(self, file: BinaryIO, start: Cursor) -> None:
        self.start = start
        self._file = file
        self._digest = hashlib.sha256()
        self._offset = 0
        self._urls, self._faults, self._lines = start.urls, start.faults, start.lines
        # Read, not seek: this works for a pipe too, and checks that it is the same list.
        while self._offset < start.offset and (data := file.read(min(_READ_BYTES, start.offset - self._offset))):
            self._advance(data)
        if self._digest.hexdigest() != start.sha256:
            raise SettingsError("the cursor belongs to another list: remove it to start over")

    def lines(self) -> Iterator[Line]:
        for read in read_lines(self, self.start.lines):
            # XML does not allow these characters; one of them makes SQS reject the whole batch.
            line = replace(read, fault="a character that SQS rejects") if _NOT_TAKEN.search(read.url) else read
            self._lines = line.number
            self._urls += not line.fault
            self._faults += bool(line.fault)
            yield line

    def cursor(self) -> Cursor:
        """After the last line read."""
        return Cursor(self._lines, self._offset, self._digest.hexdigest(), self._urls, self._faults)

    def readline(self, size: int, /) -> bytes:
        raw = self._file.readline(size)
        self._advance(raw)
        return raw

    def _advance(self, data: bytes) -> None:
        self._digest.update(data)
        self._offset += len(data)


@contextlib.contextmanager
def locked(file: BinaryIO, name: str) -> Iterator[None]:
    """Locks the list, unless it is a pipe. Raises SettingsError if another process is sending it."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingsError(f"{name} is already being sent by another process") from None
    yield
