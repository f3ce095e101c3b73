"""Judges what could not be compared when it was claimed: files that came before their manifest, under another form of
their name, or with an earlier drop. And says why a listed file that came is missing all the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

from md5s3stash_daemon.deliveries.intake import DeliveryIntake
from md5s3stash_daemon.deliveries.journal import WRITTEN, Journal
from md5s3stash_daemon.deliveries.judge import BEFORE_MANIFEST, FETCHED, OTHER_FORM, compared, disagreement_of
from md5s3stash_daemon.deliveries.records import Delivery, FileRow, State
from md5s3stash_daemon.deliveries.waiting import left_out
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.spool.spool import Spool

# Names per request to Redis, and objects read between two looks at the log.
_NAMES_AT_ONCE = 1000
_OBJECTS_AT_ONCE = 20

# Unlisted names that a missing one is compared with, at most.
_COMPARED = 10_000


class Contents(Protocol):
    """Stored contents by md5; None for one that is gone. Raise StashError."""

    def digests(self, md5: str, algorithms: Collection[str]) -> Mapping[str, str] | None: ...

    def read(self, md5: str, max_bytes: int) -> bytes | None: ...

    def place(self, md5: str) -> str: ...

    def in_collection(self, collection: str) -> Self:
        """The contents of one collection; empty for those in none."""
        ...


class LateChecks:
    """Of one delivery; its rows in the journal change under the lock of the intake."""

    def __init__(self, intake: DeliveryIntake, journal: Journal, contents: Contents, delivery: Delivery) -> None:
        self._intake = intake
        self._journal = journal
        self._contents = contents
        self._number = delivery.number
        self._folder = delivery.folder

    def check_objects(self, is_stopping: Callable[[], bool]) -> None:
        """Reads objects that were stored before their manifest came. All of them, before the delivery can end."""
        while rows := list(self._journal.files(self._number, (State.UNCHECKED,), _OBJECTS_AT_ONCE)):
            checked = []
            for row in rows:
                if is_stopping():
                    return
                stored = FETCHED if row.reason == FETCHED else BEFORE_MANIFEST
                checked.append(self._checked(row, State.FAILED, stored))
            self._put(checked)

    def find_earlier(self, ledger: LedgerReader) -> None:
        """Looks for missing names in the ledger: it may have them of an earlier drop, with the listed digest."""
        batch: list[FileRow] = []
        for row in self._journal.files(self._number, (State.MISSING,)):
            batch.append(row)
            if len(batch) == _NAMES_AT_ONCE:
                self._put(self._earlier(ledger, batch))
                batch = []
        if batch:
            self._put(self._earlier(ledger, batch))

    def _earlier(self, ledger: LedgerReader, rows: Sequence[FileRow]) -> Iterator[FileRow]:
        for row, md5 in zip(rows, ledger.md5s_of([f"{self._folder}/{row.name}" for row in rows]), strict=True):
            if md5 is not None:
                checked = self._checked(replace(row, md5=md5), State.MISSING, BEFORE_MANIFEST)
                if checked.state is State.RIGHT:
                    yield replace(checked, state=State.EARLIER)

    def match_other_forms(self, is_bag: bool) -> None:
        """Finds missing names that came in another form. In a bag that is another Unicode form: macOS and archivers
        change it. Elsewhere it is a name with backslashes, which `md5sum --check` takes as they are.
        """
        for row in self._journal.files(self._number, (State.MISSING,)):
            forms = [unicodedata.normalize(form, row.name) for form in ("NFC", "NFD")] if is_bag else []
            if row.reason.startswith(WRITTEN):
                forms.append(row.reason.removeprefix(WRITTEN))
            for form in forms:
                came = self._journal.file(self._number, form)
                if came is not None and came.state is State.UNLISTED:
                    self._put([self._judged_as(row.name, came)])
                    with self._intake.lock, self._journal.transaction():
                        self._journal.drop_file(self._number, came.name)
                    break

    def _judged_as(self, name: str, came: FileRow) -> FileRow:
        row = replace(came, name=name)
        return self._checked(row, State.FAILED, OTHER_FORM) if row.md5 else replace(row, state=State.FAILED)

    def explain_missing(self, spool: Spool) -> None:
        """Notes why listed files that came are not stashed, or came under a name that looks the same."""
        came = {_folded(row.name): row.name for row in self._journal.files(self._number, (State.UNLISTED,), _COMPARED)}
        for missing in self._journal.files(self._number, (State.MISSING,)) if came else ():
            if not missing.reason and (other := came.get(_folded(missing.name))) is not None:
                reason = f"{other} came, which differs in upper and lower case, or in Unicode form"
                self._put([replace(missing, reason=reason)])
        for name in self._journal.listed_apart(self._number):
            row = self._journal.file(self._number, name)
            if row is not None and row.state is State.MISSING:
                reason = disagreement_of(self._journal.listed(self._number, name))
                self._put([replace(row, reason=reason, drops=0)])
        for name, reason in left_out(spool, self._folder):
            row = self._journal.file(self._number, name)
            if row is not None and row.state is State.MISSING:
                self._put([replace(row, reason=reason, drops=0)])

    def _checked(self, row: FileRow, if_gone: State, stored: str) -> FileRow:
        """The row, judged by the digests of its object."""
        listed = self._journal.listed(self._number, row.name)
        known: Mapping[str, str] | None = {"md5": row.md5}
        further = {algorithm for algorithm, _, _ in listed} - {"md5"}
        if further:
            known = self._contents.digests(row.md5, further)
            if known is None:
                return replace(row, state=if_gone, reason="its object in S3 is gone", drops=0)
        return replace(compared(row, listed, {"md5": row.md5, **(known or {})}, stored), drops=0)

    def _put(self, rows: Iterator[FileRow] | Sequence[FileRow]) -> None:
        judged = list(rows)
        with self._intake.lock, self._journal.transaction():
            for row in judged:
                self._journal.put_file(self._number, row)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
