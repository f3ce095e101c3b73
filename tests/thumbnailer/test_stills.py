"""The still of a video or of a sound: the right frame, as ffmpeg itself shows it; and nothing but the file is read."""

from __future__ import annotations

import functools
import http.server
import io
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import PIL.Image
import pytest

from md5s3stash.content import content_of_file
from md5s3stash.media import describe
from md5s3stash_daemon.web.page import STILLS
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    PartNotFound,
    RenderTimedOut,
    ThumbnailError,
    TooManyBytes,
    TooManyPixels,
)
from md5s3stash_thumbnailer.stills import parts as parts_module
from md5s3stash_thumbnailer.stills import sound, video
from md5s3stash_thumbnailer.stills.containers import demuxer_of, demuxer_of_file
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg, Run
from md5s3stash_thumbnailer.stills.parts import MAX_BYTES, Parts, still_of_parts
from md5s3stash_thumbnailer.stills.still import COVER, VIDEO, WAVEFORM, Still, make_still
from tests.support import clips
from tests.support.clips import SECONDS, SIZE, Clips
from tests.thumbnailer import corpus
from tests.thumbnailer.conftest import picture
from tests.thumbnailer.ssim import ssim

BOUNDS = Bounds(seconds=60, memory_bytes=1 << 30)
# For what starts ffmpeg several times.
PATIENT = replace(BOUNDS, seconds=600)
TENTH = SECONDS / 10
ALIKE = 0.97


@functools.cache
def programs() -> Ffmpeg:
    found = Ffmpeg.installed()
    assert found is not None, "tools/bootstrap installs it"
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


def still(path: Path, seconds: float | None = None, bounds: Bounds = BOUNDS) -> Still:
    with open(path, "rb") as file:
        return make_still(programs(), file, seconds, bounds)


def shown(path: Path, seconds: float | None = None, bounds: Bounds = BOUNDS) -> PIL.Image.Image:
    answer = still(path, seconds, bounds)
    assert answer.kind == VIDEO
    return PIL.Image.open(io.BytesIO(answer.picture))


@pytest.mark.parametrize("ending", [ending for ending in clips.VIDEOS if ending != "mov"])
def test_still_is_the_key_frame_that_ffmpeg_shows_before_a_tenth(made: Clips, ending: str) -> None:
    path = made.video(ending)
    image = shown(path)

    assert (image.format, image.size, image.mode) == ("BMP", SIZE, "RGB")
    # ffmpeg seeks only roughly in MPEG, where there is no index.
    keys = (0, 1) if ending in ("mpg", "ts") else (0,)
    assert max(ssim(image, clips.frame_at(path, key)) for key in keys) > ALIKE


def test_later_key_frame_is_taken_where_a_tenth_is_beyond_it(made: Clips, tmp_path: Path) -> None:
    longer = tmp_path / "longer.mp4"
    clips.run("-stream_loop", "4", "-i", str(made.video("mp4")), "-c", "copy", str(longer))

    assert ssim(shown(longer), clips.frame_at(longer, 2.0)) > ALIKE


@pytest.mark.parametrize(("ending", "seconds"), [("webm", 2.35), ("avi", 4.9)])
def test_frame_at_a_time_is_the_one_that_ffmpeg_shows(made: Clips, ending: str, seconds: float) -> None:
    path = made.video(ending)

    assert ssim(shown(path, seconds), clips.frame_at(path, seconds)) > ALIKE


def test_time_within_the_last_frame_shows_that_one(made: Clips) -> None:
    path = made.video("mp4")

    assert ssim(shown(path, 4.95), clips.frame_at(path, 4.75)) > ALIKE


def test_time_after_the_end_is_not_found(made: Clips) -> None:
    with pytest.raises(PartNotFound, match=r"no frame at 99 seconds: it is 5\.000 seconds long"):
        still(made.video("mp4"), 99.0)


@pytest.mark.parametrize("before", ["lutyuv=y=16:u=128:v=128", "gblur=sigma=40"])
def test_frames_that_show_nothing_are_passed_over(made: Clips, before: str) -> None:
    path = made.after(before)

    assert ssim(shown(path), clips.frame_at(path, 2.0)) > ALIKE


