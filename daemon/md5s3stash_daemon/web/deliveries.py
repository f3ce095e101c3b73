"""The deliveries of the status page: those to look after first, then the newest."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from md5s3stash.errors import ListedDigestDiffers
from md5s3stash_daemon.deliveries.intake import folders_above
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.receipts.page import visible
from md5s3stash_daemon.deliveries.receipts.receipt import counts_of, page_beside
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import BAD, Delivery, State
from md5s3stash_daemon.spool.failures import Failure
from md5s3stash_daemon.spool.spool import Spool

_SHOWN = 6
# However many others there are.
_NEWEST = 2

_NO_JOURNAL: contextlib.nullcontext[None] = contextlib.nullcontext()

# The clock of file systems is behind.
_LAG_SECONDS = 1.0

_ENDED = (
    "no open delivery lists this file, so retry refuses it: have the right one sent with a manifest, as a new "
    "delivery; when that is complete, this file can be deleted"
)

# In the order in which the page names them.
_WORDS = {
    State.WRONG: "wrong",
    State.FAILED: "failed",
    State.REFUSED: "refused",
    State.MISSING: "missing",
    State.UNCHECKED: "to be read again",
    State.UNLISTED: "not listed",
}


@dataclass(frozen=True, slots=True)
class ShownDelivery:
    """A delivery: `good` of its `listed` names are here and right. `verdict` is empty while it is open."""

    id: str
    folder: str
    sender: str
    seconds: float
    verdict: str
    good: int
    listed: int
    others: str
    receipt: str

    @property
    def is_bad(self) -> bool:
        return self.verdict == "incomplete"


class ShownDeliveries(NamedTuple):
    """Those on the page, and how many more there are, of which `more_open` are open."""

    shown: tuple[ShownDelivery, ...] = ()
    more: int = 0
    more_open: int = 0


def shown_deliveries(spool: Spool) -> ShownDeliveries:
    """The open deliveries, then the incomplete ones, then the newest. Empty if the journal cannot be read."""
    path = journal_path(spool.directory)
    if not os.path.exists(path):
        return ShownDeliveries()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(Journal(path)) as journal:
        found = journal.unsettled(_SHOWN)
        numbers = {delivery.number for delivery in found}
        newest = [delivery for delivery in journal.newest(_SHOWN) if delivery.number not in numbers]
        found += newest[: max(_NEWEST, _SHOWN - len(found))]
        count, count_open = journal.sizes()
        return ShownDeliveries(
            tuple(_shown(journal, delivery, counts_of(journal, delivery)) for delivery in found),
            max(0, count - len(found)),
            max(0, count_open - sum(delivery.ended is None for delivery in found)),
        )
    return ShownDeliveries()


def advised(spool: Spool, failures: Sequence[Failure], *, compares: bool) -> tuple[Failure, ...]:
    """The failures, with advice for those that differ from their manifest. `compares`: deliveries are switched on."""
    differ = [failure for failure in failures if failure.error == ListedDigestDiffers.__name__]
    if not differ:
        return tuple(failures)
    path = journal_path(spool.directory)
    try:
        with contextlib.closing(Journal(path)) if compares and os.path.exists(path) else _NO_JOURNAL as journal:
            words = {id(failure): _advice(journal, failure.name, failure.since) for failure in differ}
    except sqlite3.Error:
        return tuple(failures)
    return tuple(replace(failure, advice=words.get(id(failure), "")) for failure in failures)


def _advice(journal: Journal | None, name: str, since: float) -> str:
    """In words, why dropping this file again is of no use, and what to do; empty if an open delivery compares it again.
    `since`: when it failed. The journal is None if no delivery can be open.
    """
    if journal is None:
        return _ENDED
    latest: Delivery | None = None
    for folder in folders_above(name):
        below = name[len(folder) + 1 :]
        for delivery in journal.named(folder):
            if delivery.folder != folder:
                continue
            if delivery.ended is None and journal.listed(delivery.number, below):
                row = journal.file(delivery.number, below)
                is_right = row is not None and row.state is State.RIGHT
                return "the right file of this name came, so this one can be deleted" if is_right else ""
            is_later = latest is None or delivery.number > latest.number
            if delivery.ended is not None and is_later and delivery.opened - _LAG_SECONDS <= since:
                latest = delivery
    if latest is not None and latest.verdict == "complete":
        came = "the right file of this name came, or its manifest no longer lists it"
        return f"its delivery {latest.id} is complete: {came}, so this one can be deleted"
    return _ENDED


def _shown(journal: Journal, delivery: Delivery, counts: Mapping[str, int]) -> ShownDelivery:
    good = counts[State.RIGHT] + counts[State.EARLIER]
    # While it is open, a missing file is one that may still come.
    named = [state for state in _WORDS if delivery.verdict or state is not State.MISSING]
    others = [f"{counts[state]:,} {_WORDS[state]}" for state in named if counts.get(state)]
    manifests = journal.manifests(delivery.number, unreadable=True)
    if delivery.verdict and (problems := problems_of(manifests, counts, delivery.bag)):
        others.append(f"{len(problems):,} {'problem' if len(problems) == 1 else 'problems'}")
    # One that cannot be read is never right: say so at once.
    elif manifests:
        others.append(f"{len(manifests):,} {'manifest' if len(manifests) == 1 else 'manifests'} cannot be read")
    return ShownDelivery(
        delivery.id,
        visible(delivery.folder),
        delivery.sender,
        delivery.ended or delivery.touched,
        delivery.verdict,
        good,
        good + sum(counts.get(state, 0) for state in BAD),
        ", ".join(others),
        page_beside(delivery.receipt) if delivery.receipt else "",
    )
