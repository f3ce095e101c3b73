"""Code that runs in a real worker of a real server is refused everything; what a worker answers is checked."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image
import pytest

from md5s3stash.sealed.process import missing
from md5s3stash_thumbnailer import errors
from md5s3stash_thumbnailer._pilbox import RectangleError
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, RenderLimits, Request, Thumbnail, render
from md5s3stash_thumbnailer.render.region_request import (
    UNTURNED,
    AskedRegion,
    AskedSize,
    Output,
    RegionRequest,
    Rotation,
    SizeRequest,
)
from md5s3stash_thumbnailer.request import ThumbnailRequest
from md5s3stash_thumbnailer.workers import pool
from md5s3stash_thumbnailer.workers.messages import (
    read_error,
    read_request,
    read_thumbnail,
    written_error,
    written_request,
    written_thumbnail,
)
from tests.support import sealed_attempts, servers
from tests.support.reachable import SECRET, reachable, unrefused
from tests.thumbnailer.conftest import Thumbnailer, environment, picture

MD5 = "0" * 32


@contextmanager
def started(directory: Path, endpoint: str, *program: str, **more: str) -> Iterator[Thumbnailer]:
    """A server by another command than the installed one."""
    port = servers.free_port()
    log = directory / "thumbnailer.log"
    options = ("--address=127.0.0.1", f"--port={port}", "--workers=1", f"--cache_dir={directory / 'cache'}")
    with servers.running([*program, *options], port, log, environment(endpoint, **more)) as process:
        yield Thumbnailer(port, process, log)


def test_code_in_a_worker_is_refused_everything(s3_server: str, put: Callable[[bytes], str], tmp_path: Path) -> None:
    original = picture() + os.urandom(8)
    md5 = put(original)
    # `server` is replaced by the process of the server.
    with reachable(tmp_path / "reach", 0) as reach:
        program = [sys.executable, sealed_attempts.__file__, "serve"]
        more = {"SEALED_ATTEMPTS": reach.described, SECRET[0]: SECRET[1]}
        with started(tmp_path, s3_server, *program, **more) as server:
            answer = server.get(f"/clip/100x100/{md5}")
            assert answer.status == 200, server.log
            ended = answer.json
            assert ended.pop("the original") == "done: 100"
            assert ended.pop("write the original").startswith("failed: EINVAL")
            # It is on a connected socket, so the kernel looks at no other address.
            assert ended.pop("send to an abstract socket") in ("failed: EISCONN", "failed: EOPNOTSUPP")
            assert unrefused(ended) == {}
            # Its channel, and the original.
            assert len(ended["descriptors"].split(",")) == 5
            # The server has not lost a worker by it.
            assert "worker_replaced" not in server.log
        assert reach.is_untouched()


def test_a_worker_starts_without_the_credentials_of_the_server(server: Thumbnailer) -> None:
    def workers() -> list[Path]:
        tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
        children = [Path("/proc", pid) for task in tasks for pid in (task / "children").read_text().split()]
        return [child for child in children if b"workers.worker" in (child / "cmdline").read_bytes()]

    servers.wait_until(lambda: len(workers()) == 2, "two workers")
    for worker in workers():
        shown = (worker / "cmdline").read_bytes() + (worker / "environ").read_bytes()
        assert b"AWS_" not in shown
        assert b"BUCKET" not in shown


@pytest.mark.parametrize("lacking", ["landlock", "seccomp"])
def test_without_a_part_of_the_room_the_server_says_so_and_draws(
    s3_server: str, put: Callable[[bytes], str], tmp_path: Path, lacking: str
) -> None:
    old = [sys.executable, "-m", "tests.support.seccomp", f"--without={lacking}"]
    lacks = ", ".join(name for name in ("seccomp", "landlock") if name == lacking or name in missing())
    with started(tmp_path, s3_server, *old, sys.executable, "-m", "md5s3stash_thumbnailer") as server:
        assert server.get("/healthz").json == {"status": "ok", "workers_not_sealed": lacks}
        assert "md5s3stash_thumbnailer_workers_sealed 0.0" in server.get("/metrics").body.decode()
        assert server.get(f"/clip/100x100/{put(picture())}").image.size == (100, 75)
        assert server.log.count(f"event=workers_not_sealed missing='{lacks}'") == 1


def test_the_metric_says_whether_workers_are_sealed(server: Thumbnailer) -> None:
    assert f"md5s3stash_thumbnailer_workers_sealed {float(not missing())}" in server.get("/metrics").body.decode()


@pytest.mark.parametrize(
    "request_",
    [
        ThumbnailRequest("crop", 0, 90, MD5, (("background", "fff"), ("position", "face"))),
        ThumbnailRequest("crop", 0, 90, MD5, formats=("avif", "usual")),
        SizeRequest(MD5),
        PyramidRequest(MD5, 10**12),
        RegionRequest(MD5, AskedRegion("full"), AskedSize("max"), UNTURNED, Output("default", "jpg"), (1, 2)),
        RegionRequest(
            MD5,
            AskedRegion("pct", (Fraction(1, 3), Fraction(0), Fraction("33.3333333333"), Fraction(10**20, 7))),
            AskedSize("confined", (Fraction(9), Fraction(8)), enlarges=True, is_never_larger=True),
            Rotation(is_mirrored=True, degrees=Fraction("22.0000000001")),
            Output("bitonal", "png", (("quality", "75"),)),
            (4096, 4096),
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_request_reaches_the_worker_as_it_is(request_: ThumbnailRequest) -> None:
    assert read_request(json.loads(json.dumps(written_request(request_)))) == request_


def test_a_thumbnail_reaches_the_server_as_it_is() -> None:
    thumbnail = Thumbnail("image/webp", b"picture", is_truncated=True, original_size=(40_000, 3))
    thumbnail = replace(thumbnail, encoder_costs=(("JPEG", 700), ("WEBP", 0)), saved_bytes=10_000)
    message = json.loads(json.dumps(written_thumbnail(thumbnail, 5000)))
    read = read_thumbnail(message, b"picture")
    assert (read, read[0].encoder_costs) == ((thumbnail, 5000), thumbnail.encoder_costs)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotAnImage("File is not an image: 100 % wrong"),
        errors.TooManyPixels("Too many pixels"),
        errors.RequestRefused("Invalid size", 2),
        errors.PyramidNeeded("from a pyramid"),
        RectangleError("Region out-of-bounds: 100 %"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_reaches_the_server_as_it_is(error: errors.ThumbnailError | RectangleError) -> None:
    read = read_error(json.loads(json.dumps(written_error(error))))
    assert (type(read), str(read), read.args) == (type(error), str(error), error.args)


def test_an_error_that_no_worker_answers_with_is_one_of_this_program() -> None:
    read = read_error(written_error(errors.OriginalNotFound("none")))
    assert isinstance(read, errors.RenderFailed)
    assert "OriginalNotFound: none" in read.traceback


@pytest.fixture(scope="module")
def worker() -> Iterator[pool._Worker]:
    limits = pool.PoolLimits(120.0, 120.0, 2**30, 1, 120.0)
    worker = pool._Worker(RenderLimits(reduced_side=400), limits, 1_000_000, Counter())
    yield worker
    worker.close()
    worker.end(time.monotonic() + 5)


# All that a decoder or an encoder imports late has to be there before the seal.
DRAWN: list[Request] = [
    ThumbnailRequest("crop", 40, 60, MD5, (("position", "face"),)),
    ThumbnailRequest("fill", 40, 60, MD5, (("background", "ff00ff80"), ("format", "png"))),
    ThumbnailRequest("fill", 40, 60, MD5, formats=("avif", "webp", "usual")),
    ThumbnailRequest("clip", 50, 50, MD5, (("operation", "rotate,resize"), ("degree", "33"), ("preserve_exif", "1"))),
    RegionRequest(MD5, AskedRegion("full"), AskedSize("max"), UNTURNED, Output("gray", "avif"), (4096, 4096)),
    RegionRequest(MD5, AskedRegion("full"), AskedSize("max"), UNTURNED, Output("default", "tif"), (4096, 4096)),
    RegionRequest(MD5, AskedRegion("full"), AskedSize("max"), UNTURNED, Output("bitonal", "gif"), (4096, 4096)),
]


@pytest.mark.parametrize("cut", [None, 0.6], ids=["whole", "cut off"])
@pytest.mark.parametrize(
    ("image_format", "mode"),
    [
        *(("AVIF", "RGBA"), ("BMP", "P"), ("GIF", "P"), ("JPEG", "CMYK"), ("JPEG", "RGB"), ("JPEG2000", "RGB")),
        *(("PNG", "I;16"), ("PNG", "LA"), ("TIFF", "LAB"), ("TIFF", "I;16"), ("TIFF", "1"), ("WEBP", "RGBA")),
    ],
)
def test_a_sealed_worker_draws_what_is_drawn_outside(
    worker: pool._Worker, tmp_path: Path, image_format: str, mode: str, cut: float | None
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "h\xe9"
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif},
        "WEBP": {"exif": exif},
        "AVIF": {"exif": exif},
        "TIFF": {"compression": "tiff_lzw"},
    }
    original = PIL.Image.open(io.BytesIO(picture((90, 60), "PNG"))).convert(mode)
    path = tmp_path / "original"
    original.save(path, image_format, **options.get(image_format, {}))
    if cut:
        os.truncate(path, int(path.stat().st_size * cut))

    def ended(draw: Callable[[BinaryIO], Thumbnail]) -> Thumbnail | tuple[str, str]:
        with path.open("rb") as file:
            try:
                return draw(file)
            except errors.ThumbnailError as error:
                return type(error).__name__, str(error)

    for request in DRAWN:
        inside = ended(lambda file: worker.render(Source(file), request, 120.0)[0])  # noqa: B023 - called at once
        assert inside == ended(lambda file: render(file, request, RenderLimits(reduced_side=400)))  # noqa: B023
    assert worker._replacements == {}


def test_a_worker_writes_no_more_into_a_file_than_the_cache_may_have(worker: pool._Worker, tmp_path: Path) -> None:
    PIL.Image.effect_noise((1500, 1500), 60).save(tmp_path / "original", "JPEG")
    with (tmp_path / "original").open("rb") as file, (tmp_path / "pyramid").open("w+b") as pyramid:
        with pytest.raises(errors.PyramidNotWritten):
            worker.write_pyramid(Source(file), PyramidRequest(MD5, 10**12), 120.0, pyramid)
        assert os.fstat(pyramid.fileno()).st_size <= 1_000_000


# Says that it is ready, reads a request, and answers with the bytes of its argument.
LIAR = """
import socket, struct, sys, time
end = socket.socket(fileno=int(sys.argv[2]))
ready = b'{"ready": true}'
end.sendall(struct.pack(">II", len(ready), 0) + ready)
end.recv(100_000)
end.sendall(bytes.fromhex(sys.argv[1]))
while end.recv(100_000):
    pass
