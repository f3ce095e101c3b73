"""The download threads that URL lists and SQS share, and what these threads need."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from md5s3stash_daemon.config.settings import UrlSettings
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.url_stasher import UrlStasher
from md5s3stash_daemon.ledger.ledger import Ledger
from md5s3stash_daemon.runtime.disk_space import DiskFloor
from md5s3stash_daemon.runtime.runtime import Runtime

# Polling interval for changes without an event: a shutdown, a request of another list.
TICK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class DownloadPool:
    """What lists and SQS share."""

    runtime: Runtime
    ledger: Ledger
    stasher: UrlStasher
    caches: UrlCaches
    politeness: Politeness
    disk: DiskFloor
    executor: ThreadPoolExecutor

    @property
    def settings(self) -> UrlSettings:
        return self.runtime.live.current[UrlSettings]
