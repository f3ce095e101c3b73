"""A damaged file is never shown as a whole picture. The reference is libvips as a strict second decoder (`fail_on`).

Every kind of picture is damaged at many places; DAMAGED_PLACES=64 tries more. Where we mean to differ from
libvips, `why_shown` and `why_refused` say why, if that can be seen from the very file; anything else fails the test.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest
import pyvips

from md5s3stash_thumbnailer.errors import NotAnImage, ThumbnailError
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render, render_and_reduce
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.support import gif_codes, odd_metadata
from tests.support.damaged_pictures import PNG_SIGNATURE, SIZE, WHOLE, chunk, chunks_of, damages, whole
from tests.thumbnailer.conftest import Thumbnailer, thumbnailer

LIMITS = RenderLimits(max_original_pixels=1_000_000)
TRUNCATED = RenderLimits(max_original_pixels=1_000_000, truncated=True)
PLACES = int(os.environ.get("DAMAGED_PLACES", "16"))

# What damages() overwrites at one place, at most.
MAX_SPAN = 60
UNCOMPRESSED = ("TIFF", "TIFF of 16 bits")
# pyvips-binary's libvips does not read these: a truncated file is refused, and a whole one is shown.
NOT_COMPARED = ("BMP", "JPEG 2000", "lossy JPEG 2000", "JPEG 2000 in tiles", "JPEG 2000 codestream")
COMPARED = [kind for kind in WHOLE if not kind.startswith(NOT_COMPARED)]


def request(operation: str = "resize", width: int = SIZE[0]) -> ThumbnailRequest:
    return ThumbnailRequest("clip", width, width, "0" * 32, (("format", "png"), ("operation", operation)))


def thumbnail(data: bytes, limits: RenderLimits = LIMITS) -> Thumbnail | None:
    answer = answered(data, limits)
    return answer if isinstance(answer, Thumbnail) else None


def answered(data: bytes, limits: RenderLimits = LIMITS) -> Thumbnail | ThumbnailError:
    try:
        return render(io.BytesIO(data), request(), limits)
    except ThumbnailError as error:
        return error


def is_sound_to_libvips(data: bytes, fail_on: str) -> bool:
    try:
        pyvips.Image.new_from_buffer(data, "", fail_on=fail_on).write_to_memory()
    except pyvips.Error:
        return False
    return True


def pixels(thumbnail_body: bytes) -> bytes:
    return PIL.Image.open(io.BytesIO(thumbnail_body)).convert("RGBA").tobytes()


def changed_pixels(one: bytes, other: bytes) -> int:
    pairs = zip(pixels(one), pixels(other), strict=True)
    return len({place // 4 for place, (a, b) in enumerate(pairs) if a != b})


def why_shown(kind: str, data: bytes, body: bytes) -> str:
    """Why a damaged picture that libvips (fail_on=error) reports is shown; nothing where no reason holds."""
    sound = thumbnail(whole(kind))
    assert sound
    if body == sound.body:
        return "no pixel is changed"
    boxes = whole(kind).find(b"mdat")
    if kind.startswith("AVIF") and len(data) >= len(whole(kind)) and data[:boxes] == whole(kind)[:boxes]:
        return "dav1d does not look at the bits that end a tile, as libaom does, and AV1 has no checksums"
    if kind == "AVIF with alpha" and b"auxC" not in data:
        return "libavif leaves out transparency that has lost its type"
    if kind in UNCOMPRESSED and changed_pixels(body, sound.body) <= MAX_SPAN:
        return "values that stand in the file as they are were overwritten, and tags of which the pixels do not depend"
    return ""


def why_refused(kind: str, data: bytes, error: ThumbnailError) -> str:
    """Why a damaged picture is refused which libvips shows without as much as a warning."""
    if kind.endswith("GIF") and gif_codes.pixels(data) < SIZE[0] * SIZE[1]:
        return "nsgif leaves pixels for which there are no codes transparent"
    if "JPEG" in kind and "image file is truncated" in str(error):
        return "libvips asks for warnings before each eight rows, and never after the last ones"
    if ("JPEG" in kind or kind == "MPO") and b"\xff\xd9" not in data[: len(whole("baseline JPEG"))]:
        return "libvips does not look for the end of a sequential JPEG"
    boxes = whole(kind).find(b"mdat")
    if kind.startswith("AVIF") and data[:boxes] != whole(kind)[:boxes]:
        return "libavif needs boxes that libheif does without: the handler, and how colours are to be converted"
    return ""


@pytest.mark.parametrize("kind", COMPARED)
def test_picture_is_refused_where_libvips_reports_damage(kind: str) -> None:
    assert thumbnail(whole(kind)) is not None
    assert is_sound_to_libvips(whole(kind), "warning")
    unexplained = []
    for name, data in damages(whole(kind), PLACES):
        answer = answered(data)
        if isinstance(answer, ThumbnailError):
            if is_sound_to_libvips(data, "warning") and not why_refused(kind, data, answer):
                unexplained.append(f"{name} is refused: {answer}")
        elif not is_sound_to_libvips(data, "error") and not why_shown(kind, data, answer.body):
            unexplained.append(f"{name} is shown")
    assert unexplained == []


@pytest.mark.parametrize("kind", ["grey JPEG", "CMYK JPEG"])
def test_libvips_does_not_see_that_the_last_row_of_a_jpeg_ends_early(kind: str) -> None:
    data = whole(kind)
    start = data.rindex(b"\xff\xda") + 10
    middle, late = data[: (start + len(data)) // 2] + data[-2:], data[: len(data) - 30] + data[-2:]
    assert not is_sound_to_libvips(middle, "warning")
    assert is_sound_to_libvips(late, "warning")
    assert (thumbnail(middle), thumbnail(late)) == (None, None)


@pytest.mark.parametrize("kind", WHOLE)
def test_damage_is_seen_as_well_where_a_reduced_copy_is_made(kind: str) -> None:
    limits = RenderLimits(max_original_pixels=1_000_000, reduced_side=24, truncated=True)
    for name, data in damages(whole(kind), 5):
        if name.startswith("cut") and thumbnail(data) is None:
            try:
                shown, copy = render_and_reduce(io.BytesIO(data), request(width=10), limits)
            except NotAnImage:
                continue
            assert (shown.is_truncated, copy) == (True, None), name


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("operation", ["resize", "noop"])
def test_picture_that_is_cut_in_the_middle_is_not_sent(kind: str, operation: str) -> None:
    data = whole(kind)
    # Only the first frame of an animation is shown, and the first picture of an MPO.
    part = 4 if kind.startswith(("animated", "MPO")) else 2
    with pytest.raises(NotAnImage):
        render(io.BytesIO(data[: len(data) // part]), request(operation), LIMITS)


def png(stream: bytes, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, interlaced)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def rebuilt(png_file: bytes, change: Callable[[int, bytes], bytes]) -> bytes:
    """The PNG with each chunk changed, by its number."""
    parts = [change(number, png_file[start:end]) for number, (_, start, end) in enumerate(chunks_of(png_file))]
    return PNG_SIGNATURE + b"".join(parts)


def damaged_pngs() -> Iterator[tuple[str, bytes]]:
    rows = b"".join(b"\0" + bytes([99]) * 3 * SIZE[0] for _ in range(SIZE[1]))
    row = 1 + 3 * SIZE[0]
    stream, small = zlib.compress(rows), whole("PNG in small chunks")
    for count in (0, 1, SIZE[1] // 2, SIZE[1] - 1):
        yield f"{count} rows", png(zlib.compress(rows[: count * row]))
    yield "half a row less", png(zlib.compress(rows[: -row // 2]))
    yield "a wrong checksum of the stream", png(stream[:-1] + bytes([stream[-1] ^ 1]))
    yield "an unknown filter", png(zlib.compress(rows[:row] + b"\x09" + rows[row + 1 :]))
    yield "a chunk that must be known", rebuilt(small, lambda n, c: c + chunk(b"ABCD", b"") if n == 0 else c)
    yield "two headers", rebuilt(small, lambda n, c: c + c if n == 0 else c)
    yield "no header", rebuilt(small, lambda n, c: b"" if n == 0 else c)
    for number in (1, 4, 9):
        yield f"no chunk {number}", rebuilt(small, lambda n, c, gone=number: b"" if n == gone else c)  # type: ignore[misc]
        yield (
            f"a wrong checksum of chunk {number}",
            rebuilt(
                small,
                lambda n, c, odd=number: c[:-1] + bytes([c[-1] ^ 1]) if n == odd else c,  # type: ignore[misc]
            ),
        )
    yield "a gap between its pixels", rebuilt(small, lambda n, c: c + chunk(b"tEXt", b"k\0") if n == 4 else c)
    for kind in ("interlaced PNG", "grey PNG of 16 bits", "PNG with alpha", "PNG with a palette", "PNG of one bit"):
        data = whole(kind)
        for name, start, end in chunks_of(data):
            if name == b"IDAT":
                pixels = zlib.decompress(data[start + 8 : end - 4])
                short = pixels[: len(pixels) * (SIZE[1] - 1) // SIZE[1]]
                if kind == "interlaced PNG":
                    short = pixels[:-row]
                yield f"{kind} without its last row", data[:start] + chunk(b"IDAT", zlib.compress(short)) + data[end:]


@pytest.mark.parametrize(("name", "data"), [pytest.param(*case, id=case[0]) for case in damaged_pngs()])
def test_png_that_does_not_hold_all_of_its_pixels_is_refused(name: str, data: bytes) -> None:
    assert not is_sound_to_libvips(data, "error")
    with pytest.raises(NotAnImage):
        render(io.BytesIO(data), request(), LIMITS)
    shown = thumbnail(data, TRUNCATED)
    assert shown is None or shown.is_truncated


@pytest.mark.parametrize("missing", [1, 2, 300])
@pytest.mark.parametrize("kind", ["baseline JPEG", "JPEG with restarts", "progressive JPEG", "PNG", "BMP", "TIFF"])
def test_truncated_picture_is_shown_as_far_as_it_goes_if_the_server_is_told_so(kind: str, missing: int) -> None:
    data = whole(kind)[: -(missing + 20 if kind == "PNG" else missing)]
    shown, complete = thumbnail(data, TRUNCATED), thumbnail(whole(kind), TRUNCATED)
    assert shown
    assert complete
    assert (shown.is_truncated, complete.is_truncated) == (True, False)
    top = (0, 0, SIZE[0], SIZE[1] // 4)
    pictures = [PIL.Image.open(io.BytesIO(each.body)).convert("RGB") for each in (shown, complete)]
    assert pictures[0].size == pictures[1].size
    if kind != "BMP":  # A BMP begins with its last row.
        assert pictures[0].crop(top).tobytes() == pictures[1].crop(top).tobytes()


@pytest.mark.parametrize(("name", "data"), [pytest.param(*case, id=case[0]) for case in odd_metadata.pictures()])
def test_picture_with_odd_metadata_is_shown(name: str, data: bytes) -> None:
    for options in ((), (("preserve_exif", "1"),)):
        shown = render(io.BytesIO(data), ThumbnailRequest("clip", *SIZE, "0" * 32, options), LIMITS)
        assert PIL.Image.open(io.BytesIO(shown.body)).size == SIZE


@pytest.fixture(scope="module")
def lenient(
    put: Callable[[bytes], str], s3_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Thumbnailer]:
    with thumbnailer(tmp_path_factory.mktemp("lenient"), s3_server, "--truncated", "--reduced_side=256") as running:
        yield running


def damaged_jpeg_of_fax_and_png() -> list[bytes]:
    fax = dict(damages(whole("TIFF with fax 4"), 16))
    name = next(name for name in fax if name.startswith("ff flipped"))
    return [whole("baseline JPEG")[:-2], whole("PNG")[:-500], fax[name]]


@pytest.mark.parametrize("number", range(3))
def test_server_shows_damage_for_minutes_only_and_says_so(
    put: Callable[[bytes], str], server: Thumbnailer, lenient: Thumbnailer, number: int
) -> None:
    path = f"/clip/20x20/{put(damaged_jpeg_of_fax_and_png()[number])}"
    refused = server.get(path)
    assert (refused.status, refused.headers["Cache-Control"]) == (415, "no-store")
    shown = lenient.get(path)
    assert (shown.status, shown.headers["X-Truncated"]) == (200, "true")
    assert shown.headers["Cache-Control"] == "public, max-age=300"
    assert shown.headers["Etag"] is None
    assert shown.headers["Last-Modified"] is None
    whole_one = lenient.get(f"/clip/20x20/{put(whole('PNG'))}")
    assert "X-Truncated" not in whole_one.headers
    assert whole_one.headers["Cache-Control"].endswith("immutable")
    assert not list(Path(lenient.log_path.parent).rglob("*.reduced"))
    # Messages of libtiff and Pillow appear only in answers.
    for log in (server.log, lenient.log):
        assert [line for line in log.splitlines() if not line.startswith("[")] == []
