"""A stop interrupts no request, and several processes serve one socket."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import servers
from tests.thumbnailer.conftest import TWO_WORKERS, Thumbnailer, command, environment, picture, thumbnailer

Put = Callable[[bytes], str]


def test_stop_under_load_cuts_off_no_request(s3_server: str, put: Put, tmp_path: Path) -> None:
    path = f"/clip/100x100/{put(picture())}"
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server:
        assert server.get(path).status == 200
        with ThreadPoolExecutor(8) as threads:
            loads = [threads.submit(_ask_until_refused, server.port, path) for _ in range(8)]
            servers.wait_until(lambda: server.log.count("status=200") > 20, "load")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
            statuses = sum((load.result(30) for load in loads), Counter[int]())
        assert set(statuses) == {200}
        assert "unfinished=0" in server.log


def test_idle_connections_do_not_keep_a_stop_waiting(server: Thumbnailer, s3_server: str, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server) as stopping:
        idle = http.client.HTTPConnection("127.0.0.1", stopping.port, timeout=10)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        stopping.process.send_signal(signal.SIGTERM)
        assert stopping.process.wait(10) == 0
        assert idle.sock is not None
        assert idle.sock.recv(1) == b""
        idle.close()


def test_ctrl_c_while_it_starts_shows_no_traceback(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    arguments = command(
        "--address=127.0.0.1", f"--port={servers.free_port()}", "--workers=2", f"--cache_dir={tmp_path}"
    )
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            arguments, env=environment("http://127.0.0.1:1"), stdout=log, stderr=log, start_new_session=True
        )
    servers.wait_until(lambda: b"listening" in log_path.read_bytes(), "listening")
    # To the whole group, as a terminal does; the workers are still importing modules.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in log_path.read_text()


@pytest.mark.parametrize("fault", ["not-a-socket", "not-a-number"])
def test_wrong_inherited_sockets_are_one_line_and_exit_2(fault: str) -> None:
    count = "1" if fault == "not-a-socket" else "many"
    script = f"export LISTEN_PID=$$ LISTEN_FDS={count}; exec {shlex.join(command())} 3</dev/null"
    result = subprocess.run(
        ["sh", "-c", script],
        env=environment("http://127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "LISTEN_FDS" in result.stderr


def test_two_processes_serve_one_inherited_socket_and_one_can_go(s3_server: str, put: Put, tmp_path: Path) -> None:
    path = f"/clip/100x100/{put(picture())}"
    with ExitStack() as stack:
        listener, *own = (stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128)) for _ in range(3))
        port = listener.getsockname()[1]
        first, second = (
            stack.enter_context(_heir([listener, metrics], tmp_path / name, s3_server))
            for metrics, name in zip(own, ("one", "two"), strict=True)
        )
        over = threading.Event()
        with ThreadPoolExecutor(4) as threads:
            loads = [threads.submit(_ask_until, over, port, path) for _ in range(4)]
            try:
                servers.wait_until(lambda: all(each.log.count("status=200") > 5 for each in (first, second)), "both")
                first.process.send_signal(signal.SIGTERM)
                assert first.process.wait(30) == 0
                before = second.log.count("status=200")
                servers.wait_until(lambda: second.log.count("status=200") > before + 10, "the other one still serves")
            finally:
                over.set()
            statuses = sum((load.result(30) for load in loads), Counter[int]())
        assert set(statuses) == {200}
        # Behind the shared port a scrape would read those of one of them, by chance.
        its_own = replace(second, port=own[1].getsockname()[1])

        def counts_its_own() -> bool:
            answered = second.log.count("status=200 method=GET path=/clip/")
            line = f'md5s3stash_thumbnailer_requests_total{{status="200"}} {answered}.0\n'
            return line.encode() in its_own.get("/metrics").body

        # Both are written after the client has its answer.
        servers.wait_until(counts_its_own, "the numbers of the second one", 10)


def _ask_until_refused(port: int, path: str) -> Counter[int]:
    """The statuses on kept-alive connections, until connections are refused. Any other end is an error."""
    statuses: Counter[int] = Counter()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.connect()
        except ConnectionRefusedError:
            return statuses
        try:
            while True:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                statuses[response.status] += 1
                if response.will_close:
                    break
        finally:
            connection.close()


def _ask_until(over: threading.Event, port: int, path: str) -> Counter[int]:
    """The statuses of requests, each on a new connection."""
    statuses: Counter[int] = Counter()
    while not over.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            statuses[response.status] += 1
        finally:
            connection.close()
    return statuses


@contextmanager
def _heir(listeners: Sequence[socket.socket], directory: Path, endpoint: str) -> Iterator[Thumbnailer]:
    """A server started with the sockets, as by systemd. Its port is the first one's."""
    directory.mkdir()
    serve = command("--workers=1", f"--cache_dir={directory / 'cache'}")
    descriptors = [listener.fileno() for listener in listeners]
    # Out of the way first: one of them may be 3.
    code = f"""
import fcntl, os, sys
kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in {descriptors}]
for number, descriptor in enumerate(kept, 3):
    os.dup2(descriptor, number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)))
os.execv(sys.argv[1], sys.argv[1:])
"""
    log_path = directory / "log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *serve],
            env=environment(endpoint),
            stdout=log,
            stderr=log,
            pass_fds=descriptors,
        )
    try:
        servers.wait_until(lambda: b"event=listening" in log_path.read_bytes(), "listening")
        yield Thumbnailer(listeners[0].getsockname()[1], process, log_path)
    finally:
        servers.stop(process)
