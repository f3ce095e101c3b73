"""How far a list has come: an append-only journal of outcomes, one record a line of the list, which outlives a crash.

The journal stands in the spool under progress/, named after the drop, and each group of records is on the disk before
anything relies on it. Lines finish in any order, so a record carries its line number. A record that a crash has torn is
as if it had never been: its line is done again.
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

# Line numbers of which the ledger may still have to be told that they are done with: those of the last groups.
LAST_LINES = 1024

# A list has fewer lines than bytes, and the index of a journal as many places.
_MAX_LINE = 1 << 40

# Under which the list itself is noted, beside its results.
_LIST = "list"

_OFFSET = struct.Struct("<Q")
_INDEX_PIECE = 512 * _OFFSET.size


@dataclass(frozen=True, slots=True)
class LineOutcome:
    """What became of a line; `error` and `reason` are set where it failed."""

    line: int
    url: str
    md5: str = ""
    s3_url: str = ""
    mime_type: str = ""
    error: str = ""
    reason: str = ""


_FIELDS = fields(LineOutcome)


class LineStates:
    """One byte for each line: how often it was tried in vain, or that it has its outcome."""

    DONE = 255

    # Bytes of a piece. Where a list has nothing but blank lines there are none.
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
    """The records of one list. `states` marks the lines that had one when it was opened, `count` says how many these
    were, `last_lines` which came last.
    """

    def __init__(self, path: str, beat: Callable[[], object] = lambda: None) -> None:
        """Opens the journal, or begins it. Raises OSError. `beat` is called for each record that is read: a long
        journal is no standstill.
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
        # A torn record is cut off, or the next one would be glued to it.
        os.ftruncate(self._descriptor, self._end)
        # The records are synced as they come; so must their name be.
        sync_path(os.path.dirname(path))

    def append(self, outcomes: Sequence[LineOutcome]) -> None:
        """Adds records; they are on the disk when it returns. Raises OSError, and has then added none."""
        self._write([list(astuple(outcome)) for outcome in outcomes])

    def note_published(self, kind: str, path: str) -> None:
        """The list's result of this kind is about to appear under the path."""
        self._write([{kind: path}])

    def is_of(self, status: os.stat_result) -> bool:
        """Whether the outcomes are of this very list, as it is. One that has none yet is from now on."""
        wanted = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        noted = self.published.get(_LIST)
        if noted is None:
            self.note_published(_LIST, wanted)
        return noted in (None, wanted)

    def in_order(self) -> Iterator[LineOutcome]:
        """All outcomes by line number. Their places are noted in a file, not in memory."""
        size_bytes = _OFFSET.size * (self._max_line + 1)
        with tempfile.TemporaryFile(dir=os.path.dirname(self.path)) as file:
            file.truncate(size_bytes)
            with mmap.mmap(file.fileno(), size_bytes) as index, open(self.path, "rb") as records:
                start = 0
                for record, end in self._records():
                    if isinstance(record, list):
                        # One more than the offset: zero says that a line has none.
                        _OFFSET.pack_into(index, _OFFSET.size * record[0], start + 1)
                    start = end
                for start in range(0, size_bytes, _INDEX_PIECE):
                    self._beat()
                    piece = index[start : start + _INDEX_PIECE]
                    if piece.count(0) == len(piece):
                        # Blank lines, of which there may be a thousand million.
                        continue
                    for (place,) in _OFFSET.iter_unpack(piece):
                        if place:
                            self._beat()
                            yield _outcome_at(records, place - 1)

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """The end of the journal of a list that is done with."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _records(self) -> Iterator[tuple[Any, int]]:
        """Each whole record, and where it ends. The first that is not whole ends them: what follows is done again."""
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
    """A whole record of ours; None where it is torn, or somebody else's."""
    try:
        record = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict):
        return record if all(isinstance(path, str) for path in record.values()) else None
    if not isinstance(record, list) or len(record) != len(_FIELDS):
        return None
    line, *texts = record
    # Not a bool, which is an int too.
    well = type(line) is int and 0 < line <= _MAX_LINE and all(isinstance(text, str) for text in texts)
    return record if well else None


def _outcome_at(records: BinaryIO, place: int) -> LineOutcome:
    if records.tell() != place:
        records.seek(place)
    return LineOutcome(*json.loads(records.readline()))


def journal_path(spool: Spool, entry: Entry) -> str:
    """Where the journal of a drop is. It begins with the batch, which says whether the drop is still in the spool."""
    name = hashlib.sha256(os.fsencode(entry.name)).hexdigest()[:32]
    return os.path.join(spool.path_of(PROGRESS), f"{entry.batch}.{name}{JOURNAL_SUFFIX}")


def remove_orphans(spool: Spool) -> None:
    """Removes what is in progress/ of batches that the spool no longer has: the daemon died just before it would have
    done so, or somebody took the list away.
    """
    for name in os.listdir(spool.path_of(PROGRESS)):
        if not _has_files(spool, name.partition(".")[0]):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(spool.path_of(PROGRESS), name))


def _has_files(spool: Spool, batch: str) -> bool:
    """Whether a box of the batch is there and not empty: a crash may leave empty ones."""
    for state in (ACTIVE, DEFERRED, HOLD):
        root = spool.path_of(state)
        boxes = [os.path.join(root, box) for box in os.listdir(root) if box.partition(".")[0] == batch]
        if any(names for box in boxes for _, _, names in os.walk(box)):
            return True
    return False
