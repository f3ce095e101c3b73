"""Adds the results of audits to the ledger log, for the index of provenance."""

from __future__ import annotations

from typing import Any

import redis

from md5s3stash_daemon.ledger.ledger import LOG_MAX_UNCOLLECTED
from md5s3stash_daemon.ledger.reader import translating

# How `via` begins in these entries.
FIXITY = "fixity"

# How an audit checks: by LIST, or by reading what LIST cannot prove; or the standing one, which reads everything.
BY_LIST = "LIST"
BY_READING = "read"
STANDING = "standing"

# How the first two end if objects that the ledger has and the bucket has not are found too.
AND_LEDGER = " and ledger"

# How it ends when an audit begins.
BEGUN = ", begun"

# How it ends if not all objects could be checked: then it proves nothing for a single one.
INCOMPLETE = ", incomplete"

# The error of an event by which an operator accepts a fault.
ACKNOWLEDGED = "acknowledged"


class FixityLog:
    """Of one audit: `BY_LIST`, `BY_READING` what LIST cannot prove, or the `STANDING` one. Raises RedisUnavailable,
    LedgerRefused.
    """

    def __init__(self, client: redis.Redis, prefix: str, how: str) -> None:
        self._client: Any = client
        self._log = f"{prefix}:log"
        self._via = f"{FIXITY} {how}"

    def begun(self, place: str) -> None:
        """From now on the objects whose URLs begin with `place` are checked."""
        self._add({"name": place, "outcome": "begun", "via": f"{self._via}{BEGUN}"})

    def fault(self, s3_url: str, md5: str, kind: str, reason: str) -> None:
        """An object that is not what its key says; `md5` is empty if its key is not an md5."""
        fields = {"name": s3_url, "outcome": "fault", "md5": md5, "error": kind, "reason": reason}
        self._add({**fields, "via": self._via})

    def right(self, s3_url: str, reason: str) -> None:
        """An object that had a fault is what its key says. Without the md5: an event that has one and no error is an
        ingestion for the index.
        """
        self._add({"name": s3_url, "outcome": "right", "reason": reason, "via": self._via})

    def checked(self, place: str, summary: str, faults: int, not_checkable: int) -> None:
        """All objects whose URLs begin with `place` were checked, but for some if `not_checkable`."""
        via = f"{self._via}{INCOMPLETE}" if not_checkable else self._via
        error = "faults" if faults else ""
        self._add({"name": place, "outcome": "checked", "error": error, "reason": summary, "via": via})

    def _add(self, fields: dict[str, str]) -> None:
        with translating("log"):
            self._client.xadd(self._log, fields, maxlen=LOG_MAX_UNCOLLECTED, approximate=True)
