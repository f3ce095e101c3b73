"""What Prometheus is told. Counts are made as things happen; what lies in the spool is counted when somebody asks."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from md5s3stash.settings import RISKS
from md5s3stash.version import build_info
from md5s3stash_daemon.monitoring.counters import OUTCOMES, Counters, Counts
from md5s3stash_daemon.power_cut.power_cut import damaged
from md5s3stash_daemon.runtime.circuit_breaker import HasFaults
from md5s3stash_daemon.runtime.disk_space import DOWNLOADS, SPOOL
from md5s3stash_daemon.spool.entry import INCOMING, STATES
from md5s3stash_daemon.spool.reports import ERROR_SUFFIX
from md5s3stash_daemon.spool.spool import Spool

SERVICES = ("s3", "redis")
QUEUE = "sqs"
QUEUE_EVENTS = ("received", "deleted", "given_back", "unreadable")

# Small files take milliseconds, a group commit waits for an fsync, and a file of many gigabytes takes an hour.
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

# Beyond this a state is counted as full: the exact number would not change what anybody does.
MAX_COUNTED = 100_000

# A count is good for this long at least, and for so many times what it took: a large queue must not cost a scrape
# interval of disk reads, over and over.
COUNT_SECONDS = 15.0
_REST_FACTOR = 20.0


class Metrics(Counters):
    """What was counted here and by others (`add`), as Prometheus wants it; safe to share between threads."""

    def __init__(self) -> None:
        super().__init__()
        self._total = Counts()
        self._queue_events: Counter[str] = Counter()
        self._queue_held: Callable[[], int] = lambda: 0
        self._weaker: set[str] = set()
        self._weaker_here: Callable[[], list[str]] = list
        # A registry of our own: the global one would take what any library puts there.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("md5s3stash_build", "What runs", registry=self._registry).info(build_info())
        self._latency = Histogram(
            "md5s3stash_latency_seconds",
            "From claim to record, for files that were stashed",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Collected(self._collect))

    def watch_spool(self, spool: Spool, waited_for: HasFaults) -> None:
        """Adds what is read from them at each scrape. Once."""
        queue = QueueDepth(spool)
        self._registry.register(_Collected(lambda: _paused(waited_for)))
        self._registry.register(_Collected(lambda: itertools.chain(queue.metrics(), _free_disk(spool))))

    def add(self, counts: Counts) -> None:
        """What somebody else has counted."""
        with self._lock:
            self._total.outcomes.update(counts.outcomes)
            self._total.errors.update(counts.errors)
            self._total.size_bytes += counts.size_bytes
        for seconds in counts.latencies:
            self._latency.observe(seconds)

    def watch_redis(self, risks: Callable[[], Collection[str]]) -> None:
        """Adds at each scrape the ways in which Redis may lose records. Once."""
        self._registry.register(_Collected(lambda: _risks(risks())))

    def weaker(self, promises: Iterable[str]) -> None:
        """What somebody else has found that the stores lack."""
        with self._lock:
            self._weaker.update(promises)

    def watch_store(self, weaker: Callable[[], list[str]]) -> None:
        """What this process finds that the stores lack."""
        self._weaker_here = weaker

    def weaker_promises(self) -> list[str]:
        """Which guards the stores lack, in words."""
        with self._lock:
            return sorted(self._weaker | set(self._weaker_here()))

    def watch_waiting(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Adds at each scrape what lies in incoming/ and is not taken, by reason. Once."""
        self._registry.register(_Collected(lambda: _waiting(counts())))

    def watch_queue(self, held: Callable[[], int]) -> None:
        """Tells at each scrape how many messages are in hand."""
        self._queue_held = held

    def queue_event(self, event: str, messages: int = 1) -> None:
        """One of `QUEUE_EVENTS` happened to messages of the queue."""
        with self._lock:
            self._queue_events[event] += messages

    def counts(self) -> Counter[str]:
        """How often each outcome was, since the start."""
        self.add(self.take())
        with self._lock:
            return self._total.outcomes.copy()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        self.add(self.take())
        return generate_latest(self._registry)

    def _collect(self) -> Iterator[Metric]:
        with self._lock:
            outcomes, errors = self._total.outcomes.copy(), self._total.errors.copy()
            size = self._total.size_bytes
            queue_events = self._queue_events.copy()
        by_outcome = CounterMetricFamily("md5s3stash_outcomes", "What became of the files", labels=["outcome"])
        for outcome in OUTCOMES:
            by_outcome.add_metric([outcome], outcomes[outcome])
        yield by_outcome
        yield CounterMetricFamily("md5s3stash_stashed_bytes", "Size of the files that were stashed", value=size)
        by_service = CounterMetricFamily(
            "md5s3stash_service_errors", "Requests that S3, Redis or SQS did not answer", labels=["service"]
        )
        for service in (*SERVICES, QUEUE):
            by_service.add_metric([service], errors[service])
        yield by_service
        by_event = CounterMetricFamily("md5s3stash_queue_messages", "Messages of the queue", labels=["event"])
        for event in QUEUE_EVENTS:
            by_event.add_metric([event], queue_events[event])
        yield by_event
        yield GaugeMetricFamily(
            "md5s3stash_store_guards_missing", "Guards that the stores lack", value=len(self.weaker_promises())
        )
        yield GaugeMetricFamily("md5s3stash_queue_held", "Messages of the queue in hand", value=self._queue_held())


