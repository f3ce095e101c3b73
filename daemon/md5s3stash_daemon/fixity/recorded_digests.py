"""The recorded digests, for comparison with the LIST of a bucket; needs little memory however many there are.

A LIST is in order of keys, but Redis returns its fields in no order. So the digests are first sorted into 256 files by
their first byte, which also selects the shard: each file belongs to one bucket, whose audit reads it when the LIST gets
there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from md5s3stash.audit import FaultKind
from md5s3stash.digest import is_md5
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ledger.reader import LedgerReader

_DIGEST_BYTES = 16
_FIRST_BYTES = range(256)


class RecordedDigests:
    """The digests that `recorded_digests` has collected."""

    def __init__(self, directory: Path, ledger: LedgerReader) -> None:
        self._directory = directory
        self._ledger = ledger

    def of_bucket(self, base: BucketBase, bucket: str) -> Checklist:
        """The digests of one bucket of a base."""
        mine = [first for first in _FIRST_BYTES if base.address(f"{first:02x}{0:030x}").bucket == bucket]
        return Checklist(self, mine)

    def starting_with(self, first: int) -> set[bytes]:
        path = self._directory / f"{first:02x}"
        data = path.read_bytes()
        return {data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)}

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

    def stored(self, md5: str) -> Iterator[tuple[str, FaultKind]]:
        """Ticks off an object of the bucket; to be called in ascending order."""
        digest = bytes.fromhex(md5)
        while self._first != digest[0]:
            yield from self._next()
        if digest in self._open:
            self._open.discard(digest)
        elif not self._recorded.knows_by_now(md5):
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


@contextlib.contextmanager
def recorded_digests(ledger: LedgerReader) -> Iterator[RecordedDigests]:
    """Collects the digests, 16 bytes each, in the directory for temporary files. Raises as `LedgerReader` does."""
    with tempfile.TemporaryDirectory(prefix="md5s3stashctl-") as name:
        directory = Path(name)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(directory / f"{first:02x}", "wb")) for first in _FIRST_BYTES]
            for page in ledger.digests():
                for digest in (bytes.fromhex(md5) for md5 in page if is_md5(md5)):
                    files[digest[0]].write(digest)
        yield RecordedDigests(directory, ledger)
