"""Runs `md5s3stashd` after its arguments are parsed: settings, wiring, signals."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.batch import origin_rules
from md5s3stash.errors import StashError
from md5s3stash.fetch import Fetcher
from md5s3stash.netguard import NetGuard
from md5s3stash.notify import Notifier, watchdog_seconds
from md5s3stash.sealed.process import missing
from md5s3stash.settings import FetchSettings, RedisSettings, Settings
from md5s3stash_daemon.config.load import NO_RETRY, as_toml, probe_delays_of, read_settings
from md5s3stash_daemon.config.reload import Reload
from md5s3stash_daemon.config.settings import (
    DeliverySettings,
    FixitySettings,
    HttpSettings,
    ProvenanceSettings,
    QueueSettings,
    SpoolSettings,
    UrlSettings,
)
from md5s3stash_daemon.disk.filesystem import filesystem_type, is_network
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.downloads.shared_politeness import politeness_of
from md5s3stash_daemon.downloads.url_lines import is_url_list
from md5s3stash_daemon.intake.files import worker
from md5s3stash_daemon.intake.files.dependencies import Dependencies, dependencies_of, set_log_level
from md5s3stash_daemon.intake.files.fork_server import ForkServer
from md5s3stash_daemon.intake.files.main_loop import MainLoop
from md5s3stash_daemon.intake.files.supervisor import WorkerSupervisor
from md5s3stash_daemon.intake.lists.scheduler import ListScheduler, url_stashers
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.monitoring.counters import CountedLedger
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.monitoring.systemd import Reporter, reporting
from md5s3stash_daemon.power_cut.boot_record import BootRecord, this_boot
from md5s3stash_daemon.power_cut.power_cut import hold_damaged
from md5s3stash_daemon.power_cut.sync import Backlog, SpoolSync
from md5s3stash_daemon.runtime.circuit_breaker import REDIS, AllFaults, CircuitBreaker
from md5s3stash_daemon.runtime.liveness import LOOP, Liveness
from md5s3stash_daemon.runtime.log_format import set_line_format
from md5s3stash_daemon.runtime.runtime import LiveSettings, Runtime
from md5s3stash_daemon.runtime.shutdown import Shutdown
from md5s3stash_daemon.runtime.signals import handled
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.ownership import identity
from md5s3stash_daemon.spool.spool import Spool

if TYPE_CHECKING:
    from redis import Redis

    from md5s3stash_daemon.deliveries.build import Deliveries
    from md5s3stash_daemon.intake.sqs.consumer import Consumer
    from md5s3stash_daemon.notices.channel import Channel

log = logging.getLogger(__name__)

# As in the systemd unit.
DESCRIPTORS = 16_384

# Every record also checks that Redis keeps its writes. This check is for times without records.
REDIS_CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """The parts of the daemon."""

    runtime: Runtime
    spool: Spool
    main_loop: MainLoop
    workers: WorkerSupervisor
    lists: ListScheduler
    queue: Consumer | None
    metrics: Metrics
    health: Health
    deliveries: Deliveries | None = None
    notices: Sequence[Channel] = ()

    def apply(self, settings: Settings) -> None:
        """Applies these settings, as far as they are `reload.LIVE`."""
        self.runtime.live.current = settings
        self.workers.apply(settings)
        self.main_loop.wake()
        set_log_level(settings)


def run(arguments: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT; returns the exit status. Raises StashError."""

    def read() -> Settings:
        return read_settings(os.environ, arguments.config, {"log.level": arguments.loglevel})

    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    try:
        settings = read()
        if arguments.check_config:
            console.write(as_toml(settings), end="")
            return 0
        set_log_level(settings)
        set_line_format(os.environ, sys.stderr.fileno())
        _allow_descriptors()
        daemon = build(settings)
    except OSError as error:
        raise StashError(f"the spool cannot be used: {error}") from error
    try:
        if not _run(daemon, settings, arguments.config, read, notifier):
            # Threads that hang, or wait for a main thread that is gone, would block the end of the interpreter for
            # ever. Their files are still claimed, and the next start finds them.
            console.exit_now(0)
    except StashError:
        raise
    except OSError as error:
        raise StashError(f"the spool cannot be used any more: {error}") from error
    except Exception:
        log.exception("unexpected")
        console.exit_now(1)
    return 0


