"""A JPEG whose pixels end early is not shown half grey, and one that is whole is shown, whatever stands behind it."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image
import pytest

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.decoders import jpeg_markers
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render, render_and_reduce
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.support import jpeg_files
from tests.support.damaged_pictures import scene

LIMITS = RenderLimits()
TRUNCATED = RenderLimits(truncated=True)
LARGE = (640, 480)
# Fewer bytes can be missing from the end of a scan and not be noticed: libjpeg wants to look ahead.
LOOK_AHEAD = 16


def request(
    mode: str = "clip", width: int = 4000, height: int = 4000, position: str = "0.5,0.5", image_format: str = "png"
) -> ThumbnailRequest:
    return ThumbnailRequest(mode, width, height, "0" * 32, (("format", image_format), ("position", position)))


def shown(data: bytes, asked: ThumbnailRequest, limits: RenderLimits = LIMITS) -> Thumbnail:
    return render(io.BytesIO(data), asked, limits)


def cases() -> list[tuple[str, bytes]]:
    return [*jpeg_files.whole(), *jpeg_files.odd_ends()]


def test_whole_jpegs_of_every_kind_are_shown() -> None:
    pictures = cases()
    assert len(pictures) > 250
    for name, data in pictures:
        drawn = PIL.Image.open(io.BytesIO(shown(data, request()).body)).convert("RGB")
        expected = PIL.Image.open(io.BytesIO(data))
        assert drawn.size == expected.size, name
        if expected.mode != "CMYK":
            assert drawn.tobytes() == expected.convert("RGB").tobytes(), name
        for smaller in (request(width=5, height=5), request("crop", 40, 10, "0.5,0.1")):
            assert not shown(data, smaller, TRUNCATED).is_truncated, name


def test_whole_jpegs_are_read_from_files_too(tmp_path: Path) -> None:
    for name, data in jpeg_files.odd_ends():
        (tmp_path / "a.jpg").write_bytes(data)
        with open(tmp_path / "a.jpg", "rb") as file:
            assert render(file, request(), LIMITS).body == shown(data, request()).body, name


@pytest.mark.parametrize("restarts", [{}, {"restart_marker_blocks": 7}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize(
    ("mode", "colours"),
    [("L", {}), ("RGB", {"subsampling": "4:4:4"}), ("RGB", {"subsampling": "4:2:0"}), ("CMYK", {})],
    ids=str,
)
def test_jpeg_whose_pixels_end_early_is_refused_though_it_has_an_end(
    mode: str, colours: dict[str, str], progressive: bool, restarts: dict[str, int]
) -> None:
    picture = PIL.Image.merge(mode, (*scene("RGB", LARGE).split(), scene("L", LARGE))[4 - len(mode) :])
    data = jpeg_files.encoded(picture, progressive=progressive, **colours, **restarts)
    for name, damaged in jpeg_files.cut(data):
        with pytest.raises(NotAnImage):
            pytest.fail(f"{name} is shown, {shown(damaged, request()).mime_type}")
        assert shown(damaged, request(image_format="jpeg"), TRUNCATED).is_truncated, name
        with pytest.raises(NotAnImage):
            shown(damaged, ThumbnailRequest("clip", 9, 9, "0" * 32, (("operation", "noop"),)))


def test_jpeg_whose_pixels_end_early_is_refused_for_every_thumbnail_of_the_missing_part() -> None:
    data = jpeg_files.encoded(scene("RGB", LARGE))
    for name, damaged in jpeg_files.cut(data):
        for asked in (
            request(width=300),
            request(width=60),
            request("crop", 300, 300),
            request("crop", 640, 400, "0,1"),
        ):
            with pytest.raises(NotAnImage):
                pytest.fail(f"{name} is shown, {shown(damaged, asked).mime_type}")
        with pytest.raises(NotAnImage):
            render_and_reduce(io.BytesIO(damaged), request(width=60), RenderLimits(reduced_side=256))


def test_jpeg_with_colours_one_after_the_other_is_refused_where_one_ends_early_or_is_missing() -> None:
    data = jpeg_files.in_three_scans(LARGE)
    shown(data, request())
    starts = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    for damaged in [data[: starts[2]] + jpeg_files.END, *[part for _, part in jpeg_files.cut(data)]]:
        with pytest.raises(NotAnImage):
            shown(damaged, request())


def test_progressive_jpeg_that_was_cut_anywhere_is_refused_though_it_has_an_end() -> None:
    data = jpeg_files.encoded(scene("RGB", (320, 240)), progressive=True)
    scans = jpeg_markers.check(data)
    let_pass = []
    for place in range(scans[0].end - 900, len(data) - 2, 61):
        try:
            shown(data[:place] + jpeg_files.END, request())
        except NotAnImage:
            continue
        let_pass.append(place)
    # Nothing is wrong with scans that are whole, and so little is missing of others that it is not seen.
    assert all(min(abs(scan.end - place) for scan in scans) <= LOOK_AHEAD for place in let_pass), let_pass


@pytest.mark.parametrize("marker", [0xC4, 0xD9, 0xDA, 0xD0, 0xE1, 0xFE, 0x01])
def test_marker_in_the_middle_of_a_scan_is_noticed(marker: int) -> None:
    data = jpeg_files.encoded(scene("RGB", LARGE))
    start = data.rindex(b"\xff\xda") + 10
    for place in (start + 20, start + (len(data) - start) // 2, len(data) - 40):
        damaged = data[:place] + bytes((0xFF, marker)) + data[place + 2 :]
        with pytest.raises(NotAnImage):
            shown(damaged, request())
        with pytest.raises(NotAnImage):
            shown(damaged, request("crop", 640, 460, "0,0"))


def test_picture_of_a_camera_that_leaves_bytes_over_is_shown_in_every_size() -> None:
    data = jpeg_files.encoded(scene("RGB", LARGE))
    for asked in (request(), request(width=60), request("crop", 640, 100, "0,0")):
        expected = shown(data, asked).body
        for rest in jpeg_files.BEFORE_END.values():
            assert shown(data[:-2] + rest + jpeg_files.END, asked).body == expected
