"""The metrics for Prometheus. Events are counted as they happen, the files in the spool at a scrape."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from md5s3stash.settings import RISKS
from md5s3stash.version import build_info
from md5s3stash_daemon.monitoring.counters import OUTCOMES, Counters, Counts
from md5s3stash_daemon.monitoring.undelivered import Notices, metrics_of
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

FIXITY_COUNTERS = {
    "read_objects": "Objects that the standing check has read",
    "read_bytes": "Bytes that the standing check has read",
    "requests": "Requests that the standing check has sent",
}
FIXITY_GAUGES = {
    "objects": "Objects in the buckets, as far as the standing check knows",
    "in_period_objects": "Of these, objects that were read within the period",
    "oldest_seconds": "Age of the oldest check of an object",
    "period_seconds": "The period of the standing check",
    "paused": "1 while the standing check waits for S3",
}

# Counting stops at this number of files: the exact number would make no difference to an operator.
MAX_COUNTED = 100_000

# A count is kept for this long at least, and for this many times as long as it took: otherwise a large spool would be
# read from disk all the time.
COUNT_SECONDS = 15.0
_REST_FACTOR = 20.0


class Metrics(Counters):
    """Counts of this process and of others (`add`), in the format of Prometheus; thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._total = Counts()
        self._queue_events: Counter[str] = Counter()
        self._queue_held: Callable[[], int] = lambda: 0
        self._weaker: set[str] = set()
        self._weaker_here: Callable[[], list[str]] = list
        self._unsealed = ""
        self._words: list[Callable[[], Iterable[str]]] = []
        # Our own registry: any library may add metrics to the global one.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("md5s3stash_build", "Version and build", registry=self._registry).info(build_info())
        self._latency = Histogram(
            "md5s3stash_latency_seconds",
            "Time from claim to record, for stashed files",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Collected(self._collect))

    def watch_spool(self, spool: Spool, waited_for: HasFaults) -> None:
        """Adds the metrics of the spool and of paused services. Call it once."""
        queue = QueueDepth(spool)
        self._registry.register(_Collected(lambda: _paused(waited_for)))
        self._registry.register(_Collected(lambda: itertools.chain(queue.metrics(), _free_disk(spool))))

    def add(self, counts: Counts) -> None:
        """Adds the counts of another process."""
        with self._lock:
            self._total.outcomes.update(counts.outcomes)
            self._total.errors.update(counts.errors)
            self._total.size_bytes += counts.size_bytes
        for seconds in counts.latencies:
            self._latency.observe(seconds)

    def watch_redis(self, risks: Callable[[], Collection[str]]) -> None:
        """Adds the metric of the ways in which Redis may lose records. Call it once."""
        self._registry.register(_Collected(lambda: _risks(risks())))

    def watch_provenance(self, age_seconds: Callable[[], float]) -> None:
        """Adds the metric of how long the index of provenance lags behind. Call it once."""
        self._registry.register(
            _Collected(
                lambda: iter(
                    [
                        GaugeMetricFamily(
                            "md5s3stash_provenance_age_seconds",
                            "Time since the index of provenance and its snapshots were complete",
                            value=age_seconds(),
                        )
                    ]
                )
            )
        )

    def watch_fixity(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        """Adds the metrics of the standing check. Call it once."""
        self._registry.register(_Collected(lambda: _fixity(numbers())))

    def weaker(self, promises: Iterable[str]) -> None:
        """Adds guards that another process has found missing in the stores."""
        with self._lock:
            self._weaker.update(promises)

    def watch_store(self, weaker: Callable[[], list[str]]) -> None:
        """Sets the function that returns the guards which this process finds missing."""
        self._weaker_here = weaker

    def weaker_promises(self) -> list[str]:
        """The guards that the stores lack, in words."""
        with self._lock:
            return sorted(self._weaker | set(self._weaker_here()))

    def watch_look(self, missing: Collection[str]) -> None:
        """Adds the metric of what the kernel or the unit lacks to seal the look at contents. Call it once."""
        self._unsealed = ", ".join(missing)
        words = "Whether this kernel has all that seals the look at contents"
        Gauge("md5s3stash_look_sealed", words, registry=self._registry).set(not missing)

    def notices(self) -> list[str]:
        """Which promises are weaker than usual, and what else an operator should know, in words."""
        sealed = f"the process that finds MIME types is not sealed: the kernel or the unit lacks {self._unsealed}"
        others = [words for watched in self._words for words in watched() if words]
        return [*self.weaker_promises(), *([sealed] if self._unsealed else []), *others]

    def watch_words(self, words: Callable[[], Iterable[str]]) -> None:
        """Adds a function that returns more of `notices`. Empty ones are left out."""
        self._words.append(words)

    def watch_notices(self, channels: Callable[[], Sequence[Notices]]) -> None:
        """Adds the metrics of notices. Call it once."""
        self.watch_words(lambda: [each.words() for each in channels()])
        self._registry.register(_Collected(lambda: metrics_of(channels())))

    def watch_waiting(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Adds the metric of files in incoming/ that are not claimed, by reason. Call it once."""
        self._registry.register(_Collected(lambda: _waiting(counts())))

    def watch_queue(self, held: Callable[[], int]) -> None:
        """Sets the function that returns the number of messages in progress."""
        self._queue_held = held

    def queue_event(self, event: str, messages: int = 1) -> None:
        """Counts an event of `QUEUE_EVENTS` for a number of messages."""
        with self._lock:
            self._queue_events[event] += messages

    def counts(self) -> Counter[str]:
        """The number of each outcome since the start."""
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
        by_outcome = CounterMetricFamily("md5s3stash_outcomes", "Files by outcome", labels=["outcome"])
        for outcome in OUTCOMES:
            by_outcome.add_metric([outcome], outcomes[outcome])
        yield by_outcome
        yield CounterMetricFamily("md5s3stash_stashed_bytes", "Total size of stashed files", value=size)
        by_service = CounterMetricFamily(
            "md5s3stash_service_errors", "Failed requests to S3, Redis or SQS", labels=["service"]
        )
        for service in (*SERVICES, QUEUE):
            by_service.add_metric([service], errors[service])
        yield by_service
        by_event = CounterMetricFamily("md5s3stash_queue_messages", "SQS messages by event", labels=["event"])
        for event in QUEUE_EVENTS:
            by_event.add_metric([event], queue_events[event])
        yield by_event
        yield GaugeMetricFamily(
            "md5s3stash_store_guards_missing", "Guards that the stores lack", value=len(self.weaker_promises())
        )
        yield GaugeMetricFamily("md5s3stash_queue_held", "SQS messages in progress", value=self._queue_held())


@dataclass(frozen=True, slots=True)
class StateDepth:
    """Number of files in one state, at most MAX_COUNTED, and when the oldest came there (seconds since the epoch)."""

    files: int
    oldest: float | None


class QueueDepth:
    """Counts the files in each state. A count is kept for a while; during a new one, the old one is returned."""

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
        # Never wait for a running count: if the file system hangs, every scrape would hang too.
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
        """Number of files in hold/ that a power cut may have damaged, from the last count."""
        return self._damaged

    def metrics(self) -> Iterator[Metric]:
        files = GaugeMetricFamily(
            "md5s3stash_spool_files", f"Files in each state; counting stops at {self._max_counted}", labels=["state"]
        )
        age = GaugeMetricFamily(
            "md5s3stash_spool_oldest_seconds", "Time since the oldest file came to its state", labels=["state"]
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
    """When each file below arrived there: its ctime, which a rename sets. Its mtime may be years old, if a copy kept
    that of the original. A folder that we may not read counts as one file.
    """
    folders = [folder]
    while folders:
        folder = folders.pop()
        # Files that disappear during the walk do not count.
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
                        # A report counts only if its file was removed: a link, for example.
                        elif not item.name.endswith(ERROR_SUFFIX) or not os.path.lexists(
                            item.path[: -len(ERROR_SUFFIX)]
                        ):
                            yield item.stat(follow_symlinks=False).st_ctime


def _paused(waited_for: HasFaults) -> Iterator[Metric]:
    faults = waited_for.faults()
    paused = GaugeMetricFamily("md5s3stash_paused", "1 while work waits for this service", labels=["service"])
    for service in (*SERVICES, SPOOL, DOWNLOADS, QUEUE):
        paused.add_metric([service], float(service in faults))
    yield paused


def _risks(found: Collection[str]) -> Iterator[Metric]:
    risks = GaugeMetricFamily(
        "md5s3stash_redis_risk", "1 if Redis may lose records in this way, accepted or not", labels=["risk"]
    )
    for risk in RISKS:
        risks.add_metric([risk], float(risk in found))
    yield risks


def _fixity(numbers: Mapping[str, float]) -> Iterator[Metric]:
    for key, words in FIXITY_COUNTERS.items():
        yield CounterMetricFamily(f"md5s3stash_fixity_{key}", words, value=numbers[key])
    wrong = GaugeMetricFamily(
        "md5s3stash_fixity_wrong", "Objects that are not what their key says, not readable, or missing", labels=["kind"]
    )
    for kind in ("wrong-bytes", "unreadable", "not-stored"):
        wrong.add_metric([kind], numbers[kind])
    yield wrong
    for key, words in FIXITY_GAUGES.items():
        yield GaugeMetricFamily(f"md5s3stash_fixity_{key}", words, value=numbers[key])


def _waiting(counts: Mapping[str, int]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "md5s3stash_spool_waiting", "Files that the last pass could not claim", labels=["reason"]
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
        # Called at registration. Without it the registry would call collect(), which walks the spool.

        return []
