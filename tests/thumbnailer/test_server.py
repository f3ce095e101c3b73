"""The server as a process: its start, its settings, its stop, and its behaviour without S3 or a worker."""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from pilbox.signature import sign

from md5s3stash_thumbnailer._pilbox import PILBOX
from tests.support import render_forks, servers, warm
from tests.thumbnailer import conftest
from tests.thumbnailer.conftest import FORKING, MODULE, ROOT, TWO_WORKERS, Thumbnailer, environment, picture

MD5 = "0123456789abcdef0123456789abcdef"

OLD_OPTIONS = """
allowed-hosts allowed-operations background client-key client-name config content-type-from-image debug expand filter
format implicit-base-url max-requests mode operation optimize port position quality timeout validate-cert
log-file-max-size log-file-num-backups log-file-prefix log-to-stderr logging
""".split()  # noqa: SIM905

Put = Callable[[bytes], str]

thumbnailer = functools.partial(conftest.thumbnailer, program=FORKING)


def start(*options: str, endpoint: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that should fail to start."""
    done = warm.run([MODULE, *options], environment(endpoint, **more))
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def refused_in_one_line(result: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_missing_bucket_base_is_one_line_and_exit_2() -> None:
    refused_in_one_line(start(), 2, "BUCKET_BASE is not set")


def test_unknown_bucket_scheme_is_one_line_and_exit_2() -> None:
    refused_in_one_line(start(BUCKET_BASE="pictures", BUCKET_SCHEME="several"), 2, "'several'")


@pytest.mark.parametrize("names", ["jxl", "webp,jpeg", "AVIF", "avif;webp"])
def test_a_format_that_cannot_be_negotiated_is_one_line_and_exit_2(names: str) -> None:
    words = f"auto_formats must be of avif, webp, best, not {names.rpartition(',')[2]}"
    refused_in_one_line(start(f"--auto_formats={names}", BUCKET_BASE="pictures"), 2, words)


def test_wrong_value_of_an_option_is_one_line_and_exit_2() -> None:
    refused_in_one_line(start("--quality=best", BUCKET_BASE="pictures"), 2, "Invalid quality: 'best'; 0 to 100")


@pytest.mark.parametrize("argument", ["--iiif=off", "--truncated=No", "--webp=", "--debug=n"])
def test_flag_that_is_neither_true_nor_false_is_refused(argument: str) -> None:
    """tornado takes all but `false`, `f` and `0` for true."""
    name, _, value = argument.partition("=")
    words = f"{name.removeprefix('--')} must be true or false, not {value!r}"
    refused_in_one_line(start(argument, BUCKET_BASE="pictures"), 2, words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("iiif = 'off'", "iiif must be true or false, not 'off'"),
        ("truncated = 'No'", "truncated must be true or false, not 'No'"),
        ("webp = None", "webp must have a value, not None"),
        ("port = None", "port must have a value, not None"),
    ],
)
def test_unclear_value_in_the_file_of_config_is_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "thumbnailer.conf").write_text(f"{line}\n")
    refused_in_one_line(start(f"--config={tmp_path / 'thumbnailer.conf'}", BUCKET_BASE="pictures"), 2, words)


def test_unknown_option_is_exit_2_without_a_traceback() -> None:
    result = start("--no_such_option=1", BUCKET_BASE="pictures")
    assert result.returncode == 2
    assert "no_such_option" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_taken_port_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start("--address=127.0.0.1", f"--port={port}", endpoint="http://127.0.0.1:1")
    refused_in_one_line(result, 1, f"port {port}")


def test_missing_pilbox_is_one_line_with_the_command_that_installs_it(tmp_path: Path) -> None:
    # An import hook that hides pilbox: as if the package were not installed.
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += (
        "        if name == 'pilbox':\n            raise ModuleNotFoundError(\"No module named 'pilbox'\", name=name)\n"
    )
    (tmp_path / "start.py").write_text(
        f"{hide}sys.meta_path.insert(0, Hide())\nimport runpy\n"
        "runpy.run_module('md5s3stash_thumbnailer', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, str(tmp_path / "start.py")],
        env=environment("http://127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    refused_in_one_line(result, 2, f"pip install --no-deps {PILBOX}")
    assert f"{PILBOX} \\" in (ROOT / "requirements/pilbox.txt").read_text().splitlines()


def test_help_lists_every_option_of_the_old_server() -> None:
    listed = start("--help").stdout
    assert [name for name in OLD_OPTIONS if f"--{name} " not in listed and f"--{name}=" not in listed] == []


def test_options_become_the_defaults_of_every_request(s3_server: str, put: Put, tmp_path: Path) -> None:
    (tmp_path / "thumbnailer.conf").write_text('format = "png"\n')
    config = f"--config={tmp_path / 'thumbnailer.conf'}"
    with thumbnailer(tmp_path, s3_server, "--position=face", "--background=00ff00", "--retain=99", config) as server:
        answer = server.get(f"/adapt/100x100/{put(picture((400, 100)))}")
        assert (answer.headers["Content-Type"], answer.image.size) == ("image/png", (100, 100))
        # --retain=99 makes adapt fill instead of crop, and fill shows the background.
        assert answer.image.convert("RGB").getpixel((50, 2)) == (0, 255, 0)
        assert server.get(f"/crop/50x50/{put(picture())}").status == 200


def test_multibucket_stash_is_read_by_its_shards(s3_server: str, put: Put, tmp_path: Path) -> None:
    original = picture((77, 55), "PNG")
    md5 = put(original)
    shard = "0123456789abcdefghijklmnopqrstuvwxyz"[(int(md5[0], 16) + 10 * int(md5[1], 16)) % 36]
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket=f"{shard}.old-stash")
    client.put_object(Bucket=f"{shard}.old-stash", Key=md5, Body=original)
    with thumbnailer(tmp_path, s3_server, BUCKET_BASE="old-stash", BUCKET_SCHEME="multivalue") as server:
        assert server.get(f"/clip/100x100/{md5}").image.size == (77, 55)


def test_request_without_the_signature_is_403(s3_server: str, put: Put, tmp_path: Path) -> None:
    md5 = put(picture())
    with thumbnailer(tmp_path, s3_server, "--client_name=web", "--client_key=secret") as server:
        path = f"/clip/100x100/{md5}"
        assert server.get(f"{path}?{sign('secret', 'client=web&q=80')}").status == 200
        for query, code in (
            ("client=web&q=80", 101),
            (sign("guess", "client=web"), 101),
            (sign("secret", "q=80"), 102),
        ):
            answer = server.get(f"{path}?{query}")
            assert (answer.status, answer.json["error_code"]) == (403, code)
        assert "sig=" not in server.log


def test_allowed_hosts_are_checked_against_the_host_of_the_stash(s3_server: str, put: Put, tmp_path: Path) -> None:
    md5 = put(picture())
    with thumbnailer(tmp_path, s3_server, "--allowed_hosts=127.0.0.1") as server:
        assert server.get(f"/clip/100x100/{md5}").status == 200
    with thumbnailer(tmp_path, s3_server, "--allowed_hosts=elsewhere.example.org") as server:
        assert server.get(f"/clip/100x100/{md5}").status == 403


def test_original_beyond_the_bound_of_bytes_is_413(s3_server: str, put: Put, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, "--max_original_bytes=1000") as server:
        assert server.get(f"/clip/100x100/{put(picture())}").status == 413


def test_without_s3_requests_fail_and_health_and_validators_do_not(
    server: Thumbnailer, put: Put, tmp_path: Path
) -> None:
    path = f"/clip/100x100/{put(picture())}"
    etag = server.get(path).headers["ETag"]
    with thumbnailer(tmp_path, f"http://127.0.0.1:{servers.free_port()}") as lonely:
        answer = lonely.get(path)
        assert (answer.status, answer.headers["Cache-Control"]) in ((502, "no-store"), (504, "no-store"))
        assert answer.json["status_code"] == answer.status
        health = lonely.get("/healthz")
        assert (health.status, health.json["status"]) == (200, "ok")
        assert lonely.get(path, If_None_Match=etag).status == 304


def test_s3_that_hangs_is_504_and_blocks_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with thumbnailer(tmp_path, endpoint, "--timeout=1") as server, ThreadPoolExecutor() as threads:
            waiting = threads.submit(server.get, f"/clip/100x100/{MD5}")
            assert server.get("/healthz").status == 200
            assert not waiting.done()
            assert (waiting.result().status, waiting.result().json["error_code"]) == (504, 304)
            # A thread that still waits for S3 does not prevent the server's end.
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(5) == 0


@pytest.mark.parametrize("form", ["/clip/100x100/{}", "/iiif/3/{}/full/100,/0/default.jpg"])
def test_killed_worker_is_replaced(s3_server: str, put: Put, tmp_path: Path, form: str) -> None:
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server:
        path = form.format(put(picture()))
        assert server.get(path).status == 200
        before = _render_workers(server)
        assert len(before) == 2
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        servers.wait_until(lambda: not any(map(servers.is_alive, before)), "workers dead")
        assert {server.get(path).status for _ in range(4)} == {200}
        assert not set(before) & set(_render_workers(server))
        # A thread of the pool has logged it, for the request that found the worker dead.
        told = re.findall("event=worker_replaced .*", server.log)
        assert len(told) >= 2
        assert [
            line for line in told if not re.match(r"event=worker_replaced request=[0-9a-f]{16} pid=\d+", line)
        ] == []


@pytest.mark.parametrize("form", ["/scale/4096x4096/{}?opt=1", "/iiif/3/{}/full/^4096,4096/0/default.avif"])
@pytest.mark.parametrize(
    ("number", "expected"),
    # Out of memory for small things, libraries abort.
    [(signal.SIGSEGV, (415, 201)), (signal.SIGABRT, (422, 204)), (signal.SIGTRAP, (422, 204))],
)
def test_worker_that_crashes_while_it_renders_costs_that_request_alone(
    s3_server: str, put: Put, tmp_path: Path, number: signal.Signals, expected: tuple[int, int], form: str
) -> None:
    quick = f"/clip/100x100/{put(picture())}"
    slow = form.format(put(picture((400, 300), "PNG")))
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server, ThreadPoolExecutor() as threads:
        assert {server.get(quick).status for _ in range(4)} == {200}
        workers = _render_workers(server)
        before = _cpu_ticks(workers)
        running = threads.submit(server.get, slow)
        servers.wait_until(lambda: _cpu_ticks(workers) > before + 10, "a worker that renders")
        for pid in workers:
            os.kill(pid, number)
        assert (running.result().status, running.result().json["error_code"]) == expected
        servers.wait_until(lambda: not any(map(servers.is_alive, workers)), "workers dead")
        assert {server.get(quick).status for _ in range(4)} == {200}


@pytest.mark.parametrize("form", ["/scale/40x40/{}", "/iiif/3/{}/full/40,/0/default.png"])
def test_request_is_repeated_if_its_worker_is_killed(s3_server: str, put: Put, tmp_path: Path, form: str) -> None:
    path = form.format(put(picture((400, 300), "PNG")))
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server, ThreadPoolExecutor() as threads:
        expected = server.get(path).body
        hung, (running,) = _stop_workers(server), [threads.submit(server.get, path)]
        servers.wait_until(lambda: _busy(server) == 1, "the request has a worker")
        for pid in hung:
            os.kill(pid, signal.SIGKILL)
        assert (running.result().status, running.result().body) == (200, expected)
        assert server.log.count("reason=ended") == 1


def test_request_whose_second_worker_is_killed_is_not_repeated(s3_server: str, put: Put, tmp_path: Path) -> None:
    path = f"/iiif/3/{put(picture((400, 300), 'PNG'))}/full/^4096,4096/0/default.avif"
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server, ThreadPoolExecutor() as threads:
        _stop_workers(server)
        running = threads.submit(server.get, path)
        servers.wait_until(lambda: _busy(server) == 1, "the request has a worker")

        def is_answered() -> bool:
            for pid in _render_workers(server):
                os.kill(pid, signal.SIGKILL)
            return running.done()

        servers.wait_until(is_answered, "an answer")
        assert (running.result().status, running.result().json["error_code"]) == (500, 206)


def _busy(server: Thumbnailer) -> int:
    found = re.search(rb"\nmd5s3stash_thumbnailer_workers_busy (\d+)", server.get("/metrics").body)
    assert found
    return int(found[1])


def _cpu_ticks(pids: list[int]) -> int:
    """The CPU time of the processes, in hundredths of a second."""
    return sum(int(servers.stat_fields(pid)[11]) for pid in pids)


def test_picture_that_outgrows_the_memory_of_a_worker_is_422(s3_server: str, put: Put, tmp_path: Path) -> None:
    large = put(picture((9000, 9000), "PNG", "L"))
    with thumbnailer(tmp_path, s3_server, f"--worker_memory={64 * 1024 * 1024}") as server:
        assert server.get(f"/clip/100x100/{large}").status == 422
        assert server.get(f"/clip/100x100/{put(picture())}").status == 200
        # The worker ended the request, and not itself.
        assert "worker_replaced" not in server.log


def test_render_that_takes_too_long_is_ended(s3_server: str, put: Put, tmp_path: Path) -> None:
    md5 = put(picture((400, 300), "PNG"))
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS, "--render_timeout=4") as server:
        # Both workers have answered once, so that only the pictures take too long.
        with ThreadPoolExecutor(2) as threads:
            assert {answer.status for answer in threads.map(server.get, [f"/scale/40x40/{md5}"] * 8)} == {200}
        hung = _stop_workers(server)
        for _ in hung:
            answer = server.get(f"/scale/50x50/{md5}")
            # The pictures took no time of the CPU: that they had none is not their fault.
            assert (answer.status, answer.json["error_code"]) == (503, 401)
        # A worker that continued would give its late answer to a later request.
        assert {server.get(f"/scale/40x40/{md5}").image.size for _ in range(4)} == {(40, 40)}
        assert not set(hung) & set(_render_workers(server))


def test_health_is_answered_while_every_worker_hangs(s3_server: str, put: Put, tmp_path: Path) -> None:
    # One content alone would have one worker.
    paths = [f"/scale/50x50/{put(picture((400, height)))}" for height in (300, 301, 302)]
    patient = ("--render_timeout=60", "--queue_timeout=60")
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS, *patient) as server, ThreadPoolExecutor(3) as threads:
        hung = _stop_workers(server)
        waiting = [threads.submit(server.get, path) for path in paths]
        servers.wait_until(
            lambda: b"\nmd5s3stash_thumbnailer_workers_busy 2.0\n" in server.get("/metrics").body, "busy"
        )

        assert server.get("/healthz").status == 200

        assert not any(answer.done() for answer in waiting)
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
        assert {answer.result().status for answer in waiting} == {200}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_and_its_workers_with_0(
    s3_server: str, put: Put, tmp_path: Path, number: signal.Signals
) -> None:
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server:
        assert server.get(f"/clip/100x100/{put(picture())}").status == 200
        workers = _render_workers(server)
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        servers.wait_until(lambda: not any(map(servers.is_alive, workers)), "workers gone")
        assert "Traceback" not in server.log


def test_killed_server_leaves_no_worker_behind(s3_server: str, put: Put, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS) as server:
        assert server.get(f"/clip/100x100/{put(picture())}").status == 200
        workers = _render_workers(server)
        assert workers
        server.process.kill()
        servers.wait_until(lambda: not any(map(servers.is_alive, workers)), "workers gone")


def test_stop_lets_a_running_request_finish_and_accepts_no_more(s3_server: str, put: Put, tmp_path: Path) -> None:
    original = picture()
    md5 = put(original)
    with (
        _breaker(s3_server) as (endpoint, asked, go_on),
        thumbnailer(tmp_path, endpoint) as server,
        ThreadPoolExecutor() as threads,
    ):
        running = threads.submit(server.get, f"/clip/100x100/{md5}")
        assert asked.wait(10)
        server.process.send_signal(signal.SIGTERM)
        servers.wait_until(lambda: not servers.accepts_connections(server.port), "port closed")
        assert not running.done()
        assert server.process.poll() is None
        go_on.set()
        assert running.result(10).status == 200
        assert server.process.wait(10) == 0


def test_stop_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            thumbnailer(tmp_path, endpoint, "--timeout=60", "--stop_timeout=0.5") as server,
            ThreadPoolExecutor() as threads,
        ):
            running = threads.submit(server.get, f"/clip/100x100/{MD5}")
            connection, _ = silent.accept()
            with connection:
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(5) == 0
            assert isinstance(running.exception(10), http.client.HTTPException | OSError)


def _stop_workers(server: Thumbnailer) -> list[int]:
    """Stops both workers; returns their ids."""
    servers.wait_until(lambda: len(_render_workers(server)) == 2, "two workers")
    workers = _render_workers(server)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    servers.wait_until(lambda: all(servers.stat_fields(pid)[0] == "T" for pid in workers), "workers stopped")
    return workers


def _render_workers(server: Thumbnailer) -> list[int]:
    """The render processes of the server."""
    return render_forks.workers_of(server.process.pid)


@contextmanager
def _breaker(s3_server: str) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """A relay to S3 with an event for the first request for an original, which passes nothing before another event."""
    asked, go_on = threading.Event(), threading.Event()
    connections = itertools.count(1)
    target = urlsplit(s3_server)
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(client: socket.socket) -> None:
        with client, socket.create_connection((str(target.hostname), int(target.port or 0))) as upstream:
            # The first is the server's readiness probe.
            if next(connections) > 1:
                asked.set()
            go_on.wait(20)
            answers = threading.Thread(target=_copy, args=(upstream, client))
            answers.start()
            _copy(client, upstream)
            answers.join()

    def accept() -> None:
        threads = []
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=pass_on, args=(client,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked, go_on
    finally:
        go_on.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # One side has closed; no reader is left.
