"""How far a list has come into the queue, kept in a file; and the list, read on from there.

The cursor holds a digest of all that is behind it, so that it is never taken for another list's.
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
    """Behind it: lines, bytes and their SHA-256; the URLs that were sent, and the lines that are none."""

    lines: int = 0
    offset: int = 0
    sha256: str = hashlib.sha256(b"").hexdigest()
    urls: int = 0
    faults: int = 0


class CursorFile:
    """Replaced as a whole, so that a crash leaves the old one or the new one."""

    def __init__(self, path: Path, queue_url: str) -> None:
        self._path = path
        self._queue_url = queue_url

    def read(self) -> Cursor:
        """The beginning where there is none. Raises SettingsError where it is not for this queue, or is none."""
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
            raise SettingsError(f"{self._path} is no cursor of ours: remove it to begin anew") from None
        if queue_url != self._queue_url:
            raise SettingsError(f"{self._path} is of another queue ({queue_url!r}): remove it to begin anew")
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
        """All is sent."""
        self._path.unlink(missing_ok=True)


class ListReader:
    """The lines of a list behind a cursor. Raises SettingsError where what is before the cursor is another list."""

    def __init__(self, file: BinaryIO, start: Cursor) -> None:
        self.start = start
        self._file = file
        self._digest = hashlib.sha256()
        self._offset = 0
        self._urls, self._faults, self._lines = start.urls, start.faults, start.lines
        # Read and not sought: so a pipe can go on too, and it is seen whether it is the same list.
        while self._offset < start.offset and (data := file.read(min(_READ_BYTES, start.offset - self._offset))):
            self._took(data)
        if self._digest.hexdigest() != start.sha256:
            raise SettingsError("the cursor is of another list: remove it to begin anew")

    def lines(self) -> Iterator[Line]:
        for read in read_lines(self, self.start.lines):
            # XML knows no such characters, and with one of them SQS takes none of the batch.
            line = replace(read, fault="a character that SQS does not take") if _NOT_TAKEN.search(read.url) else read
            self._lines = line.number
            self._urls += not line.fault
            self._faults += bool(line.fault)
            yield line

    def cursor(self) -> Cursor:
        """Behind the line that was read last."""
        return Cursor(self._lines, self._offset, self._digest.hexdigest(), self._urls, self._faults)

    def readline(self, size: int, /) -> bytes:
        raw = self._file.readline(size)
        self._took(raw)
        return raw

    def _took(self, data: bytes) -> None:
        self._digest.update(data)
        self._offset += len(data)


@contextlib.contextmanager
def locked(file: BinaryIO, name: str) -> Iterator[None]:
    """So that nobody else sends the same list meanwhile. Raises SettingsError where somebody does."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingsError(f"{name} is being sent already") from None
    yield
