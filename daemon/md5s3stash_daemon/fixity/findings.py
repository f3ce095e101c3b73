"""What is done about a wrong object: it is logged, kept for the operator, and recorded for the index of provenance."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from md5s3stash.audit import FaultKind
from md5s3stash.digest import is_md5
from md5s3stash.errors import StashError
from md5s3stash.scheme import ObjectAddress, split_name
from md5s3stash_daemon.fixity.reading import Read
from md5s3stash_daemon.fixity.state import MOST, WrongObject, WrongObjects
from md5s3stash_daemon.ledger.confirmations import drop_confirmations
from md5s3stash_daemon.ledger.fixity_log import FixityLog

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)


class LedgerRecord:
    """Drops cached confirmations of contents whose objects are wrong, and adds to the ledger log if provenance is on.
    Redis may be away: then the log on stderr and the kept object must do.
    """

    def __init__(self, client: Redis, prefix: str, log: FixityLog | None) -> None:
        self._client = client
        self._prefix = prefix
        self._log = log

    def begun(self, place: str) -> None:
        if self._log is not None:
            with _surviving(place):
                self._log.begun(place)

    def fault(self, address: ObjectAddress, kind: FaultKind, reason: str) -> None:
        md5 = split_name(address.key)[1]
        with _surviving(address.s3_url):
            if is_md5(md5):
                drop_confirmations(self._client, self._prefix, [md5])
            if self._log is not None:
                self._log.fault(address.s3_url, md5, kind.value, reason)

    def checked(self, place: str, faults: int) -> None:
        if self._log is not None:
            with _surviving(place):
                self._log.checked(place, f"read every object, {faults} faults", faults, not_checkable=0)


class Findings:
    """The wrong objects of the walk. Raises OSError."""

    def __init__(self, wrong: WrongObjects, record: LedgerRecord | None) -> None:
        self._wrong = wrong
        self._record = record

    def begun(self, place: str) -> None:
        """A pass begins there."""
        if self._record is not None:
            self._record.begun(place)

    def found(self, address: ObjectAddress, read: Read | None, reason: str, now: float) -> None:
        """An object is wrong; `read` is None if it cannot be read."""
        kind = FaultKind.UNREADABLE if read is None else FaultKind.WRONG_BYTES
        log.error("fixity %s s3_url=%s reason=%r", kind.value, address.s3_url, reason)
        size_bytes, md5 = (0, "") if read is None else (read.size_bytes, read.md5)
        if not self._wrong.add(WrongObject(address.s3_url, kind, reason, md5, size_bytes, now, now)):
            log.error("fixity has more than %d wrong objects: only the log names this one", MOST)
        if self._record is not None:
            self._record.fault(address, kind, reason)

    def kept(self) -> Iterator[WrongObject]:
        """Those that are neither acknowledged nor right again, the one that was read longest ago first."""
        return iter(sorted(self._wrong.all(), key=lambda wrong: wrong.last_seen))

    def still_wrong(self, s3_url: str, now: float) -> None:
        """It was read again, and is not right."""
        self._wrong.note_read(s3_url, now)

    def right_again(self, s3_url: str) -> None:
        """An object was wrong, and is not any more."""
        self._wrong.remove(s3_url)
        log.warning("fixity right again s3_url=%s", s3_url)

    def checked(self, place: str, faults: int) -> None:
        """Every object there was read."""
        if self._record is not None:
            self._record.checked(place, faults)


@contextmanager
def _surviving(about: str) -> Iterator[None]:
    try:
        yield
    except StashError as error:
        log.warning("fixity result not recorded about=%s error=%r", about, str(error))
