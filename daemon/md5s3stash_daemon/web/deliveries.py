"""The newest deliveries, for the status page."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.receipts.page import visible
from md5s3stash_daemon.deliveries.receipts.receipt import counts_of
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import BAD, Delivery, State
from md5s3stash_daemon.spool.spool import Spool

_SHOWN = 6

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


def newest_deliveries(spool: Spool) -> tuple[ShownDelivery, ...]:
    """The newest first; empty if there are none, or the journal cannot be read."""
    path = journal_path(spool.directory)
    if not os.path.exists(path):
        return ()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(Journal(path)) as journal:
        return tuple(_shown(journal, delivery, counts_of(journal, delivery)) for delivery in journal.newest(_SHOWN))
    return ()


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
        delivery.receipt,
    )
