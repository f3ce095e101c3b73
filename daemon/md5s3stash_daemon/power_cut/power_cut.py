"""After the machine lost power or was reset: files that its disk may not hold whole are kept for a person.

A file that nobody synced is on the disk some seconds after its writer closed it. A cut before that leaves it empty,
with holes, with zeros at its end, or shorter. Nothing in the file says which it was, so what looks like one of these
and was not known to be on the disk goes to hold/, and the name of its box says why. See docs/decisions, 30.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator

from md5s3stash_daemon.disk.access import READ_WRITE_SEARCH
from md5s3stash_daemon.disk.beneath import Place, open_file, status_of
from md5s3stash_daemon.power_cut.boot_record import Boot, BootRecord
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, HOLD, INCOMING, Entry, is_partial, new_batch_name
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

PAGE_BYTES = 4096

EMPTY = "empty"
HOLES = "holes"
ZEROS = "zeros"
CUT = "cut"

_FINDINGS = {
    EMPTY: "it is empty",
    HOLES: "parts of it were never written to the disk",
    ZEROS: "it ends in zeros",
    CUT: "it ends where a block of the disk ends, and may have been longer",
}


def damage(size_bytes: int, hole: int, end: bytes, block_bytes: int) -> str:
    """How a file looks damaged; empty where it does not. `hole` is where its first hole begins, `end` the bytes from
    the beginning of its last page on.
    """
    if size_bytes == 0:
        return EMPTY
    if hole < size_bytes:
        return HOLES
    if not end.strip(b"\0"):
        return ZEROS
    return CUT if size_bytes % block_bytes == 0 else ""


def is_suspect(changed_ns: int, synced_ns: int, boot: Boot, now_ns: int, clock_is_right: bool) -> bool:
    """Whether a file with this ctime came before the boot, and may not have been on the disk.

    A clock that is wrong after the boot (no battery, no network yet) tells nothing about what came after it.
    """
    of_this_boot = clock_is_right and boot.began_ns <= changed_ns <= now_ns
    return changed_ns > synced_ns and not of_this_boot


def hold_damaged(spool: Spool, record: BootRecord, boot: Boot, beat: Callable[[], object] = lambda: None) -> int:
    """Before anything else is done with the spool, for a rename is a change of the file: how many files were moved to
    hold/. The record then names this boot. Raises OSError.
    """
    count = 0
    if not boot.id or boot.id != record.boot_id:
        now_ns, batch = time.time_ns(), new_batch_name()
        # The old clock was at these times: a boot that began before them has another clock, and one of them is wrong.
        clock_is_right = not boot.id or boot.began_ns > max(record.served_ns, record.synced_ns)
        synced_ns = record.synced_ns if record.synced_ns <= now_ns else 0
        for entry in _files(spool):
            beat()
            try:
                status = status_of(entry.place)
                if status is None or not stat.S_ISREG(status.st_mode):
                    continue
                if not is_suspect(status.st_ctime_ns, synced_ns, boot, now_ns, clock_is_right):
                    continue
                # What is closed now may be opened by a pass later, and would then be stashed unjudged.
                found = spool.opening.opened(entry.place, functools.partial(_damage_of, entry.place))
                # An upload that was cut off: its producer begins it again, or goes on where it ends.
                if not found or (found in (EMPTY, CUT) and not entry.batch and is_partial(entry.name)):
                    continue
                above = entry.place._replace(name=entry.place.name.rpartition("/")[0])
                hold = functools.partial(spool.hold_damaged, entry, batch, found)
                if spool.opening.opened(above, hold, READ_WRITE_SEARCH):
                    log.error("held after a power cut name=%r reason=%r", entry.name, _FINDINGS[found])
                    count += 1
            except OSError as error:
                # That file alone: one bad block must not keep the daemon from starting. It is claimed as any other.
                log.error("cannot hold after a power cut name=%r: %s", entry.name, error.strerror)
        log.info("first start after a boot synced_until=%d held=%d", synced_ns // 10**9, count)
    try:
        record.begin(boot)
    except OSError as error:
        # On a full disk: then what is here counts as of an earlier boot once more.
        log.error("cannot note this boot error=%r", str(error))
    return count


def reason_of(entry: Entry) -> str:
    """Why a file of hold/ is there; empty where an operator has parked it."""
    finding = _FINDINGS.get(entry.mark)
    if finding is None:
        return ""
    return f"a power cut may have damaged it: {finding}; compare it with its source, then drop that, or release this"


def damaged(spool: Spool) -> Iterator[Entry]:
    """The files of hold/ that a power cut may have damaged."""
    return (entry for entry in spool.entries(HOLD) if entry.mark in _FINDINGS)


def _files(spool: Spool) -> Iterator[Entry]:
    # hold/ first: what comes there from the others is not looked at again.
    for state in (HOLD, ACTIVE, DEFERRED):
        yield from (entry for entry in spool.entries(state) if entry.mark not in _FINDINGS)
    incoming = spool.path_of(INCOMING)

    # The daemon's passes report a folder that stays closed.
    def refused(folder: str, error: OSError) -> bool:
        return bool(folder) and spool.opening.once(Place(incoming, folder), READ_WRITE_SEARCH)

    yield from spool.dropped(refused)


def _damage_of(place: Place) -> str:
    descriptor = open_file(place)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes == 0:
            return EMPTY
        page = (size_bytes - 1) // PAGE_BYTES * PAGE_BYTES
        hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
        return damage(size_bytes, hole, os.pread(descriptor, PAGE_BYTES, page), os.fstatvfs(descriptor).f_bsize)
    finally:
        os.close(descriptor)