@dataclass(frozen=True, slots=True)
class StateDepth:
    """Files of one state, at most MAX_COUNTED, and since when the oldest of them is there (seconds since the epoch)."""

    files: int
    oldest: float | None


class QueueDepth:
    """How many files lie in each state. The count is kept for a while; while it is made anew, the old one is told."""

    def __init__(
        self,
        spool: Spool,
        max_counted: int = MAX_COUNTED,
        count_seconds: float = COUNT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._max_counted = max_counted
        self._count_seconds = count_seconds
        self._clock = clock
        self._counting = threading.Lock()
        self._good_until = 0.0
        self._depths: dict[str, StateDepth] = {}
        self._damaged = 0

    def depths(self) -> dict[str, StateDepth]:
        """By state; empty before the first count is done."""
        # Never waited for: on a file system that hangs, every scrape would hang with it.
        if self._clock() >= self._good_until and self._counting.acquire(blocking=False):
            try:
                begun = self._clock()
                self._depths = {state: self._count(state) for state in STATES}
                with contextlib.suppress(OSError):
                    self._damaged = sum(1 for _ in itertools.islice(damaged(self._spool), self._max_counted))
                ended = self._clock()
                self._good_until = ended + max(self._count_seconds, _REST_FACTOR * (ended - begun))
            finally:
                self._counting.release()
        return self._depths

    def damaged(self) -> int:
        """How many files of hold/ a power cut may have damaged, as of the last count."""
        return self._damaged

    def metrics(self) -> Iterator[Metric]:
        files = GaugeMetricFamily(
            "md5s3stash_spool_files", f"Files in each state; {self._max_counted} stands for more", labels=["state"]
        )
        age = GaugeMetricFamily(
            "md5s3stash_spool_oldest_seconds", "How long the oldest file has been in its state", labels=["state"]
        )
        now = time.time()
        for state, depth in self.depths().items():
            files.add_metric([state], depth.files)
            age.add_metric([state], 0.0 if depth.oldest is None else max(0.0, now - depth.oldest))
        yield files
        yield age
        yield GaugeMetricFamily(
            "md5s3stash_spool_damaged_files", "Files in hold/ that a power cut may have damaged", value=self._damaged
        )

    def _count(self, state: str) -> StateDepth:
        count = 0
        oldest: float | None = None
        ignored = self._spool.is_ignored if state == INCOMING else lambda name: False
        for since in itertools.islice(_arrivals(self._spool.path_of(state), ignored), self._max_counted):
            count += 1
            oldest = since if oldest is None else min(oldest, since)
        return StateDepth(count, oldest)


def _arrivals(folder: str, is_ignored: Callable[[str], bool]) -> Iterator[float]:
    """When each file below came to stand there. That is its ctime, which a rename sets: a copy with its time stamps
    kept has the mtime of its original, which may be years. A folder that may not be read counts as one file.
    """
    folders = [folder]
    while folders:
        folder = folders.pop()
        # What vanishes meanwhile is not there.
        with contextlib.suppress(OSError):
            try:
                found = os.scandir(folder)
            except PermissionError:
                yield os.lstat(folder).st_ctime
                continue
            with found:
                for item in found:
                    with contextlib.suppress(OSError):
                        if is_ignored(item.name):
                            continue
                        if item.is_dir(follow_symlinks=False):
                            folders.append(item.path)
                        # Of what was no file, a link say, only the report is left.
                        elif not item.name.endswith(ERROR_SUFFIX) or not os.path.lexists(
                            item.path[: -len(ERROR_SUFFIX)]
                        ):
                            yield item.stat(follow_symlinks=False).st_ctime


def _paused(waited_for: HasFaults) -> Iterator[Metric]:
    faults = waited_for.faults()
    paused = GaugeMetricFamily("md5s3stash_paused", "1 while what needs this service waits for it", labels=["service"])
    for service in (*SERVICES, SPOOL, DOWNLOADS, QUEUE):
        paused.add_metric([service], float(service in faults))
    yield paused


def _risks(found: Collection[str]) -> Iterator[Metric]:
    risks = GaugeMetricFamily(
        "md5s3stash_redis_risk", "1 where Redis may lose records in this way, accepted or not", labels=["risk"]
    )
    for risk in RISKS:
        risks.add_metric([risk], float(risk in found))
    yield risks


def _waiting(counts: Mapping[str, int]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "md5s3stash_spool_waiting", "Files that the last pass has left where they are", labels=["reason"]
    )
    for reason, count in counts.items():
        waiting.add_metric([reason], count)
    yield waiting


def _free_disk(spool: Spool) -> Iterator[Metric]:
    with contextlib.suppress(OSError):
        yield GaugeMetricFamily(
            "md5s3stash_spool_free_bytes", "Free on the spool's disk", value=shutil.disk_usage(spool.directory).free
        )


class _Collected(Collector):
    """A function as a collector."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()

    def describe(self) -> list[Metric]:
        # Asked for at registration. Without it collect() would be called then, and walk the spool.
        return []
