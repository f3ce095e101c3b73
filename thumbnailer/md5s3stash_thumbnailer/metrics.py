"""Metrics for Prometheus: counters of finished requests, and the state of the pool, the waiting requests and the cache
at each scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from md5s3stash.version import build_info
from md5s3stash_thumbnailer.cache.originals import Originals
from md5s3stash_thumbnailer.cache.pyramids import Pyramids
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES
from md5s3stash_thumbnailer.render.pipeline import Thumbnail
from md5s3stash_thumbnailer.stills.still import KINDS
from md5s3stash_thumbnailer.workers.contents import Contents
from md5s3stash_thumbnailer.workers.pool import REPLACEMENTS, RenderPool

_PREFIX = "md5s3stash_thumbnailer_"
# A 304 takes a millisecond, a cached small picture ten, a large TIFF from S3 seconds.
_LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Belongs to the event loop."""

    def __init__(
        self,
        originals: Originals,
        pyramids: Pyramids,
        pool: RenderPool,
        contents: Contents,
        waiting_turns: Callable[[], int],
    ) -> None:
        """`waiting_turns` counts the requests that wait before the pool, which does not count them."""
        self._originals = originals
        self._pyramids = pyramids
        self._pool = pool
        self._contents = contents
        self._waiting_turns = waiting_turns
        # A registry of our own: any library may register metrics in the global one.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info(f"{_PREFIX}build", "What runs", registry=self._registry).info(build_info())
        self._requests = Counter(
            f"{_PREFIX}requests", "Thumbnails asked for, by status", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            f"{_PREFIX}seconds", "From request to answer", buckets=_LATENCY_BUCKETS, registry=self._registry
        )
        self._iiif_requests = Counter(
            f"{_PREFIX}iiif_requests",
            "Requests of IIIF, by kind and status",
            ["kind", "status"],
            registry=self._registry,
        )
        self._iiif_seconds = Histogram(
            f"{_PREFIX}iiif_seconds",
            "From request to answer",
            ["kind"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._kinds = Counter(
            f"{_PREFIX}kinds_drawn",
            "Originals that are no pictures and that a worker has drawn, by kind",
            ["kind"],
            registry=self._registry,
        )
        self._auto_answers = self._by_type(
            "auto_format_answers", "Thumbnails for clients that accept several formats, by the one that was smallest"
        )
        self._auto_saved = self._by_type(
            "auto_format_saved_bytes", "Bytes by which these are smaller than in the usual format"
        )
        self._auto_seconds = self._by_type(
            "auto_format_cpu_seconds", "CPU of the encoders for these clients, also of formats that were not sent"
        )
        self._s3_errors = Counter(
            f"{_PREFIX}s3_errors", "Originals that S3 did not give", ["error"], registry=self._registry
        )
        self._registry.register(_State(self._state))

    def _by_type(self, name: str, documentation: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", documentation, ["type"], registry=self._registry)

    def answered(self, status: int, seconds: float) -> None:
        """A request for a thumbnail ended."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def iiif_answered(self, kind: str, status: int, seconds: float) -> None:
        """A request of IIIF ended."""
        self._iiif_requests.labels(kind, str(status)).inc()
        self._iiif_seconds.labels(kind).observe(seconds)

    def drawn(self, picture: Thumbnail) -> None:
        """A worker has drawn it."""
        kind = "icon" if picture.icon else picture.kind
        if kind:
            self._kinds.labels(kind).inc()
        if picture.encoder_costs:
            self._auto_answers.labels(picture.mime_type).inc()
            self._auto_saved.labels(picture.mime_type).inc(picture.saved_bytes)
        for name, microseconds in picture.encoder_costs:
            self._auto_seconds.labels(MIME_TYPES[name]).inc(microseconds / 1e6)

    def s3_failed(self, error: BaseException) -> None:
        """An original could not be fetched."""
        self._s3_errors.labels(type(error).__name__).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _state(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            f"{_PREFIX}waiting", "Requests that wait for an original or a worker", labels=["stage"]
        )
        waiting.add_metric(["original"], self._originals.waiting)
        waiting.add_metric(["pyramid"], self._pyramids.waiting)
        stills = self._originals.stills
        if stills is not None:
            waiting.add_metric(["still"], stills.waiting)
        waiting.add_metric(["worker"], self._pool.waiting + self._contents.waiting + self._waiting_turns())
        yield waiting
        yield GaugeMetricFamily(f"{_PREFIX}workers_busy", "Workers that render", value=self._pool.busy)
        sealed = "Whether this kernel has all that seals workers"
        yield GaugeMetricFamily(f"{_PREFIX}workers_sealed", sealed, value=not self._pool.unsealed)
        replaced = CounterMetricFamily(f"{_PREFIX}workers_replaced", "Workers that were lost", labels=["reason"])
        for reason in REPLACEMENTS:
            replaced.add_metric([reason], self._pool.replacements[reason])
        yield replaced
        counts = self._originals.cache.counts
        lookups = CounterMetricFamily(f"{_PREFIX}cache_lookups", "Originals looked for", labels=["result"])
        lookups.add_metric(["hit"], counts.hits)
        lookups.add_metric(["miss"], counts.misses)
        lookups.add_metric(["reduced"], counts.reduced)
        lookups.add_metric(["pyramid"], counts.pyramids)
        yield lookups
        yield CounterMetricFamily(f"{_PREFIX}pyramids_made", "Pyramids of originals", value=self._pyramids.count)
        made = CounterMetricFamily(f"{_PREFIX}stills_made", "Stills of videos and sounds, by kind", labels=["kind"])
        for kind in KINDS:
            made.add_metric([kind], stills.made[kind] if stills else 0)
        yield made
        yield CounterMetricFamily(f"{_PREFIX}cache_evictions", "Originals removed for others", value=counts.evictions)
        yield CounterMetricFamily(f"{_PREFIX}cache_faults", "Times the disk refused", value=counts.faults)
        yield GaugeMetricFamily(
            f"{_PREFIX}cache_bytes", "Size at the last count, plus what was added", value=counts.bytes
        )


class _State(Collector):
    """A function as a collector."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()