"""


def said(message: object, body: bytes = b"", more_bytes: int = 0) -> bytes:
    text = json.dumps(message).encode()
    return struct.pack(">II", len(text), len(body) + more_bytes) + text + body


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (pickle.dumps(Thumbnail("image/png", b"")), errors.WorkerDied),
        (said([]), errors.WorkerDied),
        (said({}), errors.WorkerDied),
        (said({"error": "OSError", "message": ""}), errors.WorkerDied),
        (said({"mime_type": "text/html", "is_truncated": False, "original_size": [1, 1]}), errors.WorkerDied),
        (said({}, more_bytes=2**32 - 1), errors.WorkerDied),
        # The rest never comes. It has not computed, so it may have been kept from it by others.
        (said({}, b"a", more_bytes=5), errors.Overloaded),
        (b"", errors.Overloaded),
    ],
    ids=["pickle", "list", "empty", "error", "type", "length", "half", "nothing"],
)
def test_a_worker_that_lies_costs_one_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(pool, "WORKER", [sys.executable, "-c", LIAR, answer.hex()])
    monkeypatch.setattr(pool, "_STOP_SECONDS", 0.1)
    (tmp_path / "original").write_bytes(b"picture")
    replacements: Counter[str] = Counter()
    worker = pool._Worker(RenderLimits(), pool.PoolLimits(1, 1, 2**30, 1, 1), 2**20, replacements)
    try:
        with (tmp_path / "original").open("rb") as file, pytest.raises(error):
            worker.render(Source(file), DRAWN[0], 1.0 if error is errors.Overloaded else 60.0)
    finally:
        worker.close()
        worker.end(time.monotonic() + 1)
    assert replacements.total() == 1


def test_a_worker_that_the_machine_is_too_busy_to_start_is_waited_for_by_later_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = tmp_path / "original"
    PIL.Image.new("RGB", (4, 4)).save(original, "PNG")
    replacements: Counter[str] = Counter()
    worker = pool._Worker(RenderLimits(), pool.PoolLimits(1, 1, 2**30, 1, 1), 2**20, replacements)
    try:
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(pool, "_START_SECONDS", 0.1)
        for _ in range(2):
            with original.open("rb") as file, pytest.raises(errors.Overloaded, match="not ready"):
                worker.render(Source(file), DRAWN[0], 60.0)
        assert replacements.total() == 0

        os.kill(worker._process.pid, signal.SIGCONT)
        monkeypatch.setattr(pool, "_START_SECONDS", 60.0)
        with original.open("rb") as file:
            thumbnail, _ = worker.render(Source(file), DRAWN[0], 60.0)
        assert thumbnail.body

        # One that hangs is replaced.
        worker._replace("killed")
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(pool, "_START_SECONDS", 0.1)
        monkeypatch.setattr(pool, "_HANGS_SECONDS", 0.0)
        with original.open("rb") as file, pytest.raises(errors.Overloaded):
            worker.render(Source(file), DRAWN[0], 60.0)
        assert replacements == {"killed": 1, "timeout": 1}
    finally:
        worker.close()
        worker.end(time.monotonic() + 1)


FINE = {
    "mime_type": "image/png",
    "is_truncated": False,
    "original_size": [1, 1],
    "original_kind": "",
    "icon": "",
    "encoder_costs": [],
    "saved_bytes": 0,
    "reduced_bytes": 0,
}


def test_a_fine_thumbnail_is_not_refused() -> None:
    assert read_thumbnail(FINE, b"")[1] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"mime_type": "text/html"},
        {"mime_type": "image/png\r\nSet-Cookie: a=b"},
        {"mime_type": ["image/png"]},
        {"is_truncated": "yes"},
        {"original_size": [1]},
        {"original_size": [-1, 1]},
        {"original_size": [True, 1]},
        {"original_size": [2**40, 1]},
        {"encoder_costs": {}},
        {"encoder_costs": [["JPEG", 1]] * 5},
        {"encoder_costs": [["text/html", 1]]},
        {"encoder_costs": [[["JPEG"], 1]]},
        {"encoder_costs": [["JPEG", -1]]},
        {"encoder_costs": [["JPEG", 1e400]]},
        {"encoder_costs": ["JPEG"]},
        {"saved_bytes": -1},
        {"saved_bytes": 0.5},
        {"reduced_bytes": 1.5},
        {"reduced_bytes": -1},
    ],
    ids=str,
)
def test_a_thumbnail_that_a_worker_made_up_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_thumbnail({**FINE, **wrong}, b"")


@pytest.mark.parametrize(
    "wrong",
    [
        {"error": "SystemExit", "message": ""},
        {"error": ["NotAnImage"], "message": ""},
        {"error": "NotAnImage", "message": 5},
        {"error": "RequestRefused", "message": "", "code": "x"},
        {"error": "NotAnImage"},
    ],
    ids=str,
)
def test_an_error_that_a_worker_made_up_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_error(wrong)


def test_a_worker_writes_no_line_of_the_log() -> None:
    read = read_error({"error": "RenderFailed", "message": "a\nevent=forged\x1b[31m\r"})
    assert isinstance(read, errors.RenderFailed)
    assert read.traceback == "  a\n  event=forged?[31m?"
    assert len(str(read_error({"error": "NotAnImage", "message": "x" * 10**6}))) == 1000
