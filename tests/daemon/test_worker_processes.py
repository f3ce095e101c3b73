"""The daemon's processes: workers that die, hang or are orphaned; the order of stopping."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.daemon import Daemon, Site
from tests.support.processes import children_of, workers_of
from tests.support.servers import free_port, is_alive, put_sink, wait_until

FILES = 1500


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with put_sink(tmp_path_factory.mktemp("sink")) as endpoint:
        yield endpoint


@pytest.fixture
def site(tmp_path: Path, redis_server: str, sink: str) -> Site:
    return Site(tmp_path, redis_server, sink)


def workers(daemon: Daemon) -> list[int]:
    return workers_of(daemon.process.pid)


def drop_files(site: Site, count: int) -> dict[str, str]:
    """Moves in a whole folder of files; returns name -> md5."""
    stage = site.spool / "stage"
    stage.mkdir(parents=True)
    for number in range(count):
        (stage / str(number)).write_bytes(b"content %d" % number)
    site.incoming.mkdir(exist_ok=True)
    stage.rename(site.incoming / "many")
    return {f"many/{number}": hashlib.md5(b"content %d" % number).hexdigest() for number in range(count)}


@pytest.mark.slow
def test_workers_killed_under_load_lose_nothing_and_are_replaced(site: Site) -> None:
    with Daemon(site, {"MD5S3STASH_SPOOL_PROCESSES": "3"}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(workers(daemon)) == 3, "three workers")
        dropped = drop_files(site, FILES)
        for share in range(1, 5):
            wait_until(lambda share=share: len(site.names()) > share * FILES // 8, "under way")  # type: ignore[misc]
            wait_until(lambda: len(workers(daemon)) >= 2, "two workers, whatever was killed before")
            os.kill(workers(daemon)[share % 2], signal.SIGKILL)
        wait_until(lambda: site.names() == dropped and site.files() == [], "all stashed", 60)
        wait_until(lambda: len(workers(daemon)) == 3, "three workers again")
        wait_until(lambda: daemon.output().count("worker died") == 4, "a report of each loss")
        assert daemon.terminate() == 0

    assert sorted(entry["name"] for entry in site.log()) == sorted(dropped), "each once"
    wait_until(lambda: site.open_records() == 0, "nothing remembered")
    assert site.files("failed") == []


def test_a_killed_daemon_leaves_no_process_behind_even_one_that_is_stopped(site: Site) -> None:
    with Daemon(site, {"MD5S3STASH_SPOOL_PROCESSES": "2"}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(workers(daemon)) == 2, "two workers")
        left = [*children_of(daemon.process.pid), *workers(daemon)]
        os.kill(left[-1], signal.SIGSTOP)
        daemon.kill()

        wait_until(lambda: not any(map(is_alive, left)), "all gone")

    with Daemon(site) as second:
        second.wait_until_started()


def test_a_worker_that_hangs_is_told_to_the_supervisor(site: Site) -> None:
    port = free_port()
    environment = {"MD5S3STASH_HTTP_PORT": str(port), "MD5S3STASH_SPOOL_STUCK_SECONDS": "3"}
    with Daemon(site, {**environment, "MD5S3STASH_SPOOL_PROCESSES": "2"}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(workers(daemon)) == 2, "two workers")
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200, "well")
        os.kill(workers(daemon)[0], signal.SIGSTOP)

        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 503, "not well")
        [reason] = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json()["reasons"]
        assert reason.startswith("stuck: no progress in the worker ")

        os.kill(workers(daemon)[0], signal.SIGCONT)
        wait_until(
            lambda: requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200, "well again"
        )


def test_without_the_process_that_starts_workers_the_daemon_ends(site: Site) -> None:
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: bool(workers(daemon)), "a worker")
        [fork_server] = children_of(daemon.process.pid)
        os.kill(fork_server, signal.SIGKILL)

        assert daemon.process.wait(20) == 1
    assert "cannot start worker processes: restart the daemon" in daemon.output()


def test_a_signal_to_all_processes_stops_the_daemon_in_order(site: Site) -> None:
    # As systemd and terminals do.
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: bool(workers(daemon)), "a worker")
        dropped = drop_files(site, FILES)
        wait_until(lambda: len(site.names()) > 50, "under way")
        everybody = [daemon.process.pid, *children_of(daemon.process.pid), *workers(daemon)]
        subprocess.run(["kill", "-TERM", *map(str, everybody)], check=True)

        assert daemon.process.wait(30) == 0
        wait_until(lambda: not any(map(is_alive, everybody[1:])), "all gone")
    assert "stopped complete=True" in daemon.output()
    assert len(site.names()) + len(site.files()) == FILES

    with Daemon(site):
        wait_until(lambda: site.names() == dropped and site.files() == [], "the rest", 60)
    assert len(site.log()) == FILES


@pytest.mark.parametrize(("settings", "count"), [({"JOBS": "1"}, 1), ({"PROCESSES": "3"}, 3), ({"PROCESSES": "1"}, 1)])
def test_there_are_as_many_workers_as_the_settings_say(site: Site, settings: dict[str, str], count: int) -> None:
    with Daemon(site, {f"MD5S3STASH_SPOOL_{key}": value for key, value in settings.items()}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(workers(daemon)) == count, "the workers")
