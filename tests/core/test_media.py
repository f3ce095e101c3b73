"""The media type of content."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from md5s3stash.look import here
from md5s3stash.media import describe
from tests.support import odd_metadata
from tests.support.stores import content_of

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


def picture(kind: str, size: tuple[int, int] = (31, 17), mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">II5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def tiff_that_says(width: int, height: int) -> bytes:
    """A BigTIFF, of grey pixels without compression."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 16), (277, 1), (278, height), (279, 1)]
    entries = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in tags)
    return b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(tags)) + entries + bytes(8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png_that_says(2**31 - 1, 465), (2**31 - 1, 465)),
        (png_that_says(2**31 - 1, 466), (0, 0)),
        (png_that_says(2**31 - 1, 2**31 - 1), (0, 0)),
        (tiff_that_says(1_000_000, 1_000_000), (1_000_000, 1_000_000)),
        (tiff_that_says(2**63, 2**63), (0, 0)),
    ],
    ids=["png", "png beyond", "png of the largest sides", "tiff", "tiff beyond"],
)
def test_a_size_of_more_than_a_million_million_pixels_is_left_out_and_logged(
    data: bytes, expected: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    mime_type = "image/png" if data.startswith(b"\x89") else "image/tiff"

    assert describe(content_of(data)) == (mime_type, expected)
    assert ("dimensions_left_out md5=" in caplog.text) is (expected == (0, 0))


@pytest.mark.parametrize(
    ("kind", "mime_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("GIF", "image/gif"),
        ("TIFF", "image/tiff"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("JPEG2000", "image/jp2"),
        ("AVIF", "image/avif"),
    ],
)
def test_pictures_are_recognised_with_width_and_height(kind: str, mime_type: str) -> None:
    assert describe(content_of(picture(kind), "text/html")) == (mime_type, (31, 17))


def test_a_jpeg_with_a_second_picture_behind_it_is_a_jpeg() -> None:
    first, second = Image.new("RGB", (20, 10)), Image.new("RGB", (5, 5))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])

    assert describe(content_of(buffer.getvalue())) == ("image/jpeg", (20, 10))


def test_a_picture_of_a_billion_pixels_has_its_size_told() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 40_000, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    assert describe(content_of(b"\x89PNG\r\n\x1a\n" + chunks)) == ("image/png", (50_000, 40_000))


@pytest.mark.parametrize(
    ("data", "declared", "expected"),
    [
        (b"", None, "application/octet-stream"),
        (b"", "text/css", "text/css"),
        (b"just words\n", None, "text/plain"),
        (b"just words\n", "text/csv", "text/csv"),
        (b"\x00\x01\x02\x03", None, "application/octet-stream"),
        (b"\x00\x01\x02\x03", "application/x-ours", "application/x-ours"),
        (PDF, "image/jpeg", "application/pdf"),
        (b"<!DOCTYPE html><html><head><title>404</title></head></html>", "image/jpeg", "text/html"),
    ],
)
def test_the_bytes_decide_and_a_declaration_only_refines(data: bytes, declared: str | None, expected: str) -> None:
    assert describe(content_of(data, declared)) == (expected, (0, 0))


def test_damaged_headers_are_described_without_an_error() -> None:
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"):
        whole = picture(kind)
        for length in range(min(len(whole), 120)):
            mime_type, dimensions = describe(content_of(whole[:length]))
            assert "/" in mime_type
            assert len(dimensions) == 2


def test_without_libmagic_pictures_are_still_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_libmagic", lambda: None)

    assert describe(content_of(picture("PNG")))[0] == "image/png"
    assert describe(content_of(PDF))[0] == "application/octet-stream"
    assert describe(content_of(PDF, "application/pdf"))[0] == "application/pdf"


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(name, data, id=name) for name, data in odd_metadata.pictures()]
)
def test_picture_with_odd_metadata_has_its_dimensions(name: str, data: bytes) -> None:
    mime_type, dimensions = describe(content_of(data))
    assert mime_type.startswith("image/")
    assert dimensions == (64, 48)


def test_nothing_that_pillow_logs_or_warns_of_reaches_standard_error(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from md5s3stash.logs import set_up_logging\n"
        "from md5s3stash.media import describe\n"
        "from tests.support.stores import content_of\n"
        "if sys.argv[1] == 'quiet': set_up_logging(10)\n"
        "for path in sys.argv[2:]: describe(content_of(Path(path).read_bytes()))\n"
    )
    paths = []
    for number, (_, data) in enumerate(odd_metadata.noisy()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)

    def said(how: str) -> str:
        command = [sys.executable, "-W", "default", "-c", program, how, *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    # Without our settings Pillow logs messages about these files.
    noise = said("as it comes")
    assert "More samples per pixel" in noise
    assert "UserWarning" in noise
    assert [line for line in said("quiet").splitlines() if "md5s3stash" not in line] == []
