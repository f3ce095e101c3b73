"""The program `md5s3stashd`: settings, wiring, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from md5s3stash.batch import fetch_limits
from md5s3stash.cache import connect_redis
from md5s3stash.errors import SettingsError
from md5s3stash.fetch import Fetcher
from md5s3stash.netguard import NetGuard
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3 import connect
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings, load
from md5s3stash.stash import Stasher
from md5s3stash_daemon.keeper import Keeper
from md5s3stash_daemon.ledger import RedisLedger
from md5s3stash_daemon.service import Service
from md5s3stash_daemon.settings import SECTIONS, SpoolSettings
from md5s3stash_daemon.spool import Spool

log = logging.getLogger(__name__)

USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until SIGTERM or SIGINT; the exit status."""
    parser = argparse.ArgumentParser(prog="md5s3stashd", description="stashes in S3 what is dropped into the spool")
    parser.add_argument("--config", type=Path, help="settings file (default: /etc/md5s3stash/md5s3stash.toml)")
    parser.add_argument("--loglevel", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=arguments.loglevel, format="level=%(levelname)s logger=%(name)s %(message)s")
    try:
        settings = load(SECTIONS, os.environ, arguments.config)
        service = _service(settings)
    except SettingsError as error:
        for line in str(error).splitlines():
            print(f"md5s3stashd: {line}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"md5s3stashd: the spool cannot be used: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    log.info("stopped")
    return 0


def _service(settings: Settings) -> Service:
    spool_settings, redis_settings = settings[SpoolSettings], settings[RedisSettings]
    if redis_settings.url is None:
        raise SettingsError("REDIS_URL is not set: the daemon records there what it stashed")
    bases = settings[StashSettings].bases()
    client = connect_redis(redis_settings.url)
    spool = Spool(spool_settings.dir)
    spool.create()
    store = connect(settings[S3Settings].endpoint)
    # Nothing that is dropped may make this box read its own network.
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]), NetGuard())
    # Without caches: a file is removed only after the store itself has confirmed the object.
    stashers = [Stasher(base, store, fetcher) for base in bases]
    delays = RetryPolicy(
        first_delay_seconds=spool_settings.first_delay_seconds, max_delay_seconds=spool_settings.max_delay_seconds
    )
    return Service(spool, Keeper(spool, stashers, RedisLedger(client, redis_settings.prefix), delays), spool_settings)
