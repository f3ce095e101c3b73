"""The program `md5s3stashd`: settings, wiring, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from md5s3stash.batch import fetch_limits
from md5s3stash.cache import connect_redis
from md5s3stash.errors import SettingsError
from md5s3stash.fetch import Fetcher
from md5s3stash.logs import set_up_logging
from md5s3stash.netguard import NetGuard
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3 import connect
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings, load
from md5s3stash.stash import Stasher
from md5s3stash_daemon.commit import Committer
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.ledger import RedisLedger
from md5s3stash_daemon.service import Service
from md5s3stash_daemon.settings import SECTIONS, SpoolSettings
from md5s3stash_daemon.spool import Spool, SpoolTaken
from md5s3stash_daemon.work import REDIS, S3, Worker

log = logging.getLogger(__name__)

# A store that answers anything about this key, even that it is not there, is up.
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"

# The spool is what tries again.
NO_RETRY = RetryPolicy(attempts=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until SIGTERM or SIGINT; the exit status."""
    parser = argparse.ArgumentParser(prog="md5s3stashd", description="stashes in S3 what is dropped into the spool")
    parser.add_argument("--config", type=Path, help="settings file (default: /etc/md5s3stash/md5s3stash.toml)")
    parser.add_argument("--loglevel", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    arguments = parser.parse_args(argv)
    level = logging.getLevelNamesMapping()[arguments.loglevel]
    set_up_logging(level, "level=%(levelname)s logger=%(name)s %(message)s")
    try:
        settings = load(SECTIONS, os.environ, arguments.config)
        service = build(settings)
    except SettingsError as error:
        return _say(str(error), error.exit_code)
    except SpoolTaken as error:
        return _say(str(error), error.exit_code)
    except OSError as error:
        return _say(f"the spool cannot be used: {error}", 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    complete = service.run()
    logging.shutdown()
    if not complete:
        # Threads that hang in a transfer would hold up the end of the interpreter. Their files are still claimed.
        os._exit(0)
    return 0


def build(settings: Settings) -> Service:
    """The daemon of these settings, with its spool made and locked. Raises SettingsError, SpoolTaken or OSError."""
    spool_settings, redis_settings = settings[SpoolSettings], settings[RedisSettings]
    if redis_settings.url is None:
        raise SettingsError("REDIS_URL is not set: the daemon records there what it stashed")
    bases = settings[StashSettings].bases()
    ledger = RedisLedger(connect_redis(redis_settings.url), redis_settings.prefix)
    store = connect(settings[S3Settings].endpoint)
    spool = Spool(spool_settings.dir)
    spool.create()
    spool.lock()
    fault = ledger.durability_fault()
    if fault is not None:
        log.warning("redis may forget what it confirmed: %s", fault)
    # Nothing that is dropped may make this box read its own network.
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]), NetGuard())
    # Without caches: a file is removed only after the store itself has confirmed the object.
    stashers = [Stasher(base, store, fetcher, retry=NO_RETRY) for base in bases]
    stopping = threading.Event()
    probe_delays = RetryPolicy(
        first_delay_seconds=spool_settings.probe_seconds, max_delay_seconds=spool_settings.max_probe_seconds, jitter=0.1
    )
    gate = Gate({S3: lambda: [store.head(base.address(EMPTY_MD5)) for base in bases], REDIS: ledger.ping}, probe_delays)
    delays = RetryPolicy(
        first_delay_seconds=spool_settings.first_delay_seconds,
        max_delay_seconds=spool_settings.max_delay_seconds,
        jitter=0.5,
    )
    worker = Worker(spool, stashers, gate, delays, stopping)
    return Service(spool, worker, Committer(spool, ledger, gate, stopping), gate, spool_settings, stopping)


def _say(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"md5s3stashd: {line}", file=sys.stderr)
    return status
