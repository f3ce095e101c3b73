"""After the machine lost power or was reset: moves files that may be damaged to hold/, for a person to check.

A file that no program synced is on the disk some seconds after its writer closed it. A power cut before that leaves it
empty, with holes, with zeros at its end, or shorter. The file itself does not show this. So a file that looks damaged
and is not known to be synced goes to hold/, in a box whose name says why. See docs/decisions, 30.
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
    CUT: "it ends at a block boundary of the disk, and may have been longer",
}


def damage(size_bytes: int, hole: int, end: bytes, block_bytes: int) -> str:
    """How a file looks damaged; empty if it does not. `hole` is the offset of its first hole, `end` the bytes of its
    last page.
    """
    if size_bytes == 0:
        return EMPTY
    if hole < size_bytes:
        return HOLES
    if not end.strip(b"\0"):
        return ZEROS
    return CUT if size_bytes % block_bytes == 0 else ""


def is_suspect(changed_ns: int, synced_ns: int, boot: Boot, now_ns: int, clock_is_right: bool) -> bool:
    """Whether a file with this ctime is older than the boot, and may not have been synced.

    If the clock is wrong after the boot (no battery, no network yet), it does not prove that a file is newer.
    """
    of_this_boot = clock_is_right and boot.began_ns <= changed_ns <= now_ns
    return changed_ns > synced_ns and not of_this_boot


def hold_damaged(spool: Spool, record: BootRecord, boot: Boot, beat: Callable[[], object] = lambda: None) -> int:
    """Moves suspect files to hold/ and returns their number; the record then names this boot. To be called before
    anything else moves files in the spool, because a rename changes the ctime. Raises OSError.
    """
    count = 0
    if not boot.id or boot.id != record.boot_id:
        now_ns, batch = time.time_ns(), new_batch_name()
        # The old clock has shown these times. If the boot began before them, either the old or the new clock is wrong.
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
                # Get access now: otherwise a later pass would get it, and stash the file unchecked.
                found = spool.opening.opened(entry.place, functools.partial(_damage_of, entry.place))
                # An upload that was cut off: its producer restarts or resumes it.
                if not found or (found in (EMPTY, CUT) and not entry.batch and is_partial(entry.name)):
                    continue
                above = entry.place._replace(name=entry.place.name.rpartition("/")[0])
                hold = functools.partial(spool.hold_damaged, entry, batch, found)
                if spool.opening.opened(above, hold, READ_WRITE_SEARCH):
                    log.error("held after a power cut name=%r reason=%r", entry.name, _FINDINGS[found])
                    count += 1
            except OSError as error:
                # One bad block must not keep the daemon from starting. The file is claimed like any other.
                log.error("cannot hold after a power cut name=%r: %s", entry.name, error.strerror)
        log.info("first start after a boot synced_until=%d held=%d", synced_ns // 10**9, count)
    try:
        record.begin(boot)
    except OSError as error:
        # On a full disk: the next start then checks these files again.
        log.error("cannot record this boot error=%r", str(error))
    return count


def reason_of(entry: Entry) -> str:
    """Why a file is in hold/; empty if an operator moved it there."""
    finding = _FINDINGS.get(entry.mark)
    if finding is None:
        return ""
    return (
        f"a power cut may have damaged it: {finding}; compare it with its source, "
        "then release it, or drop the source again"
    )


def damaged(spool: Spool) -> Iterator[Entry]:
    """The files in hold/ that a power cut may have damaged."""
    return (entry for entry in spool.entries(HOLD) if entry.mark in _FINDINGS)


def _files(spool: Spool) -> Iterator[Entry]:
    # hold/ first: files that move there from the other states are not checked again.
    for state in (HOLD, ACTIVE, DEFERRED):
        yield from (entry for entry in spool.entries(state) if entry.mark not in _FINDINGS)
    incoming = spool.path_of(INCOMING)

    # The daemon's passes report folders that cannot be opened.
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
