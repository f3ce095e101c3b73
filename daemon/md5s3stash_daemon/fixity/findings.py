"""What is done about a wrong object: it is logged, kept for the operator, and recorded for the index of provenance."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from md5s3stash.audit import FaultKind
from md5s3stash.digest import is_md5
from md5s3stash.errors import RedisUnavailable, StashError
from md5s3stash.scheme import ObjectAddress, split_name
from md5s3stash_daemon.fixity.reading import Read
from md5s3stash_daemon.fixity.state import MOST, WrongObject, WrongObjects
from md5s3stash_daemon.fixity.summary import number_of
from md5s3stash_daemon.ledger.confirmations import distrust
from md5s3stash_daemon.ledger.fixity_log import ACKNOWLEDGED, FixityLog
from md5s3stash_daemon.ledger.reader import LedgerReader, LedgerRefused

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

# How the reason of a wrong object begins that is no longer in the bucket.
GONE = "it is no longer there; before: "


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
        md5 = _md5_of(address.s3_url)
        with _surviving(address.s3_url):
            if md5:
                distrust(self._client, self._prefix, md5, address.s3_url, kind)
            if self._log is not None:
                self._log.fault(address.s3_url, md5, kind.value, reason)

    def has(self, s3_url: str) -> bool:
        """Whether the ledger has the content of this object, as far as is known."""
        try:
            return LedgerReader(self._client, self._prefix).knows(_md5_of(s3_url))
        except (RedisUnavailable, LedgerRefused):
            return True

    def acknowledged(self, wrong: WrongObject) -> None:
        """An operator has acknowledged it."""
        if self._log is not None:
            reason = f"an operator has acknowledged it as {wrong.kind.value}: {wrong.reason}"
            with _surviving(wrong.s3_url):
                self._log.fault(wrong.s3_url, _md5_of(wrong.s3_url), ACKNOWLEDGED, reason)

    def right_again(self, s3_url: str) -> None:
        if self._log is not None:
            with _surviving(s3_url):
                self._log.right(s3_url, "read right again")

    def checked(self, place: str, faults: int) -> None:
        if self._log is not None:
            with _surviving(place):
                self._log.checked(place, f"read every object, {number_of(faults, 'fault')}", faults, not_checkable=0)


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
        return iter(sorted(self._wrong.all(), key=lambda wrong: max(wrong.last_seen, wrong.last_tried)))

    def not_read(self, wrong: WrongObject, now: float, *, is_refused: bool) -> None:
        """A wrong object could not be read again. If that `is_refused`, it is seen to be unreadable still."""
        is_seen = is_refused and wrong.kind is FaultKind.UNREADABLE
        self._wrong.note(replace(wrong, last_tried=now, last_seen=now if is_seen else wrong.last_seen))

    def read_again(self, wrong: WrongObject, address: ObjectAddress, read: Read | None, now: float) -> None:
        """A wrong object was read again; `read` is None if it is gone."""
        if read is None:
            self._gone(wrong, address, now)
        elif not read.reason:
            self._wrong.remove(wrong.s3_url)
            log.warning("fixity right again s3_url=%s", wrong.s3_url)
            if self._record is not None:
                self._record.right_again(wrong.s3_url)
        elif (wrong.kind, wrong.reason) != (FaultKind.WRONG_BYTES, read.reason):
            self.found(address, read, read.reason, now)
        else:
            self._wrong.note(replace(wrong, last_seen=now))

    def _gone(self, wrong: WrongObject, address: ObjectAddress, now: float) -> None:
        """It is missing as long as the ledger has its content. Otherwise the report says once that it is gone."""
        if wrong.kind is not FaultKind.NOT_STORED:
            log.error("fixity no longer there s3_url=%s", wrong.s3_url)
            if self._record is not None:
                self._record.fault(address, FaultKind.NOT_STORED, "the wrong object is no longer there")
            reason = wrong.reason if wrong.reason.startswith(GONE) else f"{GONE}{wrong.reason}"
            self._wrong.note(replace(wrong, kind=FaultKind.NOT_STORED, reason=reason, last_tried=now))
        elif self._record is not None and self._record.has(wrong.s3_url):
            self._wrong.note(replace(wrong, last_tried=now))
        else:
            self._wrong.remove(wrong.s3_url)

    def checked(self, place: str, faults: int) -> None:
        """Every object there was read."""
        if self._record is not None:
            self._record.checked(place, faults)


def _md5_of(s3_url: str) -> str:
    """The md5 that the key says, empty if it says none."""
    md5 = split_name(s3_url)[1]
    return md5 if is_md5(md5) else ""


@contextmanager
def _surviving(about: str) -> Iterator[None]:
    try:
        yield
    except StashError as error:
        log.warning("fixity result not recorded about=%s error=%r", about, str(error))
