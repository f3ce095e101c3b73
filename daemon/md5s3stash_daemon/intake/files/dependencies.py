"""What the daemon and its worker processes share: made once, before the fork, without any connection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from md5s3stash.batch import fetch_limits, s3_timeouts
from md5s3stash.digest import digest_of
from md5s3stash.fetch import FetchLimits
from md5s3stash.logs import set_up_logging
from md5s3stash.processors import usable_processors
from md5s3stash.s3.client import CoreSession, core_session
from md5s3stash.s3.store import S3ObjectStore, connect
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash_daemon.config.load import redis_client
from md5s3stash_daemon.config.settings import LogSettings, ProvenanceSettings, SpoolSettings
from md5s3stash_daemon.ledger.confirmations import Confirmations
from md5s3stash_daemon.ledger.ledger import Ledger, RedisLedger
from md5s3stash_daemon.runtime.circuit_breaker import REDIS, S3
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.ownership import identity, lock
from md5s3stash_daemon.spool.spool import Spool

# The store is down if a HEAD of a bucket takes longer than this.
PROBE_SECONDS = 10.0

# A valid key for a probe, whether the object exists or not.
EMPTY_MD5 = digest_of(b"").md5


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Safe to use on both sides of a fork: nothing in it has a connection or a thread yet."""

    settings: Settings
    spool: Spool
    spool_id: str
    bases: Sequence[BucketBase]
    session: CoreSession
    store: S3ObjectStore
    # One attempt with a short timeout: everything pauses as soon as the store is known to be down.
    probe: S3ObjectStore
    fetch_limits: FetchLimits

    @property
    def processes(self) -> int:
        """The number of worker processes."""
        settings = self.settings[SpoolSettings]
        return min(settings.processes or default_processes(), settings.jobs)

    @property
    def jobs_of_a_process(self) -> int:
        return -(-self.settings[SpoolSettings].jobs // self.processes)

    @property
    def large_of_a_process(self) -> int:
        """How many large files each process hashes at once: one per core for all processes together."""
        return -(-usable_processors() // self.processes)

    def redis_client(self) -> redis.Redis:
        """A new client, for this process only."""
        return redis_client(self.settings)

    def ledger(self, client: redis.Redis) -> RedisLedger:
        of_redis = self.settings[RedisSettings]
        provenance = self.settings[ProvenanceSettings].index is not None
        return RedisLedger(
            client, of_redis.prefix, self.spool_id, of_redis.replicas, of_redis.accepted_risks, provenance
        )

    def confirmations(self, client: redis.Redis) -> Confirmations:
        return Confirmations(
            client,
            self.settings[RedisSettings].prefix,
            self.store.endpoint_url,
            self.bases,
            self.settings[SpoolSettings].confirmed_seconds,
        )

    def probes(self, ledger: Ledger) -> Mapping[str, Callable[[], object]]:
        """Functions that raise if S3 or Redis is unavailable."""
        return {S3: self._check_buckets, REDIS: ledger.probe}

    def _check_buckets(self) -> None:
        refusal = self.store.refuses_puts()
        if refusal is not None:
            raise refusal
        for base in self.bases:
            # Probe one of the 36 buckets: they are created, and access is granted, together.
            self.probe.check(base.buckets()[0])
            self.store.require_conditions(base.address(EMPTY_MD5))


def dependencies_of(settings: Settings) -> Dependencies:
    """Creates and locks the spool. Raises SettingsError, SpoolClosed, SpoolTaken or OSError."""
    spool_settings = settings[SpoolSettings]
    bases = settings[StashSettings].bases()
    # Reports wrong settings here rather than in a worker.
    redis_client(settings)
    timeouts = s3_timeouts(settings[S3Settings])
    # Shared because it caches botocore's description of S3.
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
    """One per processor that this process may use, at most four: beyond that, the disk and Redis are the bottleneck."""
    return min(4, usable_processors())


def set_log_level(settings: Settings) -> None:
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])
