"""The process of the standing check: at the lowest priority, and ended by the kernel with the daemon."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from md5s3stash import console
from md5s3stash.batch import s3_timeouts
from md5s3stash.errors import RedisUnavailable, StashError
from md5s3stash.logs import set_up_logging
from md5s3stash.s3.listing import Lister, Page
from md5s3stash.s3.store import connect
from md5s3stash.scheme import ObjectAddress
from md5s3stash.settings import RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash_daemon.config.load import read_settings, redis_client
from md5s3stash_daemon.config.settings import FixitySettings, LogSettings, ProvenanceSettings, SpoolSettings
from md5s3stash_daemon.fixity.findings import Findings, LedgerRecord
from md5s3stash_daemon.fixity.ports import Place, is_stashing, limits_of, places_of
from md5s3stash_daemon.fixity.reading import ObjectReader, Read
from md5s3stash_daemon.fixity.state import StateFolder
from md5s3stash_daemon.fixity.walk import Walk
from md5s3stash_daemon.ledger.fixity_log import STANDING, FixityLog
from md5s3stash_daemon.ledger.reader import LedgerReader, LedgerRefused
from md5s3stash_daemon.runtime.helper_process import end_with, keep_running, lower_priority
from md5s3stash_daemon.runtime.log_format import set_line_format
from md5s3stash_daemon.spool.entry import ACTIVE

_LIST_ATTEMPTS = 2


def keep_checking(config: Path | None, stopping: threading.Event) -> None:
    """Runs the check in a process of its own until `stopping` is set."""
    keep_running("fixity check", __name__, [str(os.getpid()), *([str(config)] if config else [])], stopping)


def main(arguments: Sequence[str]) -> int:
    """Checks until SIGTERM or SIGINT. `arguments`: the daemon's process id and perhaps its settings file."""
    daemon, *config = arguments
    return console.run("md5s3stashd fixity", lambda: _run(int(daemon), Path(config[0]) if config else None))


def _run(daemon: int, config: Path | None) -> int:
    stopping = end_with(daemon)
    if stopping is None:
        return 0
    settings = read_settings(os.environ, config)
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])
    set_line_format(os.environ, sys.stderr.fileno())
    lower_priority()
    try:
        _walk(settings, stopping).run()
    except OSError as error:
        raise StashError(f"the state of the fixity check cannot be written: {error}") from error
    return 0


def _walk(settings: Settings, stopping: threading.Event) -> Walk:
    client, prefix = redis_client(settings), settings[RedisSettings].prefix
    box = _Box(settings[SpoolSettings].dir, LedgerReader(client, prefix), stopping)
    of_s3 = settings[S3Settings]
    store = connect(of_s3.endpoint, timeouts=s3_timeouts(of_s3))
    # The walk itself retries, and is to know of an outage soon.
    lister = Lister(of_s3.endpoint, s3_timeouts(of_s3), _LIST_ATTEMPTS)
    source = _Buckets(lister, ObjectReader(store, box.is_busy, stopping))
    folder = StateFolder(settings[SpoolSettings].dir)
    log = FixityLog(client, prefix, STANDING) if settings[ProvenanceSettings].index else None
    findings = Findings(folder.wrong, LedgerRecord(client, prefix, log))
    places = places_of(settings[StashSettings].bases(), settings[ProvenanceSettings].snapshot_bases())
    limits = limits_of(settings[FixitySettings], settings[FixitySettings].period_days)
    return Walk(places, source, folder, limits, findings, box)


class _Buckets:
    """The `Source` in S3."""

    def __init__(self, lister: Lister, reader: ObjectReader) -> None:
        self._lister = lister
        self._reader = reader

    def page(self, place: Place, after: str) -> Page:
        # A new LIST for each page: the next one may be due in days.
        return next(self._lister.pages(place.bucket, place.base.prefix, after), [])

    def read(self, address: ObjectAddress) -> Read | None:
        return self._reader.read(address)

    def need(self, bytes_per_second: float) -> None:
        self._reader.need(bytes_per_second)


class _Box:
    """The `Box` beside a spool."""

    def __init__(self, spool: Path, ledger: LedgerReader, stopping: threading.Event) -> None:
        self._active = spool / ACTIVE
        self._ledger = ledger
        self._stopping = stopping

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> bool:
        return self._stopping.wait(seconds)

    def is_busy(self) -> bool:
        return is_stashing(self._active)

    def contents(self) -> int | None:
        try:
            return self._ledger.sizes()["contents"]
        except (RedisUnavailable, LedgerRefused):
            return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
