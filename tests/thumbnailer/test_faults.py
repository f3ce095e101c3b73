"""Each fault around a request has its status, and the next request succeeds."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support import servers
from tests.support.digest_s3 import DigestS3, Silence
from tests.support.mounts import tiny_disk, with_mounts
from tests.support.origin import RawReply, Reply
from tests.thumbnailer.conftest import BUCKET_BASE, TWO_WORKERS, Thumbnailer, command, environment, picture, thumbnailer


@pytest.fixture(scope="module")
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


@pytest.fixture(scope="module")
def faulty(s3: DigestS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    options = (TWO_WORKERS, "--timeout=2", "--max_original_bytes=1000000", "--cache_bytes=1000000")
    with thumbnailer(tmp_path_factory.mktemp("faulty"), s3.endpoint, *options) as server:
        yield server


def stash(s3: DigestS3, data: bytes, md5: str | None = None) -> str:
    """Puts the bytes under their md5, or under a given one."""
    bucket, _, prefix = BUCKET_BASE.partition("/")
    s3.buckets.add(bucket)
    md5 = md5 or hashlib.md5(data).hexdigest()
    _client(s3.endpoint).put_object(Bucket=bucket, Key=f"{prefix}/{md5}", Body=data)
    return md5


@functools.cache
def _client(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def new_picture() -> bytes:
    """A new md5: bytes after the end of a JPEG change nothing else."""
    return picture() + os.urandom(8)


def gets(s3: DigestS3) -> int:
    """The GETs of originals, without readiness probes, which request one byte."""
    asked = list(s3.requests)
    return sum(each.method == "GET" and "range" not in each.headers for each in asked)


# What is asked for of an md5.
FORMS = ["/clip/100x100/{}", "/iiif/3/{}/full/pct:50/0/default.jpg", "/iiif/3/{}/info.json"]


def test_a_hundred_requests_for_a_new_digest_ask_s3_once(s3: DigestS3, faulty: Thumbnailer) -> None:
    md5 = stash(s3, new_picture())
    before = gets(s3)
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(faulty.get, [f"/clip/100x100/{md5}"] * 100))
    assert {answer.status for answer in answers} == {200}
    assert gets(s3) - before == 1
    assert faulty.get(f"/crop/50x50/{md5}").status == 200
    assert gets(s3) - before == 1


@pytest.mark.parametrize("form", FORMS)
def test_bytes_with_another_md5_are_502_and_not_kept(s3: DigestS3, faulty: Thumbnailer, form: str) -> None:
    data = new_picture()
    md5 = hashlib.md5(data).hexdigest()
    stash(s3, new_picture(), md5)
    answer = faulty.get(form.format(md5))
    assert (answer.status, answer.json["error_code"]) == (502, 305)
    assert answer.json["error"] == "The object in S3 is damaged: it does not have this md5"
    s3.objects.clear()
    stash(s3, data)
    assert faulty.get(form.format(md5)).status == 200


@pytest.mark.parametrize("form", FORMS)
def test_a_body_that_breaks_off_is_502_and_the_next_try_is_fine(s3: DigestS3, faulty: Thumbnailer, form: str) -> None:
    md5 = stash(s3, new_picture())
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    s3.script("GET", RawReply([head, b"x" * 1000]), key=md5)
    assert faulty.get(form.format(md5)).status == 502
    assert faulty.get(form.format(md5)).status == 200


@pytest.mark.parametrize("form", FORMS)
def test_s3_that_hangs_is_504_and_the_next_try_is_fine(s3: DigestS3, faulty: Thumbnailer, form: str) -> None:
    md5 = stash(s3, new_picture())
    s3.script("GET", Silence(), key=md5)
    before = gets(s3)
    assert faulty.get(form.format(md5)).status == 504
    # The thread that waited for S3 retries, and would consume the answer meant for the next test.
    servers.wait_until(lambda: gets(s3) - before == 2, "the retry of the abandoned request")
    assert faulty.get(form.format(md5)).status == 200


@pytest.mark.parametrize("form", FORMS)
def test_s3_that_denies_is_502_and_unknown_is_404_and_too_large_is_413(
    s3: DigestS3, faulty: Thumbnailer, form: str
) -> None:
    md5 = stash(s3, new_picture())
    s3.script("GET", Reply(403), key=md5)
    assert faulty.get(form.format(md5)).status == 502
    assert faulty.get(form.format("0" * 32)).status == 404
    assert faulty.get(form.format(stash(s3, bytes(1_000_001)))).status == 413
    assert faulty.get(form.format(md5)).status == 200


def test_cache_that_is_gone_costs_no_request(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint) as server:
        directory = tmp_path / f"cache-{server.port}"
        shutil.rmtree(directory)
        directory.write_bytes(b"a file in its place")
        md5 = stash(s3, new_picture())
        assert [server.get(f"/clip/100x100/{md5}").status for _ in range(2)] == [200, 200]
        directory.unlink()
        directory.mkdir(mode=0o700)
        assert server.get(f"/clip/100x100/{md5}").status == 200
        assert {path.name for path in directory.iterdir()} == {md5}


@pytest.mark.needs_namespaces
def test_full_disk_costs_no_request(s3: DigestS3, tmp_path: Path) -> None:
    with _on_a_tiny_disk(tmp_path, s3.endpoint) as server:
        large, small = stash(s3, os.urandom(200_000)), stash(s3, new_picture())
        # Not a picture, but it was fetched and checked.
        assert server.get(f"/clip/100x100/{large}").status == 415
        assert server.get(f"/clip/100x100/{small}").status == 200
        assert "cache_fault" in server.log


@contextmanager
def _on_a_tiny_disk(directory: Path, endpoint: str) -> Iterator[Thumbnailer]:
    """A server whose cache is on a private disk of 64 KiB."""
    disk = directory / "disk"
    disk.mkdir()
    port = servers.free_port()
    serve = command("--address=127.0.0.1", f"--port={port}", "--workers=1", f"--cache_dir={disk}")
    log_path = directory / "tiny.log"
    with servers.running(
        with_mounts([tiny_disk(disk, "64k")], serve), port, log_path, environment(endpoint)
    ) as process:
        yield Thumbnailer(port, process, log_path)
