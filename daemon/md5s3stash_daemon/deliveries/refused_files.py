"""What becomes of a file in failed/ that is not what the manifest of its delivery lists."""

from __future__ import annotations

from md5s3stash_daemon.deliveries.intake import folders_above
from md5s3stash_daemon.deliveries.journal import Journal
from md5s3stash_daemon.deliveries.records import Delivery, State

# The clock of file systems is behind.
_LAG_SECONDS = 1.0

_ENDED = (
    "no open delivery lists this file, so retry refuses it: have the right one sent with a manifest, as a new "
    "delivery; when that is complete, this file can be deleted"
)


def advice(journal: Journal | None, name: str, since: float) -> str:
    """In words, why dropping this file again is of no use, and what to do; empty if an open delivery compares it again.
    `since`: when it failed. The journal is None if no delivery can be open.
    """
    latest: Delivery | None = None
    for folder in folders_above(name) if journal is not None else ():
        assert journal is not None
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
        return f"its delivery {latest.id} is complete without this file, so it can be deleted"
    return _ENDED
