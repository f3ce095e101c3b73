"""The reduced copies in the cache: made after the first answer, used for further sizes, and never a cause of errors."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from md5s3stash_thumbnailer.cache.disk import DiskCache
from tests.support import servers
from tests.support.digest_s3 import DigestS3
from tests.support.mounts import tiny_disk, with_mounts
from tests.thumbnailer.conftest import Answer, Thumbnailer, command, environment, picture
from tests.thumbnailer.test_faults import gets, stash
from tests.thumbnailer.test_server import _render_workers, thumbnailer

SIZE = (1600, 1200)
SIDE = "--reduced_side=400"


@pytest.fixture(scope="module")
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


def new_picture() -> bytes:
    """A new md5: bytes after the end of a JPEG change nothing else."""
    return picture(SIZE) + os.urandom(8)


def cache_of(server: Thumbnailer) -> Path:
    return server.log_path.parent / f"cache-{server.port}"


def copy_of(server: Thumbnailer, md5: str) -> Path:
    return cache_of(server) / f"{md5}.reduced"


def ask(server: Thumbnailer, md5: str, width: int = 100) -> Answer:
    answer = server.get(f"/clip/{width}x{width}/{md5}")
    assert (answer.status, answer.image.size) == (200, (width, width * 3 // 4))
    return answer


def await_copy(server: Thumbnailer, md5: str) -> Path:
    servers.wait_until(copy_of(server, md5).exists, "copy written")
    return copy_of(server, md5)


def kill_workers(server: Thumbnailer) -> None:
    workers = _render_workers(server)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    servers.wait_until(lambda: not any(map(servers.is_alive, workers)), "workers dead")


def lookups(server: Thumbnailer, result: str) -> int:
    text = server.get("/metrics").body.decode()
    found = re.search(rf'cache_lookups_total{{result="{result}"}} (\d+)', text)
    assert found
    return int(found[1])


def test_further_sizes_come_from_the_copy_and_need_no_original(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint, SIDE) as server:
        md5 = stash(s3, new_picture())
        first = ask(server, md5)
        copy = await_copy(server, md5)
        assert copy.stat().st_mtime == (cache_of(server) / md5).stat().st_mtime
        (cache_of(server) / md5).unlink()
        before = gets(s3)
        again = ask(server, md5)
        assert again.body == first.body
        assert [again.headers[name] for name in ("ETag", "Last-Modified")] == [
            first.headers[name] for name in ("ETag", "Last-Modified")
        ]
        ask(server, md5, 160)
        assert gets(s3) == before
        assert lookups(server, "reduced") == 2
        # A size too large for the copy needs the original again.
        ask(server, md5, 400)
        assert gets(s3) == before + 1


def test_setting_of_0_keeps_no_copies_and_gives_other_validators(s3: DigestS3, tmp_path: Path) -> None:
    md5 = stash(s3, new_picture())
    with thumbnailer(tmp_path, s3.endpoint, SIDE) as server:
        etag = ask(server, md5).headers["ETag"]
    with thumbnailer(tmp_path, s3.endpoint, "--reduced_side=0") as server:
        assert ask(server, md5).headers["ETag"] != etag
        ask(server, md5, 160)
        assert lookups(server, "reduced") == 0
        assert {path.name for path in cache_of(server).iterdir()} == {md5}


@pytest.fixture(scope="module")
def reducing(s3: DigestS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    with thumbnailer(tmp_path_factory.mktemp("reducing"), s3.endpoint, SIDE) as server:
        yield server


@pytest.mark.parametrize("damage", ["cut", "emptied", "zeroed", "flipped", "head"])
def test_damaged_copy_spoils_no_answer_and_is_written_anew(s3: DigestS3, reducing: Thumbnailer, damage: str) -> None:
    md5 = stash(s3, new_picture())
    first = ask(reducing, md5)
    copy = await_copy(reducing, md5)
    whole = copy.read_bytes()
    damaged = {
        "cut": whole[:5000],
        "emptied": b"",
        "zeroed": whole[:4096] + bytes(len(whole) - 4096),
        "flipped": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "head": b"\0" * 300 + whole[300:],
    }[damage]
    copy.write_bytes(damaged)
    assert ask(reducing, md5).body == first.body
    servers.wait_until(lambda: copy.exists() and copy.read_bytes() == whole, "a new copy")
    assert ask(reducing, md5).body == first.body
    assert "worker_replaced" not in reducing.log


def test_worker_that_is_killed_leaves_no_half_copy(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint, SIDE) as server:
        for _ in range(6):
            md5 = stash(s3, new_picture())
            body = ask(server, md5).body
            kill_workers(server)
            # With a whole copy or without one, the next answer is the same.
            assert ask(server, md5).body == body


@pytest.mark.needs_namespaces
def test_full_disk_costs_no_request(s3: DigestS3, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    port = servers.free_port()
    serve = command("--address=127.0.0.1", f"--port={port}", "--workers=1", f"--cache_dir={disk}", SIDE)
    log_path = tmp_path / "tiny.log"
    # There is room for the original, but not for the copy.
    mounted = with_mounts([tiny_disk(disk, "128k")], serve)
    with servers.running(mounted, port, log_path, environment(s3.endpoint)) as process:
        server = Thumbnailer(port, process, log_path)
        md5 = stash(s3, new_picture())
        bodies = {ask(server, md5).body for _ in range(3)}
        assert len(bodies) == 1
        assert lookups(server, "reduced") == 0
        assert "Traceback" not in server.log


def test_cache_that_is_gone_costs_no_request(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint, SIDE) as server:
        shutil.rmtree(cache_of(server))
        md5 = stash(s3, new_picture())
        assert len({ask(server, md5).body for _ in range(2)}) == 1


def test_copies_count_in_the_bound_and_go_as_originals_do(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(bytes(10_000))

    cache = DiskCache(tmp_path, 100_000)
    names = [f"{number:032x}" for number in range(30)]
    for number, md5 in enumerate(names):
        cache.keep_reduced(md5, 0.0, write)
        os.utime(tmp_path / f"{md5}.reduced", ns=(time.time_ns() + number, 0))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 110_000
    assert cache.open_reduced(names[0]) is None
    last = cache.open_reduced(names[-1])
    assert last is not None
    last.close()
    assert cache.counts.evictions >= 20


def test_copy_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    def half(_: BinaryIO) -> None:
        raise OSError("disk full")

    DiskCache(tmp_path, 100_000).keep_reduced("0" * 32, 0.0, half)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["-1", "100", "5000"])
def test_setting_out_of_bounds_is_refused(value: str) -> None:
    from tests.thumbnailer.test_server import refused_in_one_line, start

    refused_in_one_line(
        start(f"--reduced_side={value}", BUCKET_BASE="pictures"), 2, "reduced_side must be 0 or between"
    )


def test_error_of_our_own_is_500_and_logged_once_with_its_traceback(
    s3_server: str, put: Callable[[bytes], str], tmp_path: Path
) -> None:
    # Every interpreter imports it at its start, including the workers.
    (tmp_path / "sitecustomize.py").write_text(
        "from md5s3stash_thumbnailer.render import geometry\n"
        "def broken(*arguments):\n    return 1 // 0\n"
        "broken.__globals__['__package__'] = 'md5s3stash_thumbnailer'\n"
        "geometry.crop = broken\n"
    )
    path = os.pathsep.join((str(tmp_path), environment(s3_server)["PYTHONPATH"]))
    with thumbnailer(tmp_path, s3_server, PYTHONPATH=path) as server:
        good, bad = put(picture()), put(b"no picture")
        answer = server.get(f"/crop/50x50/{good}")
        assert (answer.status, answer.json["error_code"]) == (500, 207)
        assert b"ZeroDivisionError" not in answer.body
        assert server.get(f"/clip/50x50/{good}").status == 200
        assert server.get(f"/clip/50x50/{bad}").status == 415
        assert server.log.count("Traceback") == 1
        assert server.log.count("ZeroDivisionError") == 1
        assert "worker_replaced" not in server.log