def _allow_descriptors() -> None:
    """Raises the limit of descriptors: claimed files are open, and a shell's soft limit of 1,024 is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _run(
    daemon: Daemon, settings: Settings, config: Path | None, read: Callable[[], Settings], notifier: Notifier
) -> bool:
    """Runs the daemon; False if work was unfinished at the end."""

    def stop() -> None:
        notifier.stopping()
        daemon.main_loop.stop()

    def ready() -> None:
        notifier.ready()
        # Not earlier: a reload ends with READY, too.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    actions: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: Reload(settings, read, daemon.apply, notifier),
    }
    reporter = Reporter(notifier, daemon.health, watchdog_seconds(os.environ, os.getpid()))
    spawn(
        "redis",
        lambda: daemon.runtime.breaker.watch(REDIS, REDIS_CHECK_SECONDS, daemon.runtime.stopping),
        daemon.runtime.liveness,
    )
    if (index := settings[ProvenanceSettings].index) is not None:
        _collect_provenance(daemon, index, config)
    if settings[FixitySettings].period_days:
        _check_fixity(daemon, settings[FixitySettings].period_days, config)
    with _serving(settings, daemon), handled(actions, daemon.runtime.liveness), reporting(reporter):
        if daemon.queue is not None:
            daemon.queue.start()
        if daemon.deliveries is not None:
            daemon.deliveries.follower.start()
        for channel in daemon.notices:
            channel.start()
        with _outliving_power_cuts(daemon):
            complete = daemon.main_loop.run(ready)
            # Lists and the queue stop at the same time as the files, so this waits for the rest of the same deadline.
            drained = daemon.queue is None or daemon.queue.finish()
            return daemon.lists.finish() and complete and drained


def _collect_provenance(daemon: Daemon, index: Path, config: Path | None) -> None:
    # Late: SQLite is only needed with an index.
    from md5s3stash_daemon.provenance.index import age_seconds
    from md5s3stash_daemon.provenance.process import keep_collecting

    daemon.metrics.watch_provenance(lambda: age_seconds(index))
    runtime, box = daemon.runtime, identity(daemon.spool.directory)
    spawn("provenance", lambda: keep_collecting(config, box, runtime.stopping), runtime.liveness)


def _check_fixity(daemon: Daemon, period_days: float, config: Path | None) -> None:
    # Late: only needed with a period.
    from md5s3stash_daemon.fixity.process import keep_checking
    from md5s3stash_daemon.fixity.summary import summary_of

    runtime, directory = daemon.runtime, daemon.spool.directory
    daemon.metrics.watch_fixity(lambda: summary_of(directory, period_days).numbers())
    spawn("fixity", lambda: keep_checking(config, runtime.stopping), runtime.liveness)


def _serving(settings: Settings, daemon: Daemon) -> contextlib.AbstractContextManager[object]:
    if settings[HttpSettings].port == 0:
        return contextlib.nullcontext()
    # Late, as the queue's modules below: importing it is a tenth of the start.
    from md5s3stash_daemon.web.page import StatusPage
    from md5s3stash_daemon.web.server import serving

    page = StatusPage(settings, daemon.health, daemon.metrics)
    return serving(settings[HttpSettings], daemon.health, daemon.metrics, page)


@contextlib.contextmanager
def _outliving_power_cuts(daemon: Daemon) -> Iterator[None]:
    """Checks for damage by a power cut, then syncs the spool while files wait. Not on a network file system: its server
    has the written data, and does not boot with this machine.
    """
    spool = daemon.spool
    if is_network(filesystem_type(str(spool.directory))):
        yield
        return
    record = BootRecord(spool.directory)
    hold_damaged(spool, record, this_boot(os.environ), lambda: daemon.runtime.liveness.beat(LOOP))
    backlog = Backlog(daemon.main_loop.pass_seconds, daemon.workers.oldest, daemon.workers.faults)
    sync = SpoolSync(spool, record, backlog, daemon.runtime.liveness)
    sync.start()
    yield
    sync.finish()


def build(settings: Settings) -> Daemon:
    """Builds the daemon; makes and locks its spool. Raises SettingsError, SpoolClosed, SpoolTaken or OSError."""
    dependencies = dependencies_of(settings)
    # First: before any connection or thread.
    fork_server = ForkServer(functools.partial(worker.work, dependencies))
    prefix, of_urls = settings[RedisSettings].prefix, settings[UrlSettings]
    live, metrics = LiveSettings(settings), Metrics()
    client = dependencies.redis_client()
    redis_ledger = dependencies.ledger(client)
    ledger = CountedLedger(redis_ledger, metrics)
    metrics.watch_redis(redis_ledger.risks)
    runtime = Runtime(
        CircuitBreaker(dependencies.probes(ledger), lambda: probe_delays_of(live.current[SpoolSettings])),
        Liveness(),
        Shutdown(lambda: live.current[SpoolSettings].stop_seconds),
        metrics,
        live,
    )
    # No dropped URL may make this machine read its own network.

    guard = NetGuard(tuple(map(ip_network, of_urls.allowed_networks)))
    fetcher = Fetcher(dependencies.fetch_limits, guard, retry=NO_RETRY, rules=origin_rules(settings[FetchSettings]))
    caches = UrlCaches(client, prefix, dependencies.bases)
    stashers = url_stashers(dependencies.bases, dependencies.store, fetcher, caches, of_urls.images_only)
    politeness = politeness_of(of_urls.per_host, of_urls.host_delay_seconds, of_urls.shared, client, prefix)
    lists = ListScheduler(runtime, dependencies.spool, ledger, stashers, caches, politeness)
    workers = WorkerSupervisor(runtime, fork_server, dependencies.processes, dependencies.spool, ledger, metrics)
    queue = None
    if settings[QueueSettings].url is not None:
        from md5s3stash_daemon.intake.sqs.build import build_queue_intake

        queue = build_queue_intake(settings, lists.pool, client, dependencies.session, dependencies.store, metrics)
    metrics.watch_store(dependencies.store.weaker_promises)
    if unsealed := missing():
        log.warning("look_not_sealed missing=%r", ", ".join(unsealed))
    metrics.watch_look(unsealed)
    deliveries = _deliveries(runtime, dependencies, client)
    notices = _notices(settings, runtime, dependencies, metrics)
    take_list, with_listed = lists.take, {}
    if deliveries is not None:
        metrics.watch_words(lambda: [deliveries.follower.fault])
        take_list = functools.partial(_take_list, lists, deliveries)
        with_listed = {"with_listed": deliveries.intake.with_listed}
    main_loop = MainLoop(runtime, dependencies.spool, workers, take_list, ledger, **with_listed)
    metrics.watch_waiting(main_loop.waiting.counts)
    waited_for = AllFaults(workers, lists.pool.disk, main_loop.disk, *([queue] if queue is not None else []))
    metrics.watch_spool(dependencies.spool, waited_for)
    health = Health(
        runtime.liveness, waited_for, metrics, lambda: live.current[SpoolSettings].stuck_seconds, main_loop.waiting
    )
    return Daemon(runtime, dependencies.spool, main_loop, workers, lists, queue, metrics, health, deliveries, notices)


def _notices(settings: Settings, runtime: Runtime, dependencies: Dependencies, metrics: Metrics) -> Sequence[Channel]:
    from md5s3stash_daemon.notices.build import build_channels

    channels = build_channels(settings, runtime, dependencies.session)
    if channels:
        metrics.watch_notices(lambda: [channel.notices() for channel in channels])
    return channels


def _take_list(lists: ListScheduler, deliveries: Deliveries, entry: Entry) -> bool:
    return is_url_list(entry.name) and not deliveries.intake.keeps(entry) and lists.take(entry)


def _deliveries(runtime: Runtime, dependencies: Dependencies, client: Redis) -> Deliveries | None:
    if runtime.live.current[DeliverySettings].still_seconds == 0:
        return None
    from md5s3stash_daemon.deliveries.build import build_deliveries

    reader = LedgerReader(client, dependencies.settings[RedisSettings].prefix)
    return build_deliveries(runtime, dependencies.spool, reader, dependencies.store, dependencies.bases)