@pytest.mark.parametrize("ending", ["mp4", "avi"])
def test_damaged_key_frame_is_passed_over(made: Clips, tmp_path: Path, ending: str) -> None:
    path, damaged = made.video(ending), tmp_path / f"damaged.{ending}"
    data, dice = bytearray(path.read_bytes()), random.Random(3)
    (begin, size), *_ = key_frames(path)
    for _ in range(12):
        data[begin + size // 3 + dice.randrange(size // 2)] = dice.randrange(256)
    damaged.write_bytes(data)

    assert ssim(shown(damaged, bounds=PATIENT), clips.frame_at(path, 1.0)) > ALIKE


def test_video_that_is_cut_is_shown_if_the_frame_is_there_and_refused_if_not(made: Clips, tmp_path: Path) -> None:
    path, damaged = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    clips.run("-i", str(made.video("mp4")), "-c", "copy", "-movflags", "faststart", str(path))
    (first, size), (second, _) = key_frames(path)[:2]
    damaged.write_bytes(path.read_bytes()[:second])
    assert ssim(shown(damaged, bounds=PATIENT), clips.frame_at(path, 0.0)) > ALIKE
    damaged.write_bytes(path.read_bytes()[: first + size // 2])
    with pytest.raises(NotAnImage):
        still(damaged, bounds=PATIENT)


def test_video_whose_key_frames_are_all_damaged_is_shown_as_ffmpeg_shows_it(made: Clips, tmp_path: Path) -> None:
    path, damaged = made.video("mp4"), tmp_path / "damaged.mp4"
    data = bytearray(path.read_bytes())
    for begin, size in key_frames(path):
        data[begin + size // 2 : begin + size // 2 + 64] = bytes(64)
    damaged.write_bytes(data)

    assert shown(damaged, bounds=PATIENT).size == SIZE


class ScriptedRun:
    """Each frame has this brightness, and an error of its decoder; or ffmpeg raises the error in its place."""

    def __init__(self, *frames: int | ThumbnailError) -> None:
        self._frames = iter(frames)

    def ffmpeg(self, *_: str, before: tuple[str, ...] = ()) -> tuple[bytes, str]:
        frame = next(self._frames)
        if isinstance(frame, ThumbnailError):
            raise frame
        said = f"lavfi.signalstats.YLOW=0\nlavfi.signalstats.YHIGH={frame}\nlavfi.blur=1\n[h264 @ 0x1] error\n"
        return b"frame %d" % frame, said


BLACK, DAMAGED, UNREADABLE, LATE = 30, 200, NotAnImage("unreadable"), RenderTimedOut("late")


@pytest.mark.parametrize(
    "frames",
    [
        *((DAMAGED, DAMAGED, DAMAGED, DAMAGED, error) for error in (UNREADABLE, LATE, TooManyPixels("large"))),
        *((DAMAGED, error, error) for error in (UNREADABLE, LATE)),
        (BLACK, UNREADABLE),
    ],
)
@pytest.mark.parametrize("length", ["10", "100"])
def test_a_frame_that_was_found_is_shown_if_others_cannot_be_read(
    frames: tuple[int | ThumbnailError, ...], length: str
) -> None:
    run = cast(Run, ScriptedRun(*frames, *[UNREADABLE] * 2))
    frame = video.still(run, {"format": {"duration": length}}, {"index": 0, "codec_name": "h264"}, None)

    assert frame == f"frame {frames[0]}".encode()


def test_no_frame_is_an_error() -> None:
    for error in (UNREADABLE, LATE):
        with pytest.raises(type(error)):
            video.still(cast(Run, ScriptedRun(error)), {}, {"index": 0, "codec_name": "h264"}, None)


def key_frames(path: Path) -> list[tuple[int, int]]:
    """The place and the length of each."""
    with open(path, "rb") as file:
        run = Run(programs(), file, demuxer_of_file(file) or "", BOUNDS)
        [stream] = run.facts()["streams"]
        spans, _ = run.packets(stream, "0%+99")
    keys = range(0, len(spans), clips.RATE)
    return [spans[number] for number in keys]


def test_fade_does_not_hide_a_short_video(made: Clips) -> None:
    path = made.with_one_key_frame("mp4", "fade=t=in:d=2")

    assert ssim(shown(path), clips.frame_at(path, SECONDS / 2)) > ALIKE


def test_time_long_after_the_last_key_frame_is_found_without_an_index(made: Clips) -> None:
    image = shown(made.with_one_key_frame("ts"), 4.5)

    assert max(ssim(image, clips.frame_at(made.video("mp4"), second)) for second in (4.3, 4.4, 4.5)) > 0.9


def test_phone_video_is_upright(made: Clips) -> None:
    image = shown(made.turned())

    assert image.size == SIZE[::-1]
    assert ssim(image, clips.frame_at(made.turned(), 0)) > ALIKE
    assert ssim(image.rotate(-90, expand=True), clips.frame_at(made.video("mp4"), 0)) > ALIKE


def test_pixels_become_square(made: Clips) -> None:
    assert shown(made.with_wide_pixels()).size == (2 * SIZE[0], SIZE[1])


def test_transparent_video_stays_transparent(made: Clips) -> None:
    image = shown(made.transparent())

    assert (image.format, image.size, image.mode) == ("PNG", SIZE, "RGBA")
    assert image.getpixel((10, 90)) == pytest.approx((254, 0, 0, 255), abs=4)
    assert image.getpixel((310, 90))[3] == pytest.approx(0, abs=2)  # type: ignore[index]


def test_stripe_is_shown(made: Clips) -> None:
    assert shown(made.flat()).size == (8192, 16)


@pytest.mark.parametrize(("ending", "tags"), [("aac", 1), ("flac", 1), ("flac", 2), ("mp3", 2)])
def test_sound_behind_tags_is_drawn(made: Clips, tmp_path: Path, ending: str, tags: int) -> None:
    path = tmp_path / f"tagged.{ending}"
    # 700 bytes, in seven bits each: longer than what is looked at first.
    tag = b"ID3\4\0\0\0\0\5\x3c" + bytes(700)
    path.write_bytes(tag * tags + made.sound(ending).read_bytes())
    with open(path, "rb") as file:
        assert demuxer_of_file(file) == ending
    if ending == "aac":
        assert still(path).kind == WAVEFORM


def test_hdr_is_shown_in_eight_bits(made: Clips) -> None:
    image = shown(made.in_hdr())

    assert (image.size, image.mode) == (SIZE, "RGB")
    assert min(high for _, high in image.getextrema()) > 150  # type: ignore[misc]


@pytest.mark.parametrize("ending", ["mp3", "flac"])
def test_embedded_cover_is_shown_as_it_is(made: Clips, tmp_path: Path, ending: str) -> None:
    cover = tmp_path / "cover.jpg"
    cover.write_bytes(picture((120, 120)))
    answer = still(made.with_cover(ending, cover))

    assert (answer.kind, answer.picture) == (COVER, cover.read_bytes())


@pytest.mark.parametrize("ending", ["mp3", "opus", "m4a"])
def test_sound_without_a_cover_is_drawn(made: Clips, ending: str) -> None:
    answer = still(made.sound(ending))
    image = PIL.Image.open(io.BytesIO(answer.picture))

    assert (answer.kind, image.format, image.size) == (WAVEFORM, "PNG", (sound.WIDTH, sound.HEIGHT))
    quiet, loud = (_height_of_wave(image, share) for share in (0.25, 0.75))
    assert quiet < loud / 5
    assert loud > sound.HEIGHT / 2


def test_sound_that_is_quiet_high_and_in_antiphase_fills_both_halves(made: Clips) -> None:
    path = made.of_samples("0.001*sin(60000*t)|-0.001*sin(60000*t)")
    image = PIL.Image.open(io.BytesIO(still(path).picture)).convert("L")
    column = image.crop((600, 0, 601, image.height)).tobytes()
    dark = [y for y, grey in enumerate(column) if grey < 128]

    assert dark[0] < 15
    assert dark[-1] > sound.HEIGHT - 15


def _height_of_wave(image: PIL.Image.Image, share: float) -> int:
    x = int(image.width * share)
    column = image.convert("L").crop((x, 0, x + 8, image.height)).resize((1, image.height))
    return sum(1 for grey in column.tobytes() if grey < 128)


def test_sound_has_no_frame_at_a_time(made: Clips) -> None:
    with pytest.raises(PartNotFound, match="it is a sound"):
        still(made.sound("wav"), 1.0)


def test_status_page_has_a_thumbnail_of_what_libmagic_calls_them(made: Clips) -> None:
    paths = [made.video(ending) for ending in clips.VIDEOS] + [made.sound(ending) for ending in clips.SOUNDS]
    types = set()
    for path in paths:
        with content_of_file(open(path, "rb")) as content:
            types.add(describe(content)[0])

    # libmagic before 5.46 does not know transport streams.
    assert types - {"application/octet-stream"} <= STILLS


def test_pictures_and_texts_are_neither_video_nor_sound() -> None:
    for name, sample in corpus.samples().items():
        assert demuxer_of(sample.data[:512]) is None, name
    for data in (b"", b"\xff", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"\xff\xfeH\0e\0", bytes(512), b"G" * 100):
        assert demuxer_of(data) is None


@pytest.fixture
def asked() -> Iterator[tuple[int, list[str]]]:
    """The port of a server, and what it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, paths
        server.shutdown()
        thread.join()


def _playlists(file: Path, port: int) -> dict[str, bytes]:
    of_file, of_net = f"file:{file}", f"http://127.0.0.1:{port}/secret.ts"
    hls = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n"
        + "".join(f"#EXTINF:5,\n{url}\n" for url in (of_file, of_net))
        + "#EXT-X-ENDLIST\n"
    )
    concat = f"ffconcat version 1.0\nfile '{file}'\nfile '{of_net}'\n"
    return {"hls": hls.encode(), "concat": concat.encode()}


@pytest.mark.parametrize("playlist", ["hls", "concat"])
def test_playlist_opens_no_other_file_and_no_connection(
    made: Clips, tmp_path: Path, asked: tuple[int, list[str]], playlist: str
) -> None:
    port, paths = asked
    path = tmp_path / "disguised.mp4"
    path.write_bytes(_playlists(made.video("ts"), port)[playlist])

    with pytest.raises(NotAnImage, match="neither a video nor a sound"):
        still(path)
    # As if it had been taken for what it is.
    with open(path, "rb") as file, pytest.raises(NotAnImage):
        Run(programs(), file, playlist, BOUNDS).facts()
    assert paths == []


def test_ffmpeg_can_open_only_the_file_it_is_given(made: Clips, asked: tuple[int, list[str]]) -> None:
    port, paths = asked
    outside = made.video("ts")
    with open(made.video("mp4"), "rb") as file:
        run = Run(programs(), file, "mov", BOUNDS)
        for url in (f"file:{outside}", "file:/etc/passwd", f"http://127.0.0.1:{port}/"):
            with pytest.raises(NotAnImage, match="ermi"):
                run.ffmpeg("-map", "1", "-c", "copy", "-f", "data", "pipe:1", before=("-i", url))
        run.ffmpeg("-map", "0", "-c", "copy", "-f", "null", "pipe:1")
    assert paths == []


def test_frame_of_a_milliard_pixels_is_refused_before_it_is_decoded(made: Clips, tmp_path: Path) -> None:
    path = tmp_path / "huge.avi"
    avi = bytearray(made.video("avi").read_bytes())
    at = avi.index(b"strf") + 12
    assert struct.unpack_from("<ii", avi, at) == SIZE
    struct.pack_into("<ii", avi, at, 32768, 32768)
    # Raw frames have no size of their own.
    avi[at + 12 : at + 16] = b"\0\0\0\0"
    path.write_bytes(avi)
    begun = time.monotonic()

    with pytest.raises((NotAnImage, TooManyPixels)):
        still(path)
    assert time.monotonic() - begun < BOUNDS.seconds / 2


def test_output_is_bounded(made: Clips) -> None:
    with pytest.raises(ThumbnailError):
        still(made.video("mp4"), bounds=replace(BOUNDS, file_bytes=64 * 1024))


def in_parts(path: Path, seconds: float | None = None) -> tuple[PIL.Image.Image, int]:
    """The frame that is shown of parts of a file, and how many bytes were read for it."""
    read_bytes = 0
    with open(path, "rb") as file:

        def read(first: int, last: int) -> bytes:
            nonlocal read_bytes
            read_bytes += last - first + 1
            return os.pread(file.fileno(), last - first + 1, first)

        with closing(Parts(read, path.stat().st_size)) as parts:
            answer = still_of_parts(programs(), parts, seconds, BOUNDS)
    return PIL.Image.open(io.BytesIO(answer)), read_bytes


@pytest.mark.parametrize("seconds", [None, 2.35])
def test_of_a_large_mp4_only_parts_are_read(made: Clips, tmp_path: Path, seconds: float | None) -> None:
    original = made.video("mp4").read_bytes()
    # The index is at the end, and 20 GB before it.
    index = original.index(b"moov") - 4
    path = tmp_path / "large.mp4"
    with open(path, "wb") as file:
        file.write(original[:index] + struct.pack(">I4sQ", 1, b"free", 20_000_000_000))
        file.seek(index + 20_000_000_000)
        file.write(original[index:])
    image, read_bytes = in_parts(path, seconds)

    assert ssim(image, shown(made.video("mp4"), seconds)) == pytest.approx(1)
    assert read_bytes < 2_000_000


@pytest.mark.parametrize("ending", ["mkv", "ts"])
def test_of_a_large_file_without_an_index_a_window_is_read(made: Clips, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"large.{ending}"
    clips.run("-i", str(made.noise()), "-c", "copy", str(path))
    image, read_bytes = in_parts(path)

    assert max(ssim(image, clips.frame_at(path, second)) for second in (0, 1, 2)) > ALIKE
    assert read_bytes < path.stat().st_size * 0.9


def test_window_without_a_key_frame_is_passed_over(made: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_WINDOW", 300_000)
    path = made.with_one_key_frame("ts", "noise=alls=90:allf=t")
    image, _ = in_parts(path)

    assert ssim(image, clips.frame_at(path, 0)) > ALIKE


def test_stream_is_found_in_a_window_where_it_comes_first(made: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_WINDOW", 1_000_000)
    image, _ = in_parts(made.dvd())

    assert image.size == SIZE


def test_frames_that_were_cut_off_are_read_where_others_need_them(made: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_BEGINNING", 1000)
    monkeypatch.setattr(parts_module, "_GAP_BLOCKS", 0)
    image, _ = in_parts(made.cut())

    assert ssim(image, shown(made.cut())) == pytest.approx(1)


def test_sound_and_frame_at_a_time_need_the_whole_file_where_there_is_no_index(made: Clips) -> None:
    for path, seconds in ((made.sound("wav"), None), (made.video("mkv"), 1.0)):
        with pytest.raises(TooManyBytes):
            in_parts(path, seconds)


def test_box_that_ends_far_behind_the_end_of_a_large_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "far.mp4"
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4sQ", 1, b"free", 2**64 - 1))

    with pytest.raises(NotAnImage, match="no index"):
        in_parts(path)


def test_parts_are_read_once_and_no_more_than_the_bound() -> None:
    spans: list[tuple[int, int]] = []

    def read(first: int, last: int) -> bytes:
        spans.append((first, last))
        return bytes(last - first + 1)

    with closing(Parts(read, 10 * MAX_BYTES)) as parts:
        parts.fetch([(0, 10), (70_000, 10), (5_000_000, 10)])
        parts.fetch([(0, 100), (5_000_000, 10)])
        assert parts.at(10 * MAX_BYTES - 5, 100) == bytes(5)
        with pytest.raises(TooManyBytes):
            parts.fetch([(0, 2 * MAX_BYTES)])
        with pytest.raises(TooManyBytes):
            parts.fetch([(MAX_BYTES * n // 4, MAX_BYTES // 4) for n in range(8)])
    assert spans == [(0, 131071), (4980736, 5046271), (10 * MAX_BYTES - 65536, 10 * MAX_BYTES - 1)]
