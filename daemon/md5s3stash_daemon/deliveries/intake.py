"""Takes the manifests among the claimed files, and gives each other file of a delivery the digests listed for it.

The main loop calls this for each batch, before any of it is handed to the workers. So a manifest holds for every file
that is claimed with it or later; `follower` finds out about the files before.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from md5s3stash.errors import SourceChanged
from md5s3stash_daemon.deliveries.bag import is_bag_manifest, read_bag_manifest
from md5s3stash_daemon.deliveries.fetch import is_own_list
from md5s3stash_daemon.deliveries.journal import Journal
from md5s3stash_daemon.deliveries.judge import with_replaced
from md5s3stash_daemon.deliveries.manifest import (
    HEAD_BYTES,
    Line,
    algorithm_of,
    is_only_digest,
    problem_of,
    read_manifest,
)
from md5s3stash_daemon.deliveries.records import FileRow, Manifest, State
from md5s3stash_daemon.deliveries.waiting import manifest_waits
from md5s3stash_daemon.disk.accounts import account_name
from md5s3stash_daemon.spool.entry import DISK_ERRORS, Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.retry import DISK_RETRY_SECONDS, PUT_BACK_SECONDS
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# About ten million names. A larger manifest is stashed as any file, and the log says so.
MAX_MANIFEST_BYTES = 1024**3

_LINES_AT_ONCE = 10_000


class DeliveryIntake:
    """Knows which folders have an open delivery. `lock` is held while one is opened or ended."""

    def __init__(self, spool: Spool, journal: Journal) -> None:
        self._spool = spool
        self._journal = journal
        self.lock = threading.RLock()
        # Folder -> number of its delivery.
        self.open = dict(journal.open_folders())
        # Folder -> whether a manifest waits in it, in this batch.
        self._with_manifest: dict[str, bool] = {}

    def keeps(self, entry: Entry) -> bool:
        """Whether a list of URLs is part of a delivery, which has files alone: also if its manifest still waits in the
        spool. The lists that fetch what a bag lacks are ours.
        """
        return not is_own_list(entry.name) and any(
            folder in self.open or self._has_manifest(folder) for folder in folders_above(entry.name)
        )

    def _has_manifest(self, folder: str) -> bool:
        if folder not in self._with_manifest:
            self._with_manifest[folder] = manifest_waits(self._spool, folder)
        return self._with_manifest[folder]

    def with_listed(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The files, with `listed` set. If the journal cannot be used, they are deferred, and the result is empty."""
        # A manifest directly in incoming/ is a file as any other: there is no folder that it speaks for.
        manifests = [entry for entry in entries if "/" in entry.name and algorithm_of(entry.name)]
        self._with_manifest.clear()
        if not manifests and not self.open:
            return entries
        try:
            put_back = {entry.drop_id for entry in manifests if not self._take_manifest(entry)}
            entries = [entry for entry in entries if entry.drop_id not in put_back] if put_back else entries
            return self._all_with_listed(entries)
        except sqlite3.Error as error:
            log.error("the journal of deliveries does not work error=%r; deferred files=%d", str(error), len(entries))
            until = time.time() + DISK_RETRY_SECONDS
            for entry in entries:
                # It stays claimed if this fails too, and the next start finds it.
                self._defer(entry, until)
            return []

    def _defer(self, entry: Entry, until: float) -> None:
        try:
            self._spool.defer(entry, until)
        except OSError as error:
            log.error("cannot be moved in the spool error=%r; the next start tries again", str(error))

    def _all_with_listed(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        # The other thread may end a delivery at any time: its number is looked up once.
        open_above: dict[str, list[tuple[str, int]]] = {}
        by_delivery: dict[tuple[str, int], list[str]] = {}
        for entry in entries:
            above = entry.name.rpartition("/")[0]
            if above not in open_above:
                open_above[above] = [
                    (folder, number)
                    for folder in folders_above(entry.name)
                    if (number := self.open.get(folder)) is not None
                ]
            for delivery in open_above[above]:
                by_delivery.setdefault(delivery, []).append(entry.name[len(delivery[0]) + 1 :])
        digests: dict[str, list[tuple[str, str]]] = {}
        for (folder, number), names in by_delivery.items():
            for name, listed in self._journal.listed_of(number, names).items():
                digests.setdefault(f"{folder}/{name}", []).extend([each[:2] for each in listed])
        # Not by `_replace`, which takes twice as long.
        return [Entry(*entry[:-1], tuple(digests[entry.name])) if entry.name in digests else entry for entry in entries]

    def _take_manifest(self, entry: Entry) -> bool:
        """Reads a manifest; False if it was put back. A manifest that could not be read now must not be stashed: then
        it would be no manifest.
        """
        # A file that is tried again, or that a crash left after its delivery has ended.
        if self._journal.has_manifest(entry.drop_id):
            return True
        try:
            pin = self._spool.opening.opened(entry.place, lambda: Pin.of(entry.place))
        except SourceChanged as error:
            return self._put_back(entry, PUT_BACK_SECONDS, str(error))
        except OSError as error:
            # Any other error lasts: the worker finds it too, and the file fails with a reason.
            return error.errno not in DISK_ERRORS or self._put_back(entry, DISK_RETRY_SECONDS, str(error))
        try:
            with open(os.dup(pin.descriptor), "rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(0)
                if pin.status.st_size > MAX_MANIFEST_BYTES:
                    self._read(entry, iter(()), pin.status, b"")
                elif is_bag_manifest(entry.name):
                    self._read(entry, read_bag_manifest(file), pin.status, head)
                elif not is_only_digest(head):
                    self._read(entry, read_manifest(file, algorithm_of(entry.name) or "md5"), pin.status, head)
            return True
        except OSError as error:
            return self._put_back(entry, DISK_RETRY_SECONDS, str(error))
        finally:
            pin.release()

    def _put_back(self, entry: Entry, seconds: float, reason: str) -> bool:
        log.warning("manifest cannot be read now: put back name=%r reason=%r", entry.name, reason)
        # It stays claimed if this fails, and the next start finds it.
        with contextlib.suppress(OSError):
            self._spool.put_back(entry, time.time() + seconds)
        return False

    def _read(self, entry: Entry, lines: Iterator[Line], status: os.stat_result, head: bytes) -> None:
        folder, _, name = entry.name.rpartition("/")
        algorithm = algorithm_of(name) or "md5"
        with self.lock:
            with self._journal.transaction():
                number = self.open.get(folder)
                if number is None:
                    number = self._journal.open(new_id(), folder, account_name(status.st_uid), time.time())
                is_new = not self._journal.replace_manifest(number, name)
                count = malformed = 0
                first = ""
                while chunk := [_own_apart(line, name) for line in itertools.islice(lines, _LINES_AT_ONCE)]:
                    count += len(chunk)
                    malformed += sum(not line.name for line in chunk)
                    pairs = [(line.name, line.digest) for line in chunk if line.name]
                    first = first or (pairs[0][0] if pairs else "")
                    self._journal.list_names(number, algorithm, pairs, name)
                    self._journal.note_written(number, [(line.name, line.written) for line in chunk if line.written])
                    for line in chunk:
                        if line.leads_out:
                            self._journal.put_file(number, _refused(line, name))
                self._journal.note_listed(number, name)
                if not is_new:
                    self._note_replaced(number)
                problem = problem_of(head, algorithm, count, malformed)
                if status.st_size > MAX_MANIFEST_BYTES:
                    problem = f"it has {status.st_size:,} bytes, more than {MAX_MANIFEST_BYTES:,}: split it"
                is_sidecar = count - malformed == 1 and _is_beside(name, first)
                self._journal.add_manifest(
                    number,
                    Manifest(entry.drop_id, name, algorithm, count, malformed, problem=problem, is_sidecar=is_sidecar),
                )
                self._journal.update(number, touched=time.time())
            self.open[folder] = number
        log.info("manifest read name=%r lines=%d malformed=%d replaces=%s", entry.name, count, malformed, not is_new)
        if problem:
            log.error("manifest has lines that cannot be read name=%r: %s", entry.name, problem)

    def _note_replaced(self, number: int) -> None:
        self._journal.note_unlisted(number)
        for row in self._journal.files(number, (State.WRONG,)):
            self._journal.put_file(number, replace(with_replaced(row, self._journal.listed(number, row.name)), drops=0))


def _is_beside(manifest: str, name: str) -> bool:
    """Whether this is a manifest as producers make one for each file: `a.tif.md5` or `a.md5` for `a.tif`."""
    return manifest.startswith(f"{os.path.splitext(name)[0]}.")


def _own_apart(line: Line, manifest: str) -> Line:
    """The line, and if it lists its own manifest, which is never right, under a name that no other line has."""
    return line._replace(name=f"./{manifest}", leads_out=True) if line.name == manifest else line


def _refused(line: Line, manifest: str) -> FileRow:
    reason = f"line {line.number} of {manifest} leads out of the folder of the delivery"
    if line.name == f"./{manifest}":
        reason = f"a manifest cannot list itself: have it sent again without its line {line.number}"
    return FileRow(line.name, State.REFUSED, reason=reason)


def folders_above(name: str) -> Iterator[str]:
    """`a` and `a/b` for `a/b/c`."""
    end = name.find("/")
    while end != -1:
        yield name[:end]
        end = name.find("/", end + 1)


def new_id() -> str:
    """Short enough to type; sorts by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
