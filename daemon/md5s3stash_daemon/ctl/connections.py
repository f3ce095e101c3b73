"""The spool and the ledger that the settings name, for the commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from md5s3stash.errors import SettingsError, StashError
from md5s3stash.settings import RedisSettings, Settings, StashSettings
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.spool.entry import STATES
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.ownership import demand_open
from md5s3stash_daemon.spool.spool import Spool

if TYPE_CHECKING:
    from redis import Redis

    from md5s3stash_daemon.ledger.reader import LedgerReader

# Redis takes half a second to import, so only the commands that need it do it.


def spool_of(settings: Settings) -> Spool:
    """The spool. Raises StashError if no daemon has made it."""
    spool = Spool(settings[SpoolSettings].dir, Ignored(settings[SpoolSettings].ignore), spends_reserve=False)
    demand_open(spool.directory)
    if not all(os.path.isdir(spool.path_of(state)) for state in STATES):
        raise StashError(
            f"{spool.directory} is not a spool directory: md5s3stashd creates it when it starts (SPOOL_DIR)"
        )
    return spool


def ledger_of(settings: Settings) -> LedgerReader:
    """The ledger; without a bucket base it knows only the recorded places."""
    from md5s3stash_daemon.ledger.reader import LedgerReader

    stash = settings[StashSettings]
    return LedgerReader(*redis_of(settings), stash.bases()[0] if stash.bucket_base else None)


def probe_of(settings: Settings) -> Callable[[], object]:
    """A probe that checks whether Redis accepts records and keeps them."""

    from md5s3stash_daemon.ledger.durability import LedgerProbe

    of_redis = settings[RedisSettings]
    client, prefix = redis_of(settings)
    return LedgerProbe(client, prefix, replicas=of_redis.replicas, accepted_risks=of_redis.accepted_risks)


def redis_of(settings: Settings) -> tuple[Redis, str]:
    """The client of the ledger, and its prefix there."""
    from md5s3stash.cache import connect_redis

    redis = settings[RedisSettings]
    if redis.url is None:
        raise SettingsError("REDIS_URL is not set: the ledger is in Redis")
    return connect_redis(redis.url, redis.timeout_seconds), redis.prefix
