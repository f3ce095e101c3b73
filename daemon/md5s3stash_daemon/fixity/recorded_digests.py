"""The recorded digests, for comparison with the LIST of a bucket; needs little memory however many there are.

A LIST is in order of keys, but Redis returns its fields in no order. So the digests are first sorted into 256 files by
their first byte, which also selects the shard: each file belongs to one bucket, whose audit reads it when the LIST gets
there.

With collections a LIST is in the order of these first. Its objects are then collected too, and compared at the end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from md5s3stash.audit import FaultKind
from md5s3stash.digest import is_md5
from md5s3stash.scheme import BucketBase, KeyTemplate, split_name
from md5s3stash_daemon.ledger.reader import LedgerReader

_DIGEST_BYTES = 16
_FIRST_BYTES = range(256)


class RecordedDigests:
    """The digests that `recorded_digests` has collected."""

    def __init__(self, directory: Path, ledger: LedgerReader) -> None:
        self._directory = directory
        self._ledger = ledger

    def of_bucket(self, base: BucketBase, bucket: str) -> AnyChecklist:
        """The digests of one bucket of a base."""
        mine = [first for first in _FIRST_BYTES if base.address(f"{first:02x}{0:030x}").bucket == bucket]
        return (CollectionsChecklist if base.keys is KeyTemplate.COLLECTION else Checklist)(self, mine)

    def starting_with(self, first: int) -> set[bytes]:
        data = (self._directory / f"{first:02x}").read_bytes()
        return {data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)}

    def names_starting_with(self, first: int) -> list[str]:
        """With collections: `{collection}/{md5}` or `{md5}`."""
        return (self._directory / f"{first:02x}").read_text().split()

    def knows_by_now(self, md5: str) -> bool:
        """Whether the ledger has it now: it may have been recorded after the collection."""
        return self._ledger.knows(md5)


class Checklist:
    """Ticks off the objects of a bucket in order of keys; yields (md5, what is wrong)."""

    def __init__(self, recorded: RecordedDigests, firsts: Sequence[int]) -> None:
        self._recorded = recorded
        self._to_come = list(reversed(firsts))
        self._first: int | None = None
        self._open: set[bytes] = set()

    def stored(self, md5: str, *, may_be_unknown: bool = False) -> Iterator[tuple[str, FaultKind]]:
        """Ticks off an object of the bucket; to be called in ascending order."""
        digest = bytes.fromhex(md5)
        while self._first != digest[0]:
            yield from self._next()
        if digest in self._open:
            self._open.discard(digest)
        elif not may_be_unknown and not self._recorded.knows_by_now(md5):
            yield md5, FaultKind.NOT_RECORDED

    def end(self) -> Iterator[tuple[str, FaultKind]]:
        """Ends the list: the bucket has no more objects."""
        while self._to_come:
            yield from self._next()
        yield from self._not_stored()

    def _next(self) -> Iterator[tuple[str, FaultKind]]:
        yield from self._not_stored()
        self._first = self._to_come.pop()
        self._open = self._recorded.starting_with(self._first)

    def _not_stored(self) -> Iterator[tuple[str, FaultKind]]:
        yield from ((digest.hex(), FaultKind.NOT_STORED) for digest in sorted(self._open))


class CollectionsChecklist:
    """The same for a bucket with collections, in any order. Yields (`{collection}/{md5}` or `{md5}`, what is wrong).

    The ledger has one place for each content, the last one: a content in a further collection is recorded, too.
    """

    def __init__(self, recorded: RecordedDigests, firsts: Sequence[int]) -> None:
        self._recorded = recorded
        self._firsts = firsts
        # A temporary file, without a journal: nothing is ever rolled back.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF;"
            "CREATE TABLE stored (name TEXT PRIMARY KEY, md5 TEXT, checked INT) WITHOUT ROWID;"
            "CREATE TABLE recorded (name TEXT PRIMARY KEY, md5 TEXT) WITHOUT ROWID"
        )

    def stored(self, name: str, *, may_be_unknown: bool = False) -> Iterator[tuple[str, FaultKind]]:
        """Notes an object of the bucket."""
        row = (name, split_name(name)[1], not may_be_unknown)
        self._database.execute("INSERT OR IGNORE INTO stored VALUES (?, ?, ?)", row)
        yield from ()

    def end(self) -> Iterator[tuple[str, FaultKind]]:
        """Compares: the bucket has no more objects."""
        with contextlib.closing(self._database) as database:
            for first in self._firsts:
                rows = [(name, split_name(name)[1]) for name in self._recorded.names_starting_with(first)]
                database.executemany("INSERT OR IGNORE INTO recorded VALUES (?, ?)", rows)
            database.execute("CREATE INDEX by_md5 ON recorded (md5)")
            for (name,) in database.execute("SELECT name FROM recorded EXCEPT SELECT name FROM stored ORDER BY name"):
                yield name, FaultKind.NOT_STORED
            unrecorded = "SELECT name, md5 FROM stored WHERE checked AND md5 NOT IN (SELECT md5 FROM recorded)"
            for name, md5 in database.execute(f"{unrecorded} ORDER BY name"):
                if not self._recorded.knows_by_now(md5):
                    yield name, FaultKind.NOT_RECORDED


AnyChecklist = Checklist | CollectionsChecklist


@contextlib.contextmanager
def recorded_digests(ledger: LedgerReader, base: BucketBase | None = None) -> Iterator[RecordedDigests]:
    """Collects the digests, 16 bytes each, in the directory for temporary files; with collections, the names, which the
    ledger has for this base, the first. Raises as `LedgerReader` does.
    """
    with tempfile.TemporaryDirectory(prefix="md5s3stashctl-") as name:
        directory = Path(name)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(directory / f"{first:02x}", "wb")) for first in _FIRST_BYTES]
            for page in ledger.digests():
                md5s = [md5 for md5 in page if is_md5(md5)]
                if base is not None and base.keys is KeyTemplate.COLLECTION:
                    for content in ledger.recorded([("", md5) for md5 in md5s]):
                        name = base.name_of(content.s3_url) or content.md5
                        files[int(content.md5[:2], 16)].write(f"{name}\n".encode())
                    continue
                for digest in map(bytes.fromhex, md5s):
                    files[digest[0]].write(digest)
        yield RecordedDigests(directory, ledger)
