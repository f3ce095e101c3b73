"""Thumbnails of videos and sounds over HTTP: as of any picture."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from md5s3stash.objectstore import MemoryObjectStore
from md5s3stash.scheme import BucketBase
from md5s3stash_thumbnailer.cache import originals
from md5s3stash_thumbnailer.cache.disk import open_cache
from md5s3stash_thumbnailer.cache.originals import FetchLimits
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.stills import Stills
from md5s3stash_thumbnailer.errors import TooManyBytes
from md5s3stash_thumbnailer.part import OfPart
from md5s3stash_thumbnailer.render.pipeline import RenderLimits
from md5s3stash_thumbnailer.render.region_request import SizeRequest
from tests.support.clips import SIZE, Clips
from tests.support.stores import content_of
from tests.thumbnailer.conftest import BUCKET_BASE, Thumbnailer, picture, s3_client, thumbnailer

Put = Callable[[bytes], str]

PATIENT = ("--render_timeout=120", "--queue_timeout=120")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def server(put: Put, s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """Patient: a still is made by processes that busy cores delay."""
    with thumbnailer(tmp_path_factory.mktemp("patient"), s3_server, *PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def video(put: Put, made: Clips) -> str:
    return put(made.video("mp4").read_bytes())


def stills_made(server: Thumbnailer, kind: str) -> float:
    start = f'md5s3stash_thumbnailer_stills_made_total{{kind="{kind}"}} '
    lines = server.get("/metrics").body.decode().splitlines()
    return next(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def test_video_is_shown_as_a_picture_made_once(server: Thumbnailer, video: str) -> None:
    before = stills_made(server, "video")
    first, second = server.get(f"/clip/160x160/{video}"), server.get(f"/crop/50x50/{video}")

    assert (first.status, first.headers["Content-Type"], first.image.size) == (200, "image/jpeg", (160, 90))
    assert (second.status, second.image.size) == (200, (50, 50))
    assert first.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Last-Modified" in first.headers
    assert stills_made(server, "video") <= before + 1


def test_other_time_is_another_picture(server: Thumbnailer, video: str) -> None:
    first, later, same = (server.get(f"/clip/160x160/{video}{query}") for query in ("", "?t=2.5", "?t=02.500"))

    assert {first.status, later.status, same.status} == {200}
    assert first.body != later.body == same.body
    assert first.headers["ETag"] != later.headers["ETag"] == same.headers["ETag"]
    again = server.get(f"/clip/160x160/{video}?t=2.5", If_None_Match=later.headers["ETag"])
    assert again.status == 304


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("t=99", 404, "The video has no frame at 99 seconds: it is 5.000 seconds long"),
        ("t=-1", 400, "Invalid t"),
        ("t=1e3", 400, "Invalid t"),
        ("t=nan", 400, "Invalid t"),
        ("t=12345678", 400, "Invalid t: seconds from 0 to 9999999.999"),
        ("t=1&page=2", 400, "what has a time has no pages"),
        ("page=2", 404, "has no page=2"),
        ("op=noop", 415, "not sent as it is"),
    ],
)
def test_what_a_video_has_not_is_refused(server: Thumbnailer, video: str, query: str, status: int, words: str) -> None:
    # Twice: the second answer comes from what is remembered or cached.
    for _ in range(2):
        answer = server.get(f"/clip/50x50/{video}?{query}")
        assert answer.status == status
        assert words in answer.json["error"]
        assert answer.headers["Cache-Control"] == "no-store"


def test_picture_and_sound_have_no_time(server: Thumbnailer, put: Put, made: Clips) -> None:
    for original in (put(picture()), put(made.sound("wav").read_bytes())):
        answer = server.get(f"/clip/50x50/{original}?t=1")
        assert answer.status == 404
        assert "The original has no" in answer.json["error"]


def test_sound_is_drawn_or_shown_by_its_cover(server: Thumbnailer, put: Put, made: Clips, tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    cover.write_bytes(picture((120, 120)))
    drawn = server.get(f"/clip/400x400/{put(made.sound('mp3').read_bytes())}")
    covered = server.get(f"/clip/400x400/{put(made.with_cover('mp3', cover).read_bytes())}")

    assert (drawn.status, drawn.headers["Content-Type"], drawn.image.size) == (200, "image/png", (400, 100))
    assert (covered.status, covered.headers["Content-Type"], covered.image.size) == (200, "image/jpeg", (120, 120))


def test_iiif_shows_the_still_and_other_times(server: Thumbnailer, video: str) -> None:
    info = server.get(f"/iiif/3/{video}/info.json").json
    image, later = (server.get(f"/iiif/3/{video}{time}/full/max/0/default.jpg") for time in ("", ";t=2.5"))

    assert (info["width"], info["height"]) == SIZE
    assert (image.status, image.image.size) == (200, SIZE)
    assert (later.status, later.image.size) == (200, SIZE)
    assert image.body != later.body


def test_damaged_video_is_refused_and_not_tried_again_at_once(server: Thumbnailer, put: Put, made: Clips) -> None:
    damaged = put(made.video("mp4").read_bytes()[:600])
    for _ in range(2):
        answer = server.get(f"/clip/50x50/{damaged}")
        assert (answer.status, answer.json["error_code"]) == (415, 201)
        assert "ffmpeg" in answer.json["error"]


@pytest.fixture(scope="module")
def small(put: Put, s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """A server to which nearly everything is too large to be fetched."""
    with thumbnailer(tmp_path_factory.mktemp("small"), s3_server, *PATIENT, "--max_original_bytes=20000") as running:
        yield running


@pytest.mark.parametrize("query", ["", "?t=2.5"])
def test_video_that_is_too_large_to_be_fetched_is_shown_from_parts(
    server: Thumbnailer, small: Thumbnailer, video: str, query: str
) -> None:
    whole, parts = (each.get(f"/clip/160x160/{video}{query}") for each in (server, small))

    assert parts.status == 200
    assert parts.body == whole.body
    assert parts.headers["Last-Modified"] == whole.headers["Last-Modified"]


def test_other_originals_that_are_too_large_stay_refused(small: Thumbnailer, put: Put, made: Clips) -> None:
    large_picture = picture((900, 700), "BMP")
    for original in (large_picture, made.sound("wav").read_bytes(), made.video("avi").read_bytes()):
        answer = small.get(f"/clip/50x50/{put(original)}")
        assert (answer.status, answer.json["error_code"]) == (413, 203)


def test_large_video_of_which_parts_are_not_enough_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OfWholesOnly(Stills):
        def is_shown_in_parts(self, md5: str) -> bool:
            return True

        async def picture_of_parts(self, asked: OfPart) -> Source:
            raise TooManyBytes("parts are not enough")

        async def picture_of(self, source: Source, asked: OfPart) -> Source:
            return source

    monkeypatch.setattr(originals, "_LARGE_BYTES", 10)
    base, data = BucketBase.parse("bucket", "simple"), bytes(1000)
    store, md5 = MemoryObjectStore(), hashlib.md5(data).hexdigest()
    store.put(base.address(md5), content_of(data), "video/x-msvideo")
    cache = open_cache(tmp_path / "cache", 100_000)
    limits = FetchLimits(1000, 30, 2, max_waiting=2)
    opened = originals.Originals(store, base, cache, limits, RenderLimits())
    opened.stills = OfWholesOnly.__new__(OfWholesOnly)

    async def read() -> bytes:
        with (await opened.open_whole(SizeRequest(md5))).file as file:
            return file.read()

    assert asyncio.run(read()) == data
    opened.close()


def test_parts_of_another_object_are_never_shown(small: Thumbnailer, s3_server: str, put: Put, made: Clips) -> None:
    client = s3_client(s3_server)
    bucket, _, prefix = BUCKET_BASE.partition("/")
    data = made.video("mov").read_bytes()
    other, unknown = "1" * 32, "2" * 32
    client.put_object(Bucket=bucket, Key=f"{prefix}/{other}", Body=data)
    # In parts, so that the ETag is not an md5, by another program.
    key = {"Bucket": bucket, "Key": f"{prefix}/{unknown}"}
    upload = client.create_multipart_upload(**key)["UploadId"]
    etag = client.upload_part(**key, UploadId=upload, PartNumber=1, Body=data)["ETag"]
    client.complete_multipart_upload(
        **key, UploadId=upload, MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]}
    )

    assert small.get(f"/clip/50x50/{other}").status == 502
    assert small.get(f"/clip/50x50/{unknown}").status == 413


def test_server_without_ffmpeg_says_so_once_and_in_health(put: Put, s3_server: str, video: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    sh = shutil.which("sh")
    assert sh is not None
    (programs / "sh").symlink_to(sh)
    with thumbnailer(tmp_path, s3_server, PATH=str(programs)) as running:
        answers = [running.get(f"/clip/50x50/{video}{query}") for query in ("", "?t=1")]
        health = running.get("/healthz").json
        log = running.log

    assert [answer.status for answer in answers] == [415, 404]
    assert answers[0].json["error"].startswith("Videos are not shown by this server")
    assert health["status"] == "ok"
    assert "ffmpeg" in health["missing"]["video"]
    assert log.count("event=kind_off kind=video") == 1
