"""Records the outcomes of messages in groups, and then deletes the messages. With this order, a crash repeats work that
the ledger already knows, and loses nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from md5s3stash.netguard import printable_url
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.intake.sqs.leases import RETURN_SECONDS, Lease, Leases
from md5s3stash_daemon.ledger.committer import GroupCommitter
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime

log = logging.getLogger(__name__)

# A message with the outcomes of its jobs.
Finished = tuple[Lease, list[Outcome]]


class QueueCommitter(GroupCommitter[Finished]):
    """Messages that are not committed at the end stay in `leases`."""

    def __init__(
        self, runtime: Runtime, ledger: Ledger, caches: UrlCaches, leases: Leases, via: str, liveness: ThreadLiveness
    ) -> None:
        super().__init__(runtime, ledger, liveness)
        self._caches = caches
        self._leases = leases
        self._via = via

    def _commit(self, group: list[Finished]) -> bool:
        self._caches.flush()
        outcomes = [
            replace(outcome, provenance=replace(outcome.provenance, via=self._via))
            for _, its in group
            for outcome in its
        ]
        if outcomes and not self._recorder.record(outcomes):
            return False
        for outcome in outcomes:
            if not outcome.reports:
                log.error("failed name=%r error=%s reason=%r", _shown(outcome), outcome.error, outcome.reason)
        with self._liveness.idle():
            self._leases.delete([lease for lease, _ in group], [outcome.drop_id for outcome in outcomes])
        return True

    def _set_aside(self, item: Finished, error: Exception) -> bool:
        with self._liveness.idle():
            self._leases.return_messages([(item[0], RETURN_SECONDS)])
        return True


def _shown(outcome: Outcome) -> str:
    # Without a name in the message this is the URL, which may be signed.
    return printable_url(outcome.name)
