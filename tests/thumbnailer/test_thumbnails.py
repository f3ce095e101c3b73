"""Thumbnails over HTTP: sizes, options, headers, and the status for wrong requests and pictures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer

UNKNOWN = "00000000000000000000000000000000"
IMMUTABLE = "public, max-age=31536000, immutable"

Put = Callable[[bytes], str]


@pytest.fixture(scope="module")
def jpeg(put: Put) -> str:
    return put(picture((400, 300)))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("clip/200x200", (200, 150)),
        ("crop/200x100", (200, 100)),
        ("fill/200x200", (200, 200)),
        ("scale/123x45", (123, 45)),
        ("adapt/100x100", (100, 100)),
        ("clip/0x150", (200, 150)),
        ("clip/100x0", (100, 75)),
        ("crop/0x150", (200, 150)),
        ("crop/100x0", (100, 75)),
        ("fill/100x0", (100, 75)),
        ("scale/0x75", (100, 75)),
        ("clip/4096x4096", (400, 300)),
        ("scale/600x10", (600, 10)),
    ],
)
def test_mode_and_sizes_give_the_pixels_of_pilbox(
    server: Thumbnailer, put: Put, image_format: str, path: str, size: tuple[int, int]
) -> None:
    answer = server.get(f"/{path}/{put(picture((400, 300), image_format))}")
    assert answer.status == 200, answer.body
    assert (answer.image.size, answer.image.format) == (size, image_format)
    assert answer.headers["Content-Type"] == f"image/{image_format.lower()}"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_tiff_is_shown_as_jpeg_because_browsers_do_not_show_it(server: Thumbnailer, put: Put, mode: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.new(mode, (400, 300)).save(buffer, "TIFF")
    answer = server.get(f"/clip/200x200/{put(buffer.getvalue())}")
    assert answer.status == 200, answer.body
    assert (answer.image.size, answer.image.format) == ((200, 150), "JPEG")
    assert answer.headers["Content-Type"] == "image/jpeg"


def test_success_can_be_cached_for_ever(server: Thumbnailer, jpeg: str) -> None:
    answer = server.get(f"/clip/100x100/{jpeg}")
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert int(answer.headers["Content-Length"]) == len(answer.body)


def test_upper_case_digest_shows_the_same_thumbnail(server: Thumbnailer, jpeg: str) -> None:
    lower, upper = server.get(f"/clip/100x100/{jpeg}"), server.get(f"/clip/100x100/{jpeg.upper()}")
    assert (lower.body, lower.headers["ETag"]) == (upper.body, upper.headers["ETag"])


def test_head_has_the_headers_of_get_and_no_body(server: Thumbnailer, jpeg: str) -> None:
    path = f"/crop/50x50/{jpeg}"
    got, head = server.get(path), server.request(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
        assert head.headers[name] == got.headers[name]


def test_known_etag_is_answered_with_304(server: Thumbnailer, jpeg: str) -> None:
    path = f"/clip/100x100/{jpeg}"
    etag = server.get(path).headers["ETag"]
    answer = server.get(path, If_None_Match=f'"other", W/{etag}')
    assert (answer.status, answer.body) == (304, b"")
    assert (answer.headers["ETag"], answer.headers["Cache-Control"]) == (etag, IMMUTABLE)


def test_other_etag_is_answered_with_the_thumbnail(server: Thumbnailer, jpeg: str) -> None:
    assert server.get(f"/clip/100x100/{jpeg}", If_None_Match='"other"').status == 200


def test_etag_star_is_no_validator_for_an_unknown_digest(server: Thumbnailer, put: Put) -> None:
    assert server.get(f"/clip/100x100/{UNKNOWN}", If_None_Match="*").status == 404


def test_known_etag_does_not_help_a_wrong_request(server: Thumbnailer, jpeg: str) -> None:
    path = f"/clip/100x100/{jpeg}"
    etag = server.get(path).headers["ETag"]
    assert server.get(f"{path}?filter=none", If_None_Match=etag).status == 400


def test_format_option_changes_format_and_type(server: Thumbnailer, jpeg: str) -> None:
    for name, image_format in (("png", "PNG"), ("webp", "WEBP"), ("gif", "GIF"), ("jpg", "JPEG")):
        answer = server.get(f"/clip/100x100/{jpeg}?fmt={name}")
        assert (answer.status, answer.image.format) == (200, image_format)
        assert answer.headers["Content-Type"] == f"image/{image_format.lower()}"


def test_quality_option_changes_the_bytes(server: Thumbnailer, jpeg: str) -> None:
    low, high = (server.get(f"/clip/300x300/{jpeg}?q={quality}") for quality in (10, 95))
    assert len(low.body) < len(high.body)
    assert low.headers["ETag"] != high.headers["ETag"]


@pytest.mark.parametrize("image_format", ["jpg", "webp", "png"])
def test_quality_keep_works_for_every_output_format(server: Thumbnailer, jpeg: str, image_format: str) -> None:
    assert server.get(f"/clip/100x100/{jpeg}?q=keep&fmt={image_format}").status == 200


def test_position_option_chooses_what_a_crop_keeps(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture((400, 100), "PNG"))
    left, right = (_mean_blue(server, f"/crop/100x100/{md5}?pos={position}") for position in ("left", "right"))
    centre, custom = (_mean_blue(server, f"/crop/100x100/{md5}?pos={position}") for position in ("center", "0.5,0.5"))
    assert min(left, right) < 50
    assert max(left, right) > 200
    assert centre == custom == pytest.approx(127, abs=10)


def test_position_face_falls_back_to_the_centre(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture((400, 100), "PNG"))
    face = _mean_blue(server, f"/crop/100x100/{md5}?pos=face")
    assert face == _mean_blue(server, f"/crop/100x100/{md5}?pos=center")


def test_background_option_colours_what_fill_adds(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture((400, 100), "PNG"))
    image = server.get(f"/fill/100x100/{md5}?bg=00ff00").image.convert("RGB")
    assert image.getpixel((50, 2)) == (0, 255, 0)


def test_operations_option_cuts_a_region_first(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture((400, 100), "PNG"))
    answer = server.get(f"/clip/50x50/{md5}?op=region,resize&rect=0,0,40,20")
    assert answer.image.size == (50, 25) or answer.image.size == (40, 20)


def test_rotation_option_turns_the_thumbnail(server: Thumbnailer, jpeg: str) -> None:
    assert server.get(f"/clip/200x200/{jpeg}?op=resize,rotate&deg=90").image.size == (150, 200)


def test_noop_gives_the_original_itself(server: Thumbnailer, put: Put) -> None:
    original = picture((40, 30), "PNG")
    answer = server.get(f"/clip/10x10/{put(original)}?op=noop")
    assert (answer.status, answer.body) == (200, original)
    assert answer.headers["Content-Type"] == "image/png"


def test_noop_gives_nothing_that_is_no_image(server: Thumbnailer, put: Put) -> None:
    assert server.get(f"/clip/10x10/{put(b'<html><script>alert(1)</script></html>')}?op=noop").status == 415


def test_very_flat_picture_has_a_thumbnail(server: Thumbnailer, put: Put) -> None:
    assert server.get(f"/scale/100x0/{put(picture((1000, 1), 'PNG'))}").image.size == (100, 1)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/stretch/100x100/{md5}", 5),
        ("/clip/0x0/{md5}", 2),
        ("/clip/axb/{md5}", 2),
        ("/clip/x/{md5}", 2),
        ("/clip/-1x100/{md5}", 2),
        ("/clip/4097x100/{md5}", 2),
        ("/clip/100x4097/{md5}", 2),
        ("/clip/100x100/xyz", 8),
        ("/clip/100x100/{md5}0", 8),
        ("/clip/100x100/{md5}?fmt=exe", 4),
        ("/clip/100x100/{md5}?filter=none", 3),
        ("/clip/100x100/{md5}?pos=9,9", 6),
        ("/clip/100x100/{md5}?q=101", 7),
        ("/clip/100x100/{md5}?bg=0x1f", 1),
        ("/clip/100x100/{md5}?opt=x", 12),
        ("/clip/100x100/{md5}?prog=x", 13),
        ("/clip/100x100/{md5}?retain=x", 14),
        ("/clip/100x100/{md5}?exif=x", 15),
        ("/clip/100x100/{md5}?op=rotate&deg=400", 9),
        *((f"/clip/100x100/{{md5}}?deg={number}", 9) for number in ("nan", "inf", "1e400", "1.5", "-1", "360")),
        *((f"/clip/100x100/{{md5}}?q={number}", 7) for number in ("nan", "inf", "1e400")),
        *((f"/clip/100x100/{{md5}}?retain={number}", 14) for number in ("nan", "inf", "1e400")),
        *((f"/clip/100x100/{{md5}}?t={number}", 5) for number in ("nan", "inf", "1e400")),
        *((f"/crop/100x100/{{md5}}?pos={number},0.5", 6) for number in ("nan", "inf", "1e400", "9" * 400)),
        ("/clip/100x100/{md5}?op=delete", 10),
        ("/clip/100x100/{md5}?op=region&rect=0,0,0,0", 11),
        ("/clip/100x100/{md5}?op=region&rect=0,0,9000,9000", 11),
    ],
)
def test_wrong_request_is_400_with_the_json_of_pilbox(server: Thumbnailer, jpeg: str, path: str, code: int) -> None:
    answer = server.get(path.format(md5=jpeg))
    assert (answer.status, answer.json["status_code"], answer.json["error_code"]) == (400, 400, code)
    assert answer.json["error"]
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers


def test_the_range_of_the_quality_is_said_and_taken(server: Thumbnailer, jpeg: str) -> None:
    assert "0 to 100, or keep" in server.get(f"/clip/100x100/{jpeg}?q=101").json["error"]
    assert {server.get(f"/clip/100x100/{jpeg}?q={quality}").status for quality in (0, 100)} == {200}


def test_unknown_digest_is_404_and_not_cached(server: Thumbnailer, put: Put) -> None:
    answer = server.get(f"/clip/100x100/{UNKNOWN}")
    assert (answer.status, answer.json["error_code"]) == (404, 301)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/clip", "/clip/100x100", "/clip/100/{md5}", "/clip/1x1/{md5}/more", "/%ff%fe"])
def test_unknown_path_is_404_json(server: Thumbnailer, jpeg: str, path: str) -> None:
    answer = server.get(path.format(md5=jpeg))
    assert (answer.status, answer.json["status_code"]) == (404, 404)


def test_method_that_changes_things_is_405_json(server: Thumbnailer, jpeg: str) -> None:
    answer = server.request(f"/clip/100x100/{jpeg}", "POST")
    assert (answer.status, answer.json["status_code"]) == (405, 405)


@pytest.mark.parametrize(
    "original",
    [
        b"plain text, and not a picture",
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><path",
        picture((400, 300))[:3000],
        picture((400, 300), "PNG")[:500],
        picture((40, 30), "PCX"),
    ],
    ids=["text", "empty", "truncated drawing", "truncated JPEG", "truncated PNG", "a format that is not on the list"],
)
def test_what_is_no_image_is_415(server: Thumbnailer, put: Put, original: bytes) -> None:
    for mode in ("clip", "crop", "fill", "scale", "adapt"):
        answer = server.get(f"/{mode}/100x100/{put(original)}")
        assert (answer.status, answer.json["status_code"]) == (415, 415), (mode, answer.body)


def test_decompression_bomb_is_422(server: Thumbnailer, put: Put) -> None:
    # Above the pixels that are shown; Pillow warns above its limit, and refuses above twice the limit.
    for side in (32_000, 50_000):
        md5 = put(_black_png(side))
        answer = server.get(f"/clip/100x100/{md5}")
        assert (answer.status, answer.json["error_code"]) == (422, 204), answer.body
    assert server.get("/healthz").status == 200


def test_side_that_follows_from_extreme_proportions_is_bounded(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture((1, 10_000), "PNG"))
    assert server.get(f"/scale/1000x0/{md5}").status == 422
    assert server.get(f"/clip/1000x0/{md5}").image.size == (1, 10_000)


def test_url_in_the_query_is_never_fetched(server: Thumbnailer, jpeg: str, s3_server: str) -> None:
    path = f"/clip/100x100/{jpeg}"
    answer = server.get(f"{path}?url={s3_server}/nothing&w=5&h=none&mode=crop")
    assert answer.image.size == (100, 75)
    assert answer.headers["ETag"] == server.get(path).headers["ETag"]


def test_bucket_is_not_told_to_whoever_asks(s3_server: str, put: Put, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, BUCKET_BASE="no-such-bucket") as server:
        answer = server.get(f"/clip/100x100/{UNKNOWN}")
        assert (answer.status, answer.json["error_code"]) == (502, 302)
        assert b"no-such-bucket" not in answer.body
        assert "no-such-bucket" in server.log


def _mean_blue(server: Thumbnailer, path: str) -> float:
    image = server.get(path).image.convert("RGB")
    histogram = image.getchannel("B").histogram()
    return sum(value * count for value, count in enumerate(histogram)) / (image.width * image.height)


def _black_png(side: int) -> bytes:
    """A PNG with one bit per pixel that claims this side length. It has data for 12,000 rows, a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(12_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
