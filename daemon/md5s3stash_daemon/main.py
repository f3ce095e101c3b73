"""The program `md5s3stashd`: settings, wiring, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from md5s3stash.batch import fetch_limits, s3_timeouts
from md5s3stash.errors import StashError
from md5s3stash.fetch import Fetcher
from md5s3stash.logs import set_up_logging
from md5s3stash.netguard import NetGuard
from md5s3stash.notify import Notifier, watchdog_seconds
from md5s3stash.objectstore import ObjectStore
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3 import connect, new_session
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash.stash import Stasher
from md5s3stash_daemon.commit import Committer
from md5s3stash_daemon.config import as_toml, read_settings, redis_client
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import Health, Pulse
from md5s3stash_daemon.http_status import serving
from md5s3stash_daemon.journal import set_line_format
from md5s3stash_daemon.ledger import RedisLedger
from md5s3stash_daemon.metrics import CountedLedger, Metrics
from md5s3stash_daemon.notify import Reporter, reporting
from md5s3stash_daemon.queue_build import build_queue_intake
from md5s3stash_daemon.queue_service import QueueIntake
from md5s3stash_daemon.reload import Reload
from md5s3stash_daemon.service import Service
from md5s3stash_daemon.settings import HttpSettings, LogSettings, SpoolSettings, UrlSettings
from md5s3stash_daemon.shared_politeness import politeness_of
from md5s3stash_daemon.signals import handled
from md5s3stash_daemon.spool import Spool
from md5s3stash_daemon.status_page import StatusPage
from md5s3stash_daemon.url_cache import UrlCaches
from md5s3stash_daemon.url_service import UrlLists, url_stashers
from md5s3stash_daemon.work import REDIS, S3, Worker

log = logging.getLogger(__name__)

# A store that answers a HEAD of a bucket later than this is down.
PROBE_SECONDS = 10.0

_EPILOG = """\
examples:
  BUCKET_BASE=my-bucket/originals REDIS_URL=redis://127.0.0.1:6379/0 SPOOL_DIR=/srv/spool md5s3stashd
  md5s3stashd --config /etc/md5s3stash/md5s3stash.toml --check-config

Runs until SIGTERM or SIGINT, finishing what is under way. SIGHUP reads the settings again. The status page, /healthz
and /metrics are on http://127.0.0.1:9108.

exit status: 0 stopped as told, 1 the spool cannot be used or an error that ended it, 2 the arguments or settings are
wrong.

environment: BUCKET_BASE, REDIS_URL, SPOOL_DIR, S3_ENDPOINT, BUCKET_SCHEME, and MD5S3STASH_<SECTION>_<KEY> for every key
of the settings file; the AWS_... variables of boto3.

