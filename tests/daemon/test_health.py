"""/healthz of a real daemon, as load balancers and operators use it."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash.version import running_version
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.web import server as web_server
from md5s3stash_daemon.web.server import MAX_REQUESTS_AT_ONCE, StatusServer
from tests.daemon.test_notify import STUCK_ON_TRAP
from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.servers import free_port, wait_until
from tests.support.status import status_server
from tests.support.stores import Keys


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """For a server whose records are not read."""
    return {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1:9/0", "SPOOL_DIR": str(tmp_path)}


@pytest.fixture
def server(environment: dict[str, str], port: int) -> Iterator[StatusServer]:
    """The server without a daemon."""
    with status_server({**environment, "MD5S3STASH_HTTP_PORT": str(port)}) as running:
        yield running


def health_of(port: int) -> tuple[int, Any]:
    """Status and body; (0, None) without an answer."""
    with contextlib.suppress(requests.ConnectionError):
        answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status_code, answer.json()
    return 0, None


def test_a_daemon_at_rest_is_healthy(site: Site, port: int) -> None:
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: health_of(port)[0] != 0, "an answer")
        assert health_of(port) == (200, {"status": "ok", "reasons": []})
        assert daemon.terminate() == 0


def test_s3_down_is_503_with_the_reason_until_it_is_back(tmp_path: Path, redis_server: str, port: int) -> None:
    data_dir = tmp_path / "rclone"
    data_dir.mkdir()
    s3_port = free_port()
    with servers.rclone_s3(data_dir, port=s3_port) as rclone:
        site = Site(tmp_path, redis_server, rclone.endpoint, keys=Keys.of(rclone))
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"x")
        wait_until(lambda: health_of(port)[0] == 503, "unhealthy")
        status, body = health_of(port)
        assert (status, body["status"]) == (503, "failing")
        assert body["reasons"][0].startswith("paused: s3: ")
        paused = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert 'md5s3stash_paused{service="s3"} 1.0' in paused
        assert 'md5s3stash_paused{service="redis"} 0.0' in paused

        with servers.rclone_s3(data_dir, port=s3_port, keys=(site.keys.access_key, site.keys.secret_key)):
            wait_until(lambda: health_of(port)[0] == 200, "healthy again")


def test_a_stuck_loop_is_503(site: Site, port: int) -> None:
    environment = {"MD5S3STASH_HTTP_PORT": str(port), "MD5S3STASH_SPOOL_STUCK_SECONDS": "3"}
    with Daemon(site, environment, STUCK_ON_TRAP) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: health_of(port)[0] == 200, "healthy")
        (site.incoming / "trap").touch()
        wait_until(lambda: health_of(port)[0] == 503, "unhealthy")
        assert health_of(port)[1]["reasons"] == ["stuck: no progress in the loop for 3 seconds"]


def test_a_taken_port_ends_the_start_with_one_clear_line(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(number)}) as daemon:
            assert daemon.process.wait(20) == 1

    [line] = [line for line in daemon.output().splitlines() if not line.startswith("level=")]
    assert line.startswith(f"md5s3stashd: http.port: cannot listen on 127.0.0.1 port {number}: Address already in use")
    assert "MD5S3STASH_HTTP_PORT" in line


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz?verbose", 200),
        ("HEAD", "/healthz", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 200),
        ("GET", "/status/page.html", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/healthz", 501),
        ("DELETE", "/metrics", 501),
    ],
)
def test_only_three_pages_are_served_and_only_to_be_read(
    server: StatusServer, port: int, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, f"http://127.0.0.1:{port}{path}", timeout=10)

    assert answer.status_code == status
    assert answer.headers["Server"] == f"md5s3stashd/{running_version()}"
    if method == "HEAD":
        assert answer.content == b""


START_OF_REQUEST = b"GET /healthz HTTP/1.1\r\nX: "


def connected(port: int, clients: contextlib.ExitStack, count: int, start: bytes) -> list[socket.socket]:
    found = [clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(count)]
    for client in found:
        client.sendall(start)
    return found


def dripped_until_closed(port: int, start: bytes) -> int:
    """How many bytes a client could send before the server closed its connection."""
    dripped = 0
    with contextlib.ExitStack() as clients:
        [client] = connected(port, clients, 1, start)
        client.settimeout(0.05)

        def is_closed() -> bool:
            nonlocal dripped
            try:
                dripped += client.send(b"a")
                return client.recv(10) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_closed, "closed", 20)
    return dripped


@pytest.mark.parametrize("start", [b"", b"G", START_OF_REQUEST])
def test_a_request_has_to_be_there_within_a_time_in_all_however_it_drips(
    server: StatusServer, port: int, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.5)
    # On a busy machine the time may be over after the first byte.
    wait_until(lambda: dripped_until_closed(port, start) > 1, "more than one byte")

    assert health_of(port)[0] == 200


@pytest.mark.parametrize("start", [b"", START_OF_REQUEST])
def test_slow_clients_shut_nobody_out_and_leave_by_themselves(
    server: StatusServer, port: int, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    # At first longer than the test: no client gets in because a slow one has timed out.
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 300.0)
    with contextlib.ExitStack() as clients:
        slow = connected(port, clients, 2 * MAX_REQUESTS_AT_ONCE, start)
        for _ in range(5):
            assert health_of(port)[0] == 200
        # The oldest one was closed to make room.
        assert slow[0].recv(10) == b""

        monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
        quick = connected(port, clients, MAX_REQUESTS_AT_ONCE, start)
        assert [client.recv(10) for client in quick] == [b""] * len(quick)


def test_connections_that_come_together_are_kept_until_they_are_accepted(server: StatusServer, port: int) -> None:
    listening = subprocess.check_output(["ss", "-Hltn", f"sport = :{port}"], text=True).split()

    assert int(listening[2]) >= 4 * MAX_REQUESTS_AT_ONCE


def test_requests_that_wait_for_redis_or_the_disk_leave_room_for_a_look_at_health(
    server: StatusServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def waits(*_: object) -> None:
        released.wait(60)

    monkeypatch.setattr(server.page, "answer", waits)
    with contextlib.ExitStack() as clients:
        clients.callback(released.set)
        pages = connected(port, clients, MAX_REQUESTS_AT_ONCE, b"GET / HTTP/1.0\r\n\r\n")
        turned_away = MAX_REQUESTS_AT_ONCE - web_server.MAX_OTHERS_AT_ONCE
        wait_until(lambda: len(select.select(pages, [], [], 0)[0]) == turned_away, "the others wait")
        refused = select.select(pages, [], [], 0)[0]
        assert {client.recv(20) for client in refused} == {b"HTTP/1.0 503 Service"}
        for _ in range(5):
            assert health_of(port)[0] == 200
        released.set()
        # The others get their answers.
        assert {client.recv(20)[:12] for client in pages if client not in refused} == {b"HTTP/1.0 404"}


def test_port_0_serves_nothing(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    with Daemon(Site(tmp_path, redis_server, s3_server), {"MD5S3STASH_HTTP_PORT": "0"}) as daemon:
        daemon.wait_until_started()
        listening = subprocess.check_output(["ss", "--listening", "--tcp", "--processes", "--no-header"], text=True)
    assert f"pid={daemon.process.pid}," not in listening
    assert "http address" not in daemon.output()


def test_one_that_rests_or_has_ended_is_never_stuck_and_one_that_is_silent_is() -> None:
    now = [0.0]
    liveness = Liveness(clock=lambda: now[0])
    liveness.beat("loop")
    with liveness.idle("committer"):
        now[0] = 100.0
        assert liveness.silent(60) == ["loop"]
        liveness.beat("loop")
        now[0] = 159.0
        assert liveness.silent(60) == []
        liveness.end("loop")
        now[0] = 900.0
        assert liveness.silent(60) == []
    now[0] = 960.0
    assert liveness.silent(60) == ["committer"]


def test_both_what_is_down_and_what_hangs_is_told() -> None:
    def down() -> None:
        raise StoreUnavailable("no answer")

    now = [0.0]
    liveness = Liveness(clock=lambda: now[0])
    liveness.beat("committer")
    now[0] = 60.0
    breaker = CircuitBreaker({"s3": down}, RetryPolicy)
    assert breaker.is_down("s3")
    health = Health(liveness, breaker, Metrics(), stuck_seconds=lambda: 60.0)

    assert health.reasons() == ["stuck: no progress in the committer for 60 seconds", "paused: s3: no answer"]
    assert health.status_line() == (
        "stashed 0, failed 0, deferred 0; stuck: no progress in the committer for 60 seconds; paused: s3: no answer"
    )
