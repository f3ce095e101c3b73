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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        first, second = (stack.enter_context(_heir(listener, tmp_path / name, s3_server)) for name in ("one", "two"))
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
def _heir(listener: socket.socket, directory: Path, endpoint: str) -> Iterator[Thumbnailer]:
    """A server started with the socket, as by systemd."""
    directory.mkdir()
    serve = command("--workers=1", f"--cache_dir={directory / 'cache'}")
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')"
    )
    code += "; os.execv(sys.argv[2], sys.argv[2:])"
    log_path = directory / "log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(listener.fileno()), *serve],
            env=environment(endpoint),
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
    try:
        servers.wait_until(lambda: b"event=listening" in log_path.read_bytes(), "listening")
        yield Thumbnailer(listener.getsockname()[1], process, log_path)
    finally:
        servers.stop(process)
