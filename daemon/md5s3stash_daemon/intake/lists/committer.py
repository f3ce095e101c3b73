"""Records the outcomes of a list's lines in groups: in the ledger, then in the journal. Then the ledger may forget.

With this order, a crash may repeat a line that the ledger knows, which it detects, and never skips an unrecorded one.
"""

from __future__ import annotations

from dataclasses import replace

from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.intake.lists.journal import Journal, LineOutcome
from md5s3stash_daemon.ledger.committer import GroupCommitter
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.retry import until_it_works

# A line number with its outcome.
Settled = tuple[int, Outcome]


def line_drop_id(entry: Entry, line: int) -> str:
    """Identifies one line of one drop."""
    return f"{entry.drop_id}#{line}"


class LineCommitter(GroupCommitter[Settled]):
    """Commits the lines of one list."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: Ledger,
        caches: UrlCaches,
        journal: Journal,
        entry: Entry,
        owner: str,
        liveness: ThreadLiveness,
    ) -> None:
        super().__init__(runtime, ledger, liveness)
        self._via = f"list {entry.name}"
        self._owner = owner
        self._caches = caches
        self._journal = journal
        # An earlier daemon may have died before the ledger forgot its last lines.
        self._recorder.forget_later(line_drop_id(entry, line) for line in journal.last_lines)

    def _commit(self, group: list[Settled]) -> bool:
        self._caches.flush()
        if not self._recorder.record([self._with_list(outcome) for _, outcome in group]):
            return False
        lines = [_line_outcome(line, outcome) for line, outcome in group]
        if not until_it_works(lambda: self._append(lines), self._runtime.stopping):
            return False
        self._recorder.forget_later(outcome.drop_id for _, outcome in group)
        return True

    def _set_aside(self, item: Settled, error: Exception) -> bool:
        line, outcome = item
        # Any of these texts may have caused the error.
        name, reason = (text.encode("ascii", "backslashreplace").decode() for text in (outcome.name, str(error)))
        failure = Outcome(outcome.drop_id, name, error=type(error).__name__, reason=f"unexpected: {reason}")
        return self._commit([(line, failure)])

    def _with_list(self, outcome: Outcome) -> Outcome:
        return replace(outcome, provenance=replace(outcome.provenance, via=self._via, owner=self._owner))

    def _append(self, lines: list[LineOutcome]) -> None:
        self._liveness.beat()
        self._journal.append(lines)


def _line_outcome(line: int, outcome: Outcome) -> LineOutcome:
    if not outcome.reports:
        return LineOutcome(line, outcome.name, error=outcome.error, reason=outcome.reason)
    first = outcome.reports[0]
    return LineOutcome(line, outcome.name, first.md5, first.s3_url, first.mime_type)
