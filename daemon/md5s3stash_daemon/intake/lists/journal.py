"""The progress of a list: a crash-safe, append-only journal of outcomes, with one record per line of the list.

The journal is in the spool under progress/, named after the drop, and each group of records is synced before anything
relies on it. Lines finish in any order, so a record carries its line number. A record that a crash truncated is
ignored, and its line is repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, BinaryIO

from md5s3stash_daemon.disk.durable import sync_path
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, HOLD, PROGRESS, Entry
from md5s3stash_daemon.spool.spool import Spool

JOURNAL_SUFFIX = ".journal"

# The last lines of the journal, which the ledger may not have forgotten yet.
LAST_LINES = 1024

# A list has fewer lines than bytes. Limits the index of a journal, which has a slot per line.
_MAX_LINE = 1 << 40

# The key for the list itself, beside those of its results.
_LIST = "list"

_OFFSET = struct.Struct("<Q")
_INDEX_PIECE = 512 * _OFFSET.size


@dataclass(frozen=True, slots=True)
class LineOutcome:
    """The outcome of a line; `error` and `reason` are set if it failed."""

    line: int
    url: str
    md5: str = ""
    s3_url: str = ""
    mime_type: str = ""
    error: str = ""
    reason: str = ""


_FIELDS = fields(LineOutcome)


class LineStates:
    """One byte per line: its number of failed attempts, or DONE."""

    DONE = 255

    # Bytes per piece. Pieces of the list with only blank lines are not allocated.
    _PIECE = 4096

    def __init__(self) -> None:
        self._pieces: dict[int, bytearray] = {}

    def __getitem__(self, line: int) -> int:
        piece = self._pieces.get(line // self._PIECE)
        return piece[line % self._PIECE] if piece is not None else 0

    def __setitem__(self, line: int, state: int) -> None:
        number = line // self._PIECE
        if number not in self._pieces:
            self._pieces[number] = bytearray(self._PIECE)
        self._pieces[number][line % self._PIECE] = state


class Journal:
    """The records of one list. As of the opening, `states` marks the lines with a record, `count` is their number, and
    `last_lines` are the latest.
    """

    def __init__(self, path: str, beat: Callable[[], object] = lambda: None) -> None:
        """Opens or creates the journal. Raises OSError. `beat` is called for each record read: reading a long journal
        counts as progress.
        """
        self.path = path
        self._beat = beat
        self.states = LineStates()
        self.last_lines: deque[int] = deque(maxlen=LAST_LINES)
        self.published: dict[str, str] = {}
        self.count = 0
        self._max_line = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._end = 0
        for record, end in self._records():
            self._end = end
            self._learn(record)
            if isinstance(record, list):
                self.states[record[0]] = LineStates.DONE
                self.last_lines.append(record[0])
                self.count += 1
        # Remove a truncated record, or the next one would be appended to it.
        os.ftruncate(self._descriptor, self._end)
        # Each append syncs the records, but not the new file's name.
        sync_path(os.path.dirname(path))

    def append(self, outcomes: Sequence[LineOutcome]) -> None:
        """Adds records and syncs them. Raises OSError, and has then added none."""
        self._write([list(astuple(outcome)) for outcome in outcomes])

    def note_published(self, kind: str, path: str) -> None:
        """Notes that the list's result of this kind will be published at the path."""
        self._write([{kind: path}])

    def is_of(self, status: os.stat_result) -> bool:
        """Whether the outcomes belong to this version of the list. A new journal is bound to it from now on."""
        wanted = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        noted = self.published.get(_LIST)
        if noted is None:
            self.note_published(_LIST, wanted)
        return noted in (None, wanted)

    def in_order(self) -> Iterator[LineOutcome]:
        """All outcomes in order of line numbers. The index of their offsets is a file, to save memory."""
        size_bytes = _OFFSET.size * (self._max_line + 1)
        with tempfile.TemporaryFile(dir=os.path.dirname(self.path)) as file:
            file.truncate(size_bytes)
            with mmap.mmap(file.fileno(), size_bytes) as index, open(self.path, "rb") as records:
                start = 0
                for record, end in self._records():
                    if isinstance(record, list):
                        # The offset plus one: zero means that the line has no record.
                        _OFFSET.pack_into(index, _OFFSET.size * record[0], start + 1)
                    start = end
                for start in range(0, size_bytes, _INDEX_PIECE):
                    self._beat()
                    piece = index[start : start + _INDEX_PIECE]
                    if piece.count(0) == len(piece):
                        # Skip blank lines quickly: there may be a billion.
                        continue
                    for (place,) in _OFFSET.iter_unpack(piece):
                        if place:
                            self._beat()
                            yield _outcome_at(records, place - 1)

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """Removes the journal of a finished list."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _records(self) -> Iterator[tuple[Any, int]]:
        """Each complete record, and its end offset. Stops at the first incomplete one: later lines are repeated."""
        end = 0
        with open(self.path, "rb") as file:
            for raw in file:
                self._beat()
                end += len(raw)
                record = _parsed(raw)
                if record is None:
                    return
                yield record, end

    def _learn(self, record: Any) -> None:
        if isinstance(record, dict):
            self.published |= record
        else:
            self._max_line = max(self._max_line, record[0])

    def _write(self, records: Sequence[Any]) -> None:
        data = "".join(json.dumps(record) + "\n" for record in records).encode("ascii")
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)
        for record in records:
            self._learn(record)


def _parsed(raw: bytes) -> list[Any] | dict[str, str] | None:
    """A valid record; None if it is truncated, or not from this program."""
    try:
        record = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict):
        return record if all(isinstance(path, str) for path in record.values()) else None
    if not isinstance(record, list) or len(record) != len(_FIELDS):
        return None
    line, *texts = record
    # `type`, not isinstance: a bool is an int too.
    well = type(line) is int and 0 < line <= _MAX_LINE and all(isinstance(text, str) for text in texts)
    return record if well else None


def _outcome_at(records: BinaryIO, place: int) -> LineOutcome:
    if records.tell() != place:
        records.seek(place)
    return LineOutcome(*json.loads(records.readline()))


def journal_path(spool: Spool, entry: Entry) -> str:
    """The path of a drop's journal. Its name begins with the batch, which shows if the drop is still in the spool."""
    name = hashlib.sha256(os.fsencode(entry.name)).hexdigest()[:32]
    return os.path.join(spool.path_of(PROGRESS), f"{entry.batch}.{name}{JOURNAL_SUFFIX}")


def remove_orphans(spool: Spool) -> None:
    """Removes files in progress/ of batches that are no longer in the spool: the daemon died just before it removed
    them, or the list was taken away.
    """
    for name in os.listdir(spool.path_of(PROGRESS)):
        if not _has_files(spool, name.partition(".")[0]):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(spool.path_of(PROGRESS), name))


def _has_files(spool: Spool, batch: str) -> bool:
    """Whether the batch has a box that is not empty: a crash may leave empty ones."""
    for state in (ACTIVE, DEFERRED, HOLD):
        root = spool.path_of(state)
        boxes = [os.path.join(root, box) for box in os.listdir(root) if box.partition(".")[0] == batch]
        if any(names for box in boxes for _, _, names in os.walk(box)):
            return True
    return False
