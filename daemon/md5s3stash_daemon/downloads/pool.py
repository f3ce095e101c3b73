"""The pool of downloads that URL lists and the SQS queue share, and what goes with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.url_stasher import LineWorker
from md5s3stash_daemon.ledger.ledger import Ledger
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import Gate
from md5s3stash_daemon.runtime.disk_space import DiskFloor
from md5s3stash_daemon.runtime.shutdown import Stop
from md5s3stash_daemon.spool.spool import Spool

# Between two looks at what no event announces: the end of the daemon, a request of another list.
TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ListParts:
    """What the runs of all lists share."""

    spool: Spool
    ledger: Ledger
    gate: Gate
    worker: LineWorker
    caches: UrlCaches
    politeness: Politeness
    disk: DiskFloor
    downloads: ThreadPoolExecutor
    jobs: int
    attempts: int
    stop: Stop
    metrics: Metrics
