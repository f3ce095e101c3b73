"""/metrics: the counts of a real daemon, and the cost of counting a large spool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from md5s3stash.errors import RedisUnavailable
from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.ledger import Outcome
from md5s3stash_daemon.monitoring.counters import CountedLedger, Counters
from md5s3stash_daemon.monitoring.metrics import Metrics, QueueDepth, StateDepth
from md5s3stash_daemon.spool.entry import STATES
from md5s3stash_daemon.spool.spool import Spool
from tests.support.daemon import Daemon, Site
from tests.support.servers import free_port, wait_until

REPORT = StashReport("x", "0" * 32, "s3://b/x", "text/plain", (0, 0))


def samples(text: str) -> dict[str, float]:
    """`name{label="value"}` -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def metrics_page(port: int) -> requests.Response:
    """The daemon's answer."""
    return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)


def metrics_of(port: int) -> dict[str, float]:
    """The samples of the page."""
    return samples(metrics_page(port).text)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    return spool


def test_a_daemon_counts_what_became_of_its_files(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    port = free_port()
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        for name, data in (("one", b"12345"), ("two", b"678"), ("again", b"12345")):
            site.drop(name, data)
            wait_until(lambda name=name: name in site.names(), "stashed")  # type: ignore[misc]
        os.symlink("/nowhere", site.incoming / "link")
        wait_until(lambda: site.files() == [] and len(site.log()) == 4, "all done")

        def counted() -> float:
            told = metrics_of(port)
            return sum(count for name, count in told.items() if name.startswith("md5s3stash_outcomes_total"))

        # A worker's metrics come with its next report.
        wait_until(lambda: counted() == 4, "all counted")
        page = metrics_page(port)

    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    told = samples(page.text)
    outcomes = {name: told[f'md5s3stash_outcomes_total{{outcome="{name}"}}'] for name in ("stashed", "already_there")}
    assert outcomes == {"stashed": 2, "already_there": 1}
    assert told['md5s3stash_outcomes_total{outcome="failed"}'] == 1
    assert told['md5s3stash_outcomes_total{outcome="deferred"}'] == 0
    assert told["md5s3stash_stashed_bytes_total{}"] == 13
    assert told["md5s3stash_latency_seconds_count{}"] == 3
    assert 0 < told["md5s3stash_latency_seconds_sum{}"] < 60
    assert told['md5s3stash_spool_files{state="failed"}'] == 1
    assert told['md5s3stash_spool_files{state="incoming"}'] == 0
    assert told['md5s3stash_paused{service="s3"}'] == 0
    assert told['md5s3stash_service_errors_total{service="redis"}'] == 0
    assert told["md5s3stash_spool_free_bytes{}"] > 0
    assert told["process_resident_memory_bytes{}"] > 0


def test_a_file_that_is_put_off_and_a_store_that_refuses_are_counted(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server, bucket="no-such-bucket-here")
    port = free_port()
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"x")

        wait_until(
            lambda: metrics_of(port)['md5s3stash_service_errors_total{service="s3"}'] >= 1, "the refusal counted"
        )
        wait_until(
            lambda: (
                metrics_of(port)['md5s3stash_outcomes_total{outcome="deferred"}'] >= 1
                or metrics_of(port)['md5s3stash_paused{service="s3"}'] == 1
            ),
            "put off, or waiting for its bucket",
        )


def test_depth_is_counted_by_state_without_the_reports_of_failures(spool: Spool) -> None:
    for path in ("incoming/a", "incoming/b/c", "failed/x", "failed/x.error.json", "hold/B.1/y"):
        target = spool.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    os.utime(spool.directory / "incoming" / "a", (0, 0))

    depths = QueueDepth(spool).depths()

    assert {state: depth.files for state, depth in depths.items()} == {
        "incoming": 2,
        "active": 0,
        "deferred": 0,
        "hold": 1,
        "failed": 1,
    }
    assert depths["active"] == StateDepth(0, None)
    expected = min(os.lstat(spool.directory / "incoming" / name).st_ctime for name in ("a", "b/c"))
    assert depths["incoming"].oldest == expected, "a kept time stamp does not count"


def test_a_count_is_bounded_and_kept_for_a_while(spool: Spool) -> None:
    now = [100.0]
    queue = QueueDepth(spool, max_counted=3, count_seconds=15.0, clock=lambda: now[0])
    incoming = spool.directory / "incoming"
    for number in range(5):
        (incoming / str(number)).touch()
    assert queue.depths()["incoming"].files == 3

    for number in range(1, 5):
        (incoming / str(number)).unlink()
    now[0] += 14.0
    assert queue.depths()["incoming"].files == 3, "kept"
    now[0] += 2.0
    assert queue.depths()["incoming"].files == 1, "made anew"


def test_a_slow_count_is_kept_longer(spool: Spool) -> None:
    ticks = iter([100.0, 100.0, 110.0, 299.0, 311.0, 311.0, 312.0])
    queue = QueueDepth(spool, clock=lambda: next(ticks))
    assert queue.depths()["incoming"].files == 0
    (spool.directory / "incoming" / "x").touch()

    assert queue.depths()["incoming"].files == 0, "a count that takes ten seconds is used for two hundred"
    assert queue.depths()["incoming"].files == 1


def test_a_spool_that_is_gone_does_not_break_the_page(spool: Spool) -> None:
    for state in STATES:
        (spool.directory / state).rmdir()

    assert {depth.files for depth in QueueDepth(spool).depths().values()} == {0}


class _DownLedger:
    """A ledger that refuses all records."""

    def record(self, outcomes: Sequence[Outcome]) -> None:
        raise RedisUnavailable("down")

    def forget(self, drop_ids: Sequence[str]) -> None: ...

    def remembered(self) -> list[str]:
        return []

    def probe(self) -> None: ...


def test_what_the_ledger_did_not_take_is_an_error_and_no_outcome() -> None:
    metrics = Metrics()
    ledger = CountedLedger(_DownLedger(), metrics)

    with pytest.raises(RedisUnavailable):
        ledger.record([Outcome("id", "x", (REPORT,), 5)])

    assert not metrics.counts()
    told = samples(metrics.exposition().decode())
    assert told['md5s3stash_service_errors_total{service="redis"}'] == 1
    assert told["md5s3stash_stashed_bytes_total{}"] == 0


def test_latency_runs_from_claim_to_record() -> None:
    now = [10.0]
    tally, metrics = Counters(clock=lambda: now[0]), Metrics()
    tally.claimed(["kept", "put off"])
    tally.claimed(["claimed before it was told"], at=9.0)
    tally.unclaimed(["put off"])
    now[0] = 12.5
    tally.recorded([Outcome(name, "x", (REPORT,), 5) for name in ("kept", "put off", "claimed before it was told")])
    metrics.add(tally.take())

    told = samples(metrics.exposition().decode())
    assert (told["md5s3stash_latency_seconds_count{}"], told["md5s3stash_latency_seconds_sum{}"]) == (2, 6.0)
