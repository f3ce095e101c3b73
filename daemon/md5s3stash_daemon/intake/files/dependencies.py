"""What the daemon and its worker processes have in common: made once, before the workers are forked, and connected to
nothing yet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from md5s3stash.batch import fetch_limits, s3_timeouts
from md5s3stash.digest import digest_of
from md5s3stash.fetch import FetchLimits
from md5s3stash.logs import set_up_logging
from md5s3stash.s3.client import CoreSession, core_session
from md5s3stash.s3.store import S3ObjectStore, connect
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash_daemon.config.load import redis_client
from md5s3stash_daemon.config.settings import LogSettings, SpoolSettings
from md5s3stash_daemon.ledger.confirmations import Confirmations
from md5s3stash_daemon.ledger.ledger import Ledger, RedisLedger
from md5s3stash_daemon.runtime.circuit_breaker import REDIS, S3
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.ownership import identity, lock
from md5s3stash_daemon.spool.spool import Spool

# A store that answers a HEAD of a bucket later than this is down.
PROBE_SECONDS = 10.0

# Its key is that of an object which may be there.
EMPTY_MD5 = digest_of(b"").md5


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Safe to be used on both sides of a fork, for nothing in it has a connection or a thread yet."""

    settings: Settings
    spool: Spool
    spool_id: str
    bases: Sequence[BucketBase]
    session: CoreSession
    store: S3ObjectStore
    # Asks once and not for long: as soon as it is known that the store is down, everything else pauses.
    probe: S3ObjectStore
    fetch_limits: FetchLimits

    @property
    def processes(self) -> int:
        """How many worker processes there are to be."""
        settings = self.settings[SpoolSettings]
        return min(settings.processes or default_processes(), settings.jobs)

    @property
    def jobs_of_a_process(self) -> int:
        return -(-self.settings[SpoolSettings].jobs // self.processes)

    @property
    def large_of_a_process(self) -> int:
        """How many large files each hashes at once: as many as there are cores, by all processes together."""
        return -(-len(os.sched_getaffinity(0)) // self.processes)

    def redis_client(self) -> redis.Redis:
        """A client of this process's own."""
        return redis_client(self.settings)

    def ledger(self, client: redis.Redis) -> RedisLedger:
        of_redis = self.settings[RedisSettings]
        return RedisLedger(client, of_redis.prefix, self.spool_id, of_redis.replicas, of_redis.accepted_risks)

    def confirmations(self, client: redis.Redis) -> Confirmations:
        return Confirmations(
            client,
            self.settings[RedisSettings].prefix,
            self.store.endpoint_url,
            self.bases,
            self.settings[SpoolSettings].confirmed_seconds,
        )

    def probes(self, ledger: Ledger) -> Mapping[str, Callable[[], object]]:
        """What tells whether S3 and Redis are there."""
        return {S3: self._check_buckets, REDIS: ledger.probe}

    def _check_buckets(self) -> None:
        refusal = self.store.refuses_puts()
        if refusal is not None:
            raise refusal
        for base in self.bases:
            # One of the 36 stands for all: they are made and granted together.
            self.probe.check(base.buckets()[0])
            self.store.require_conditions(base.address(EMPTY_MD5))


def dependencies_of(settings: Settings) -> Dependencies:
    """Makes and locks the spool. Raises SettingsError, SpoolClosed, SpoolTaken or OSError."""
    spool_settings = settings[SpoolSettings]
    bases = settings[StashSettings].bases()
    # Told here, and not in a worker.
    redis_client(settings)
    timeouts = s3_timeouts(settings[S3Settings])
    # Shared, for it keeps the description of S3 in memory.
    session = core_session()
    required = settings[S3Settings].conditional_writes == "require"
    store = connect(settings[S3Settings].endpoint, session, timeouts=timeouts, conditions_required=required)
    probe = connect(
        settings[S3Settings].endpoint,
        session,
        timeouts=replace(timeouts, stall_seconds=min(timeouts.stall_seconds, PROBE_SECONDS)),
        attempts=1,
    )
    spool = Spool(spool_settings.dir, Ignored(spool_settings.ignore), spool_settings.access_socket)
    spool.create()
    lock(spool.directory)
    return Dependencies(
        settings, spool, identity(spool.directory), bases, session, store, probe, fetch_limits(settings[FetchSettings])
    )


def default_processes() -> int:
    """One for each core that this process may use, up to four: then the disk and Redis are what is waited for."""
    return min(4, len(os.sched_getaffinity(0)))


def set_log_level(settings: Settings) -> None:
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])
