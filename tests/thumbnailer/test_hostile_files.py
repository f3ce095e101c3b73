"""Mutated files of every kind and bombs, given to what draws them in the server: a sealed worker, and a sealed ffmpeg.
Each is a picture, or an error of the client. The server itself is in `test_hostile` and `test_kinds_hostile`.

MUTATED_FILES=300 tries more of each kind. The short form has the first ones of these: each kind of file, request and
mutation is among them.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import PIL.Image
import pytest

from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import ThumbnailError
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Request
from md5s3stash_thumbnailer.render.region_request import UNTURNED, AskedRegion, AskedSize, Output, RegionRequest
from md5s3stash_thumbnailer.request import ThumbnailRequest
from md5s3stash_thumbnailer.server.answers import describe
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg
from md5s3stash_thumbnailer.stills.parts import Parts, still_of_parts
from md5s3stash_thumbnailer.stills.still import make_still
from md5s3stash_thumbnailer.workers.pool import PoolLimits, _Worker
from tests.thumbnailer import corpus
from tests.thumbnailer.hostile_files import DRAWN, STILLS, MutatedFiles, mutated
from tests.thumbnailer.test_icons import FILES

MUTATED_FILES = int(os.environ.get("MUTATED_FILES", "16"))
# ffmpeg starts twice or more for each.
STILLS_OF_MUTATED_FILES = int(os.environ.get("MUTATED_FILES", "10"))
# They end where their memory does: on a busy machine a short time would end others too.
SECONDS = 600.0
MEMORY_BYTES = 256 * 1024 * 1024
LIMITS = RenderLimits(max_original_pixels=4_000_000, reduced_side=40, kinds=tuple(kinds.every()), icons=True)
BOUNDS = Bounds(SECONDS, MEMORY_BYTES)
MD5 = "0" * 32
REQUESTS: list[Request] = [
    ThumbnailRequest("crop", 40, 30, MD5),
    ThumbnailRequest("clip", 30, 30, MD5, formats=("avif", "webp", "usual")),
    ThumbnailRequest("fill", 30, 30, MD5, (("format", "png"), ("preserve_exif", "1"))),
    RegionRequest(MD5, AskedRegion("full"), AskedSize("max"), UNTURNED, Output("default", "jpg"), (64, 64)),
]
PAGE = ThumbnailRequest("clip", 30, 30, MD5, part="page=2")
TIMES = (None, 0.0, 2.35)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> MutatedFiles:
    return MutatedFiles(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def worker() -> Iterator[_Worker]:
    worker = _Worker(LIMITS, PoolLimits(SECONDS, SECONDS, MEMORY_BYTES, 1, SECONDS), 1_000_000, Counter())
    yield worker
    worker.close()
    worker.end(time.monotonic() + 5)


@pytest.fixture(scope="module")
def programs() -> Ffmpeg:
    found = Ffmpeg.installed()
    assert found is not None, "tools/bootstrap installs it"
    return found


def is_drawn(worker: _Worker, path: Path, request: Request, kind: Kind = Kind.ORIGINAL) -> bool:
    """Whether it is a picture; otherwise it is the client's fault."""
    with path.open("rb") as file:
        made = done_or_refused(lambda: worker.render(Source(file, kind), request, SECONDS)[0].body)
    if made:
        PIL.Image.open(io.BytesIO(made)).load()
    return bool(made)


def done_or_refused(make: Callable[[], bytes]) -> bytes:
    """What is made; empty if it is refused."""
    try:
        return make()
    except (PilboxError, ThumbnailError) as error:
        refused = error
    assert 400 <= describe(refused, 500)[0] < 500, getattr(refused, "traceback", refused)
    return b""


@pytest.mark.parametrize("kind", [*corpus.KINDS, *DRAWN])
def test_mutated_file_is_drawn_or_refused(files: MutatedFiles, worker: _Worker, tmp_path: Path, kind: str) -> None:
    path, requests = tmp_path / "mutated", [*REQUESTS, PAGE] if kind == "pdf" else REQUESTS
    for number in range(MUTATED_FILES):
        path.write_bytes(files.file(kind, number))
        is_drawn(worker, path, random.Random(number).choice(requests))


@pytest.mark.parametrize("kind", STILLS)
def test_still_of_a_mutated_file_is_drawn_or_refused(
    files: MutatedFiles, worker: _Worker, programs: Ffmpeg, tmp_path: Path, kind: str
) -> None:
    path, picture = tmp_path / "mutated", tmp_path / "still"
    for number in range(STILLS_OF_MUTATED_FILES):
        path.write_bytes(files.file(kind, number))
        seconds = random.Random(number).choice(TIMES)
        make = still_of_large if kind == "video" and number % 3 == 0 else still
        made = done_or_refused(lambda: make(programs, path, seconds))  # noqa: B023 - called at once
        if made:
            picture.write_bytes(made)
            is_drawn(worker, picture, REQUESTS[0], Kind.STILL)


def still(programs: Ffmpeg, path: Path, seconds: float | None) -> bytes:
    with path.open("rb") as file:
        return make_still(programs, file, seconds, BOUNDS).picture


def still_of_large(programs: Ffmpeg, path: Path, seconds: float | None) -> bytes:
    """As of one of which the server reads parts."""
    with path.open("rb") as file:

        def read(first: int, last: int) -> bytes:
            return os.pread(file.fileno(), last - first + 1, first)

        with closing(Parts(read, path.stat().st_size)) as parts:
            return still_of_parts(programs, parts, seconds, BOUNDS)


def test_mutated_file_of_a_type_that_is_not_shown_is_an_icon_or_refused(worker: _Worker, tmp_path: Path) -> None:
    path, originals = tmp_path / "mutated", [data for files in FILES.values() for data in files if len(data) > 8]
    for number in range(max(len(originals), MUTATED_FILES)):
        path.write_bytes(mutated(originals[number % len(originals)], random.Random(number), kept=2))
        is_drawn(worker, path, REQUESTS[number % 2])
