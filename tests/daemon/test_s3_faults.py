"""S3, its host name or Redis fail in different ways during work, and recover: nothing is lost, nothing wrong is stored,
no file loses an attempt, and health and metrics report the outage.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.daemon.test_metrics import metrics_of
from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.fast_origin import fast_origin
from tests.support.faulty_s3 import Fault, FaultyS3
from tests.support.mounts import in_the_place_of
from tests.support.servers import free_port, wait_until
from tests.support.stores import Keys
from tests.support.url_lists import OPEN, drop_list, wait_for_report

# One larger than a connection's buffers, so that its upload is in progress during the fault.
CONTENTS = {f"{number}.bin": b"%d" % number * 100_000 for number in range(6)} | {"large.bin": bytes(6 * 1024 * 1024)}

IMPATIENT = {
    # One worker: once it has found that S3 is unavailable, no other one has a request in progress that would count
    # against its file.
    "MD5S3STASH_SPOOL_JOBS": "1",
    "MD5S3STASH_URLS_JOBS": "1",
    "MD5S3STASH_S3_CONNECT_TIMEOUT_SECONDS": "1",
    "MD5S3STASH_S3_READ_TIMEOUT_SECONDS": "2",
    "MD5S3STASH_S3_REQUEST_TIMEOUT_SECONDS": "4",
    "MD5S3STASH_REDIS_TIMEOUT_SECONDS": "0.5",
}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def relay(s3_server: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_server) as running:
        yield running


@pytest.fixture
def port() -> int:
    return free_port()


def reasons(port: int) -> list[str]:
    """The reasons in the daemon's health report."""
    found: list[str] = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json()["reasons"]
    return found


def is_told(port: int, service: str) -> bool:
    """Whether health and metrics both report the service as unavailable."""
    told = metrics_of(port)
    return (
        any(reason.startswith(f"paused: {service}: ") for reason in reasons(port))
        and told[f'md5s3stash_paused{{service="{service}"}}'] == 1
        and told[f'md5s3stash_service_errors_total{{service="{service}"}}'] >= 1
    )


def drop_first(site: Site) -> None:
    """Drops a file and waits until the daemon has probed S3."""
    wait_until(site.incoming.exists, "spool made")
    site.drop("first", b"first")
    wait_until(lambda: "first" in site.names(), "at work")


def assert_all_stashed(site: Site, daemon: Daemon, contents: dict[str, bytes]) -> None:
    wait_until(lambda: len(site.names()) == len(contents) and site.files() == [], "all stashed", seconds=60)
    assert site.names() == {name: md5(data) for name, data in contents.items()}
    assert site.objects() == {md5(data): data for data in contents.values()}
    assert sorted(entry["name"] for entry in site.log()) == sorted(contents)
    assert site.files("failed") == []
    assert "deferred" not in daemon.output(), "an attempt of a file"