files: /etc/md5s3stash/md5s3stash.toml, the settings; /var/spool/md5s3stash, the spool.
"""

# The spool is what tries again.
NO_RETRY = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that main has to do with."""

    service: Service
    worker: Worker
    lists: UrlLists
    queue: QueueIntake | None
    gate: Gate
    metrics: Metrics
    health: Health

    def apply(self, settings: Settings) -> None:
        """Goes on with these settings, as far as they are `reload.LIVE`."""
        spool_settings = settings[SpoolSettings]
        self.worker.set_delays(delays_of(spool_settings))
        self.lists.apply(delays_of(spool_settings), spool_settings.stop_seconds)
        if self.queue is not None:
            self.queue.apply(delays_of(spool_settings), spool_settings.stop_seconds)
        self.gate.set_delays(probe_delays_of(spool_settings))
        self.health.stuck_seconds = spool_settings.stuck_seconds
        self.service.apply(spool_settings)
        _set_log_level(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until SIGTERM or SIGINT; the exit status."""
    arguments = build_parser().parse_args(argv)

    def read() -> Settings:
        return read_settings(os.environ, arguments.config, {"log.level": arguments.loglevel})

    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    try:
        settings = read()
        if arguments.check_config:
            print(as_toml(settings), end="")
            return 0
        _set_log_level(settings)
        set_line_format(os.environ, sys.stderr.fileno())
        daemon = build(settings)
    except StashError as error:
        return _say(str(error), error.exit_code)
    except OSError as error:
        return _say(f"the spool cannot be used: {error}", 1)
    status = 0
    try:
        if _run(daemon, settings, read, notifier):
            return 0
    except StashError as error:
        status = _say(str(error), error.exit_code)
    except OSError as error:
        status = _say(f"the spool cannot be used any more: {error}", 1)
    except Exception:
        log.exception("unexpected")
        status = 1
    # Threads that hang, or wait for a main thread that is gone, would hold up the end of the interpreter for ever.
    # Their files are still claimed, and the next start finds them.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="md5s3stashd",
        description="stashes in S3 what is dropped into the spool",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (default: /etc/md5s3stash/md5s3stash.toml)"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print the settings in force, or their faults, and end"
    )
    parser.add_argument(
        "--loglevel", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="wins over the setting log.level"
    )
    return parser


def _run(daemon: Daemon, settings: Settings, read: Callable[[], Settings], notifier: Notifier) -> bool:
    """Whether everything under way was finished in the end."""

    def stop() -> None:
        notifier.stopping()
        daemon.service.stop()

    actions: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: Reload(settings, read, daemon.apply, notifier),
    }
    reporter = Reporter(notifier, daemon.health, watchdog_seconds(os.environ, os.getpid()))
    page = StatusPage(settings, daemon.health, daemon.metrics)
    with serving(settings[HttpSettings], daemon.health, daemon.metrics, page), handled(actions), reporting(reporter):
        if daemon.queue is not None:
            daemon.queue.start()
        complete = daemon.service.run(notifier.ready)
        # Lists and the queue stop along with the files, so this waits for what is left of the same time.
        drained = daemon.queue is None or daemon.queue.finish()
        return daemon.lists.finish() and complete and drained


def delays_of(settings: SpoolSettings) -> RetryPolicy:
    """Between the tries of a file. Chance decides half, so that files that failed together do not come together."""
    return RetryPolicy(
        first_delay_seconds=settings.first_delay_seconds, max_delay_seconds=settings.max_delay_seconds, jitter=0.5
    )


def probe_delays_of(settings: SpoolSettings) -> RetryPolicy:
    """Between the questions to a service that is down."""
    return RetryPolicy(
        first_delay_seconds=settings.probe_seconds, max_delay_seconds=settings.max_probe_seconds, jitter=0.1
    )


def build(settings: Settings) -> Daemon:
    """The daemon of these settings, with its spool made and locked. Raises SettingsError, SpoolTaken or OSError."""
    spool_settings, redis_settings = settings[SpoolSettings], settings[RedisSettings]
    bases = settings[StashSettings].bases()
    client = redis_client(settings)
    timeouts = s3_timeouts(settings[S3Settings])
    # Shared, for it keeps the description of S3 in memory.
    session = new_session()
    store = connect(settings[S3Settings].endpoint, session, timeouts=timeouts)
    # Asks once and not for long: as soon as it is known that the store is down, everything else pauses.
    probe = connect(
        settings[S3Settings].endpoint,
        session,
        timeouts=replace(timeouts, stall_seconds=min(timeouts.stall_seconds, PROBE_SECONDS)),
        attempts=1,
    )
    spool = Spool(spool_settings.dir)
    spool.create()
    spool.lock()
    redis_ledger = RedisLedger(client, redis_settings.prefix, spool.identity(), redis_settings.replicas)
    metrics, pulse = Metrics(), Pulse()
    ledger = CountedLedger(redis_ledger, metrics)
    fault = redis_ledger.durability_fault()
    if fault is not None:
        log.warning("redis may forget what it confirmed: %s", fault)
    # Nothing that is dropped may make this box read its own network.
    guard = NetGuard(tuple(map(ip_network, settings[UrlSettings].allowed_networks)))
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]), guard, retry=NO_RETRY)
    # Without caches: a file is removed only after the store itself has confirmed the object.
    stashers = [Stasher(base, store, fetcher, retry=NO_RETRY) for base in bases]
    stopping = threading.Event()
    gate = Gate(
        {S3: lambda: _check_buckets(probe, bases), REDIS: ledger.ping},
        probe_delays_of(spool_settings),
    )
    metrics.watch_spool(spool, gate)
    caches = UrlCaches(client, redis_settings.prefix, bases)
    of_urls = settings[UrlSettings]
    lists = UrlLists(
        spool,
        ledger,
        gate,
        url_stashers(bases, store, fetcher, caches, settings[UrlSettings].images_only),
        caches,
        politeness_of(of_urls.per_host, of_urls.host_delay_seconds, of_urls.shared, client, redis_settings.prefix),
        of_urls,
        spool_settings,
        delays_of(spool_settings),
        stopping,
        metrics,
        pulse,
    )
    queue = build_queue_intake(settings, lists.parts, client, session, store, pulse)
    worker = Worker(spool, stashers, gate, delays_of(spool_settings), stopping, metrics, lists.hand_over)
    committer = Committer(spool, ledger, gate, stopping, pulse)
    service = Service(spool, worker, committer, gate, spool_settings, stopping, metrics, pulse)
    return Daemon(
        service, worker, lists, queue, gate, metrics, Health(pulse, gate, metrics, spool_settings.stuck_seconds)
    )


def _check_buckets(store: ObjectStore, bases: Sequence[BucketBase]) -> None:
    for base in bases:
        # One of the 36 stands for all: they are made and granted together.
        store.check(base.buckets()[0])


def _set_log_level(settings: Settings) -> None:
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])


def _say(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"md5s3stashd: {line}", file=sys.stderr)
    return status
