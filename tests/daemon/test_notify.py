"""The daemon's notifications to systemd, and SIGHUP: a real process and a real notify socket."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash.notify import watchdog_seconds
from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.notify_socket import NotifySocket, notify_socket
from tests.support.servers import wait_until
from tests.support.stores import Keys

# The scan blocks at a file of this name, as on a file system that hangs.
STUCK_ON_TRAP = (
    "-c",
    "import sys, threading; from md5s3stash_daemon import main; from md5s3stash_daemon.spool import entry; "
    "old = entry.is_partial; "
    "entry.is_partial = lambda name: name == 'trap' and threading.Event().wait() or old(name); sys.exit(main.main([]))",
)
# Two pings in 0.2 seconds. A thread is stuck after 3 seconds: on a loaded machine a step may take one second.
STUCK_SECONDS = 3.0
WATCHDOG = {"WATCHDOG_USEC": "200000", "MD5S3STASH_SPOOL_STUCK_SECONDS": f"{STUCK_SECONDS:g}"}


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(f"{tmp_path}/notify") as listener:
        yield listener


def pings(systemd: NotifySocket) -> int:
    return len(systemd.received("WATCHDOG"))


def wait_for_more_pings(systemd: NotifySocket) -> None:
    before = pings(systemd)
    wait_until(lambda: pings(systemd) >= before + 3, "more pings")


def test_ready_status_and_stopping_are_told_in_this_order(site: Site, systemd: NotifySocket) -> None:
    with Daemon(site, {"NOTIFY_SOCKET": systemd.address, **WATCHDOG}) as daemon:
        wait_until(lambda: bool(systemd.received("READY")), "ready")
        assert site.incoming.is_dir(), "ready for drops"
        site.drop("x", b"x")
        wait_until(
            lambda: "stashed 1, failed 0, deferred 0; waiting" in systemd.received("STATUS"), "status with the count"
        )
        assert daemon.terminate() == 0

    assert systemd.received("STOPPING") == ["1"]
    keys = [next(iter(message)) for message in systemd.messages]
    assert keys.index("READY") < keys.index("STOPPING")


def test_an_abstract_socket_is_reached_too(site: Site) -> None:
    with notify_socket(f"@md5s3stash-{uuid.uuid4().hex}") as systemd, Daemon(site, {"NOTIFY_SOCKET": systemd.address}):
        wait_until(lambda: bool(systemd.received("READY")), "ready")


def test_an_idle_daemon_keeps_the_watchdog_quiet(site: Site, systemd: NotifySocket) -> None:
    idle = {"MD5S3STASH_SPOOL_RESCAN_SECONDS": "3600"}
    with Daemon(site, {"NOTIFY_SOCKET": systemd.address, **WATCHDOG, **idle}):
        wait_until(lambda: bool(systemd.received("READY")), "ready")
        ready_at = time.monotonic()
        wait_until(
            lambda: time.monotonic() - ready_at > STUCK_SECONDS + 1, "idle for longer than the limit for stuck threads"
        )
        wait_for_more_pings(systemd)


def test_a_daemon_whose_loop_is_stuck_stops_pinging(site: Site, systemd: NotifySocket) -> None:
    with Daemon(site, {"NOTIFY_SOCKET": systemd.address, **WATCHDOG}, STUCK_ON_TRAP) as daemon:
        wait_until(lambda: bool(systemd.received("READY")), "ready")
        wait_for_more_pings(systemd)

        (site.incoming / "trap").touch()

        wait_until(
            lambda: any("stuck: no progress in the loop" in line for line in systemd.received("STATUS")),
            "a report that it is stuck",
        )
        told = pings(systemd)
        wait_until(lambda: "stuck threads=loop" in daemon.output(), "logged")
        still_at = time.monotonic() + 0.6
        wait_until(lambda: time.monotonic() > still_at, "the time of six pings")
        assert pings(systemd) == told


def test_a_paused_daemon_says_why_and_goes_on_pinging(tmp_path: Path, redis_server: str, systemd: NotifySocket) -> None:
    data_dir = tmp_path / "rclone"
    data_dir.mkdir()
    with servers.rclone_s3(data_dir) as server:
        site = Site(tmp_path, redis_server, server.endpoint, keys=Keys.of(server))
    with Daemon(site, {"NOTIFY_SOCKET": systemd.address, **WATCHDOG}) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"x")
        wait_until(lambda: any("paused: s3: " in line for line in systemd.received("STATUS")), "paused")
        paused_at = time.monotonic()
        wait_until(lambda: time.monotonic() - paused_at > STUCK_SECONDS + 1, "longer than the limit for stuck threads")
        wait_for_more_pings(systemd)
        assert not any("stuck" in line for line in systemd.received("STATUS"))


def test_sighup_takes_over_what_can_change_and_names_what_cannot(site: Site, systemd: NotifySocket) -> None:
    config = site.directory / "config.toml"
    config.write_text('[spool]\nwatch = "poll"\npoll_seconds = 3600\njobs = 2\n')
    environment = {"NOTIFY_SOCKET": systemd.address}
    with Daemon(site, environment, ("-m", "md5s3stash_daemon", "--config", str(config))) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(systemd.received("READY")) == 1, "ready")
        config.write_text('[spool]\nwatch = "poll"\npoll_seconds = 0.1\njobs = 3\n[log]\nlevel = "DEBUG"\n')
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

        daemon.process.send_signal(signal.SIGHUP)

        wait_until(lambda: len(systemd.received("READY")) == 2, "ready again")
        [reloaded_at] = systemd.received("MONOTONIC_USEC")
        assert before <= int(reloaded_at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert "needs a restart: spool.jobs" in daemon.output()
        assert "settings reloaded changed=spool.poll_seconds,log.level" in daemon.output()
        for number in range(3):
            site.drop(f"after{number}", b"x")
            wait_until(lambda number=number: f"after{number}" in site.names(), "found by polling", seconds=5)  # type: ignore[misc]
        assert daemon.terminate() == 0


def test_sighup_with_wrong_settings_keeps_the_old_ones(site: Site, systemd: NotifySocket) -> None:
    config = site.directory / "config.toml"
    config.write_text("[spool]\njobs = 2\n")
    environment = {"NOTIFY_SOCKET": systemd.address}
    with Daemon(site, environment, ("-m", "md5s3stash_daemon", "--config", str(config))) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: len(systemd.received("READY")) == 1, "ready")
        config.write_text("[spool]\njobs = 0\njbos = 1\n")

        daemon.process.send_signal(signal.SIGHUP)

        wait_until(lambda: len(systemd.received("READY")) == 2, "ready again")
        [line] = [line for line in daemon.output().splitlines() if "settings kept" in line]
        assert "spool.jobs: a whole number from 1 to 64 is needed" in line
        assert "spool.jbos is not a setting: did you mean jobs?" in line
        site.drop("x", b"x")
        wait_until(lambda: "x" in site.names(), "still at work")


@pytest.mark.parametrize("start", range(3))
def test_sighup_from_the_first_import_to_the_end_kills_no_daemon_and_is_remembered(
    site: Site, systemd: NotifySocket, start: int
) -> None:
    with Daemon(site, {"NOTIFY_SOCKET": systemd.address}, cold=True) as daemon:
        wait_until(lambda: is_sighup_blocked(Path(f"/proc/{daemon.process.pid}")), "its main has begun")
        wait_until(lambda: sent_sighup(daemon) and bool(systemd.received("READY")), "ready")
        wait_until(lambda: "settings reloaded changed=none" in daemon.output(), "reloaded")
        keys = [key for message in systemd.messages for key in message]
        assert keys.index("READY") < keys.index("RELOADING"), "not ready because of a reload"

        daemon.process.terminate()
        wait_until(lambda: sent_sighup(daemon) and daemon.process.poll() is not None, "the end")
        assert daemon.process.returncode == 0


def sent_sighup(daemon: Daemon) -> bool:
    daemon.process.send_signal(signal.SIGHUP)
    return True


def is_sighup_blocked(process: Path) -> bool:
    """Whether the daemon's main has begun. It must before libcurl is loaded, which is early among its imports."""
    has_imported = "pycurl" in (process / "maps").read_text()
    mask = next(line for line in (process / "status").read_text().splitlines() if line.startswith("SigBlk:"))
    is_blocked = bool(int(mask.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    assert is_blocked or not has_imported, "SIGHUP would kill a daemon that has begun to import"
    return is_blocked


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_of_another_process_is_not_ours(environment: dict[str, str], expected: float | None) -> None:
    assert watchdog_seconds(environment, os.getpid()) == expected