@pytest.mark.parametrize(
    ("fault", "methods"),
    [
        (Fault.ERROR_500, ["PUT"]),
        (Fault.SLOW_DOWN, ["PUT"]),
        (Fault.RESET, ["HEAD", "PUT"]),
        (Fault.HANG, ["PUT"]),
        (Fault.CUT_UPLOAD, ["PUT"]),
        (Fault.CUT_ANSWER, ["PUT"]),
        (Fault.CUT_BODY, ["PUT"]),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "+".join(value),
)
def test_files_wait_while_s3_is_broken_and_are_stashed_when_it_works(
    tmp_path: Path, redis_server: str, relay: FaultyS3, port: int, fault: Fault, methods: list[str]
) -> None:
    site = Site(tmp_path, redis_server, relay.endpoint)
    with Daemon(site, {**IMPATIENT, "MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        contents = {"first": b"first", **CONTENTS}
        drop_first(site)
        relay.break_down(fault, *methods)
        for name, data in CONTENTS.items():
            site.drop(name, data)
        wait_until(lambda: relay.met > 0 and is_told(port, "s3"), "paused and reported")
        assert list(site.names()) == ["first"]

        relay.work_again()

        assert_all_stashed(site, daemon, contents)
        wait_until(lambda: reasons(port) == [], "reported as healthy")


def test_lines_of_a_list_wait_while_s3_hangs_and_lose_no_attempt(
    tmp_path: Path, redis_server: str, relay: FaultyS3, port: int
) -> None:
    site = Site(tmp_path, redis_server, relay.endpoint)
    environment = {**OPEN, **IMPATIENT, "MD5S3STASH_URLS_ATTEMPTS": "1", "MD5S3STASH_HTTP_PORT": str(port)}
    with fast_origin(tmp_path) as origin, Daemon(site, environment):
        drop_first(site)
        relay.break_down(Fault.HANG, "HEAD", "PUT")
        drop_list(site, "x.urls", [origin.url(number) for number in range(20)])
        wait_until(lambda: relay.met > 0 and is_told(port, "s3"), "paused and reported")

        relay.work_again()

        assert {row["outcome"] for row in wait_for_report(site, "x.urls")} == {"stashed"}
        told = metrics_of(port)
        outcomes = {name: told[f'md5s3stash_outcomes_total{{outcome="{name}"}}'] for name in ("deferred", "failed")}
        assert outcomes == {"deferred": 0, "failed": 0}


@pytest.mark.needs_namespaces
def test_files_wait_while_the_name_of_the_store_does_not_resolve(tmp_path: Path, redis_server: str, port: int) -> None:
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    # Nothing listens there, so connections fail at once.
    resolver.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    with servers.rclone_s3(tmp_path) as server:
        site = Site(tmp_path, redis_server, server.endpoint, keys=Keys.of(server))
        endpoint = server.endpoint.replace("127.0.0.1", "store.example")
        environment = {**IMPATIENT, "MD5S3STASH_HTTP_PORT": str(port), "S3_ENDPOINT": endpoint, "no_proxy": "*"}
        mounts = [in_the_place_of("/etc/hosts", hosts), in_the_place_of("/etc/resolv.conf", resolver)]
        with Daemon(site, environment, mounts=mounts) as daemon:
            daemon.wait_until_started()
            for name, data in CONTENTS.items():
                site.drop(name, data)
            wait_until(lambda: is_told(port, "s3"), "told")
            assert site.names() == {}

            with open(hosts, "a") as file:
                file.write("127.0.0.1 store.example\n")

            assert_all_stashed(site, daemon, CONTENTS)
            wait_until(lambda: reasons(port) == [], "reported as healthy")


def test_a_redis_that_hangs_is_waited_for_and_told_and_each_drop_is_logged_once(
    tmp_path: Path, s3_server: str, port: int
) -> None:
    data_dir = tmp_path / "redis"
    data_dir.mkdir()
    with servers.redis_server(data_dir) as url:
        site = Site(tmp_path, url, s3_server)
        pid = int(site.redis.info("server")["process_id"])
        with Daemon(site, {**IMPATIENT, "MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
            daemon.wait_until_started()
            os.kill(pid, signal.SIGSTOP)
            try:
                for name, data in CONTENTS.items():
                    site.drop(name, data)
                wait_until(lambda: is_told(port, "redis"), "paused and reported")
                assert not any("stuck" in reason for reason in reasons(port))
            finally:
                os.kill(pid, signal.SIGCONT)

            assert_all_stashed(site, daemon, CONTENTS)
            assert daemon.terminate() == 0
            assert site.open_records() == 0


def test_a_spool_that_is_gone_ends_the_daemon_with_one_line(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"x")
        wait_until(lambda: "x" in site.names(), "at work")

        site.spool.rename(tmp_path / "elsewhere")

        wait_until(lambda: daemon.process.poll() is not None, "ended")
        assert daemon.process.returncode == 1
        last = daemon.output().splitlines()[-1]
        assert last.startswith("md5s3stashd: the spool cannot be used any more: ")
        assert "Traceback" not in daemon.output()
