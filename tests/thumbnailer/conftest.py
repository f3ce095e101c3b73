"""A running thumbnailer with a running S3, generated pictures, and a small HTTP client."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import PIL.Image
import pytest

from md5s3stash_thumbnailer.render import grid
from md5s3stash_thumbnailer.render.levels import maker, pyramid
from tests.support import servers, warm

ROOT = Path(__file__).parents[2]
BUCKET_BASE = "pictures/originals"
SMALL_TILE = 64
TWO_WORKERS = "--workers=2"
MODULE = "md5s3stash_thumbnailer"
FORKING = "tests.thumbnailer.forking"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def image(self) -> PIL.Image.Image:
        return PIL.Image.open(io.BytesIO(self.body))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Thumbnailer:
    """A running server: its address, its process, its log."""

    port: int
    process: servers.Process
    log_path: Path

    def request(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @property
    def log(self) -> str:
        return self.log_path.read_text()


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", MODULE, *options]


def environment(endpoint: str | None, **more: str) -> dict[str, str]:
    """The server's environment: a checkout is enough, without an installation."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BUCKET_", "S3_"))}
    stash = {"BUCKET_BASE": BUCKET_BASE, "S3_ENDPOINT": endpoint} if endpoint else {}
    path = os.pathsep.join((str(ROOT), str(ROOT / "thumbnailer")))
    return {**kept, **CREDENTIALS, **stash, "PYTHONPATH": path, **more}


@contextmanager
def thumbnailer(
    directory: Path, endpoint: str, *options: str, program: str = MODULE, **more: str
) -> Iterator[Thumbnailer]:
    """A separate server for a test that needs other options or stops it: a fork of the warm process, which only
    PYTHONPATH reaches too late.

    It has one render worker unless the options say otherwise: each imports numpy and Pillow when it starts. With the
    program FORKING these are forks as well, for tests that start and end many and draw plain pictures.
    """
    port = servers.free_port()
    log_path = directory / f"thumbnailer-{port}.log"
    arguments = ["--address=127.0.0.1", f"--port={port}", "--workers=1", f"--cache_dir={directory / f'cache-{port}'}"]
    told = environment(endpoint, **more)
    if "PYTHONPATH" in more:
        with servers.running(command(*arguments, *options), port, log_path, told) as process:
            yield Thumbnailer(port, process, log_path)
        return
    fork = warm.start([program, *arguments, *options], told, log_path)
    with servers.listening(fork, port, log_path):
        yield Thumbnailer(port, fork, log_path)


def s3_client(endpoint: str) -> Any:
    """boto3's."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture(scope="session")
def put(s3_server: str) -> Callable[[bytes], str]:
    """Puts an original into the stash; returns its md5."""
    client = s3_client(s3_server)
    bucket, _, prefix = BUCKET_BASE.partition("/")
    client.create_bucket(Bucket=bucket)

    stashed: set[str] = set()

    def put_original(data: bytes) -> str:
        md5 = hashlib.md5(data).hexdigest()
        # Many tests put the same pictures.
        if md5 not in stashed:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{md5}", Body=data)
            stashed.add(md5)
        return md5

    return put_original


@pytest.fixture(scope="session")
def server(
    s3_server: str, put: Callable[[bytes], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Thumbnailer]:
    """One server with default options for all tests that only send requests. `put` has made its bucket."""
    with thumbnailer(tmp_path_factory.mktemp("thumbnailer"), s3_server, TWO_WORKERS) as running:
        yield running


def picture(size: tuple[int, int] = (400, 300), image_format: str = "JPEG", mode: str = "RGB") -> bytes:
    """A gradient from left to right, red to blue, so that a crop shows its position."""
    width, height = size
    gradient = PIL.Image.linear_gradient("L").rotate(90).resize(size)
    image = PIL.Image.merge("RGB", (gradient.point(lambda value: 255 - value), PIL.Image.new("L", size), gradient))
    out = io.BytesIO()
    image.convert(mode).save(out, image_format)
    assert (width, height) == image.size
    return out.getvalue()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many levels as a large picture has, of one that is quickly drawn."""
    for module in (grid, pyramid, maker):
        monkeypatch.setattr(module, "TILE", SMALL_TILE)
    pyramid._tiles_before.cache_clear()
    yield
    pyramid._tiles_before.cache_clear()
