"""Monitoring of URL lists: outcomes, and threads that hang; and a reload affects running lists."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.daemon.test_metrics import metrics_of
from tests.daemon.test_s3_faults import reasons
from tests.support.daemon import Daemon, Site
from tests.support.origin import Origin, Reply
from tests.support.servers import free_port, wait_until
from tests.support.url_lists import OPEN, drop_list, report_path, wait_for_report

# As if the file system hung.
HANGING = (
    "-c",
    "import sys, threading; from md5s3stash_daemon import main; "
    "from md5s3stash_daemon.intake.lists import list_run; "
    "list_run.read_lines = lambda file, **_: threading.Event().wait(); sys.exit(main.main([]))",
)


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def test_a_list_that_hangs_is_told(site: Site) -> None:
    port = free_port()
    environment = {**OPEN, "MD5S3STASH_HTTP_PORT": str(port), "MD5S3STASH_SPOOL_STUCK_SECONDS": "0.5"}
    with Daemon(site, environment, HANGING) as daemon:
        daemon.wait_until_started()
        drop_list(site, "x.urls", ["http://127.0.0.1/"])

        wait_until(
            lambda: any(reason.startswith("stuck: no progress in the list-0 ") for reason in reasons(port)), "told"
        )


def test_a_list_that_is_polite_for_long_does_not_hang(site: Site) -> None:
    port, seen = free_port(), set[str]()
    environment = {**OPEN, "MD5S3STASH_HTTP_PORT": str(port), "MD5S3STASH_SPOOL_STUCK_SECONDS": "2"}
    with Origin() as origin, Daemon(site, {**environment, "MD5S3STASH_URLS_HOST_DELAY_SECONDS": "1.5"}) as daemon:
        daemon.wait_until_started()
        drop_list(site, "x.urls", [origin.answer(f"/{number}", Reply(body=b"x")) for number in range(4)])

        def finished() -> bool:
            seen.update(reasons(port))
            return report_path(site, "x.urls").exists()

        wait_until(finished, "finished, four seconds later")
    assert not [reason for reason in seen if "list" in reason]


def test_lines_that_are_put_off_are_counted_each_time(site: Site) -> None:
    port = free_port()
    with Origin() as origin, Daemon(site, {**OPEN, "MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        late = origin.answer("/late", Reply(503), Reply(503), Reply(body=b"x"))
        drop_list(site, "x.urls", [late, origin.url("/missing")])
        wait_for_report(site, "x.urls")
        told = metrics_of(port)
    names = ("stashed", "deferred", "failed")
    outcomes = {name: told[f'md5s3stash_outcomes_total{{outcome="{name}"}}'] for name in names}
    assert outcomes == {"stashed": 1, "deferred": 2, "failed": 1}


def test_new_delays_reach_lists_with_a_reload(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[spool]\nfirst_delay_seconds = 3600\n")
    environment = {**OPEN, "MD5S3STASH_SPOOL_FIRST_DELAY_SECONDS": "", "MD5S3STASH_SPOOL_MAX_DELAY_SECONDS": "3600"}
    command = ("-m", "md5s3stash_daemon", "--config", str(config))
    with Origin() as origin, Daemon(site, environment, command) as daemon:
        daemon.wait_until_started()
        config.write_text("[spool]\nfirst_delay_seconds = 0.1\n")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings reloaded" in daemon.output(), "reloaded")
        drop_list(site, "x.urls", [origin.answer("/x", Reply(503), Reply(body=b"x"))])

        [row] = wait_for_report(site, "x.urls")
    assert row["outcome"] == "stashed"
