"""Builds the SQS consumer from the settings."""

from __future__ import annotations

from dataclasses import replace

import redis

from md5s3stash.objectstore import ObjectStore
from md5s3stash.s3.client import CoreSession, new_session
from md5s3stash.settings import FetchSettings, RedisSettings, Settings
from md5s3stash_daemon.config.settings import ProvenanceSettings, QueueSettings, SpoolSettings
from md5s3stash_daemon.downloads.pool import DownloadPool
from md5s3stash_daemon.intake.sqs.client import connect_queue
from md5s3stash_daemon.intake.sqs.consumer import Consumer, ConsumerDependencies
from md5s3stash_daemon.intake.sqs.leases import Leases
from md5s3stash_daemon.intake.sqs.message_handler import Drops, MessageHandler, read_profiles
from md5s3stash_daemon.intake.sqs.message_ledger import QueueLedger
from md5s3stash_daemon.intake.sqs.termination_notice import Metadata, watch_for_notice
from md5s3stash_daemon.monitoring.counters import CountedLedger
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.shutdown import Shutdown
from md5s3stash_daemon.runtime.threads import spawn


def build_queue_intake(
    settings: Settings,
    pool: DownloadPool,
    client: redis.Redis,
    session: CoreSession,
    store: ObjectStore,
    metrics: Metrics,
) -> Consumer:
    """The consumer of the configured queue, not yet started. Sends no request. Raises SettingsError."""
    of_queue = settings[QueueSettings]
    assert of_queue.url is not None, "there is no consumer without a queue"
    profiles = read_profiles(of_queue.auth_profiles)
    queue = connect_queue(of_queue.url, new_session(session))
    of_redis = settings[RedisSettings]
    provenance = settings[ProvenanceSettings].index is not None
    ledger = QueueLedger(client, of_redis.prefix, of_redis.replicas, of_redis.accepted_risks, provenance)
    # Not the daemon's own shutdown: an instance due for termination stops receiving, but still empties its spool.
    live = pool.runtime.live
    stop = Shutdown(lambda: live.current[SpoolSettings].stop_seconds)
    runtime = replace(pool.runtime, shutdown=stop)
    handler = MessageHandler(
        runtime,
        pool.stasher.of_runtime(runtime),
        ledger,
        pool.politeness,
        profiles,
        Drops(store, of_queue.drop_buckets, settings[FetchSettings].max_bytes),
    )
    leases = Leases(queue, ledger, of_queue.visibility_seconds, metrics)
    metrics.watch_queue(lambda: len(leases))
    counted = CountedLedger(ledger, metrics)
    intake = Consumer(ConsumerDependencies(runtime, queue, leases, counted, handler, pool, metrics))
    if of_queue.metadata_url is not None:
        metadata = Metadata(of_queue.metadata_url)
        spawn("leaving", lambda: watch_for_notice(metadata, intake.drain, stop.event), runtime.liveness)
    return intake
