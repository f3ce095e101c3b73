"""Pictures of every supported kind, each damaged in the ways in which disks, transfers and programs damage files.

All show one scene with texture everywhere, so that damage is visible anywhere. Nothing is random.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import PIL.Image

SIZE = (64, 48)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Adam7: first column and row of each pass, and their steps (PNG, 8.1).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@cache
def scene(mode: str = "RGB", size: tuple[int, int] = SIZE) -> PIL.Image.Image:
    """A colour gradient with noise."""
    dice = random.Random(7)
    width, height = size
    pixels = bytes(
        max(0, min(255, level + dice.randrange(-20, 21)))
        for y in range(height)
        for x in range(width)
        for level in (255 * x // width, 255 * y // height, 255 * (x + y) // (width + height))
    )
    picture = PIL.Image.frombytes("RGB", size, pixels)
    if mode == "RGBA":
        picture.putalpha(PIL.Image.linear_gradient("L").resize(size))
        return picture
    if mode == "I;16":
        return picture.convert("L").convert("I").point(lambda level: level * 257).convert("I;16")
    return picture.quantize(200) if mode == "P" else picture.convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks_of(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of each chunk."""
    position = len(PNG_SIGNATURE)
    while position < len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4])
        yield png[position + 4 : position + 8], position, end
        position = end


def _encoded(mode: str, image_format: str, **parameters: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        out = io.BytesIO()
        scene(mode).save(out, image_format, **parameters)
        return out.getvalue()

    return make


def _several(image_format: str, mode: str = "RGB", **parameters: Any) -> Callable[[], bytes]:
    other = scene(mode).transpose(PIL.Image.Transpose.ROTATE_180)
    return _encoded(mode, image_format, save_all=True, append_images=[other], **parameters)


def _interlaced_png() -> bytes:
    width, height = SIZE
    rows, pixels = bytearray(), scene().tobytes()
    for left, top, across, down in _ADAM7:
        for y in range(top, height, down):
            row = pixels[3 * width * y : 3 * width * (y + 1)]
            rows += b"\0" + b"".join(row[3 * x : 3 * x + 3] for x in range(left, width, across))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def _png_in_small_chunks() -> bytes:
    png = _encoded("RGB", "PNG")()
    parts = [PNG_SIGNATURE]
    for kind, start, end in chunks_of(png):
        data = png[start + 8 : end - 4]
        pieces = [data[place : place + 500] for place in range(0, len(data), 500)] if kind == b"IDAT" else [data]
        parts += [chunk(kind, piece) for piece in pieces]
    return b"".join(parts)


def _interlaced_gif() -> bytes:
    return _encoded("P", "GIF", interlace=1)()


def _rle_bmp() -> bytes:
    """Eight bits, with encoded runs and an absolute run in each row."""
    picture = scene("P")
    width, height = SIZE
    rows, pixels = b"", picture.tobytes()
    for y in reversed(range(height)):
        row = pixels[width * y : width * (y + 1)]
        rows += b"\0" + bytes([32]) + row[:32] + b"".join(b"\1" + row[x : x + 1] for x in range(32, width)) + b"\0\0"
    rows += b"\0\1"
    palette = bytes(picture.getpalette() or ()).ljust(768, b"\0")
    table = b"".join(palette[n : n + 3][::-1] + b"\0" for n in range(0, 768, 3))
    start = 14 + 40 + 1024
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 2835, 2835, 256, 256)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + table + rows


WHOLE: dict[str, Callable[[], bytes]] = {
    "baseline JPEG": _encoded("RGB", "JPEG", quality=90),
    "JPEG with restarts": _encoded("RGB", "JPEG", quality=90, restart_marker_rows=1),
    "progressive JPEG": _encoded("RGB", "JPEG", quality=90, progressive=True),
    "grey JPEG": _encoded("L", "JPEG", quality=90),
    "CMYK JPEG": _encoded("CMYK", "JPEG", quality=90),
    "MPO": _several("MPO"),
    "PNG": _encoded("RGB", "PNG"),
    "PNG in small chunks": _png_in_small_chunks,
    "interlaced PNG": _interlaced_png,
    "grey PNG of 16 bits": _encoded("I;16", "PNG"),
    "PNG with alpha": _encoded("RGBA", "PNG"),
    "PNG with a palette": _encoded("P", "PNG"),
    "PNG of one bit": _encoded("1", "PNG"),
    "animated PNG": _several("PNG"),
    "GIF": _encoded("P", "GIF", interlace=0),
    "interlaced GIF": _interlaced_gif,
    "animated GIF": _several("GIF", "P"),
    "WebP": _encoded("RGB", "WEBP", quality=90),
    "lossless WebP": _encoded("RGB", "WEBP", lossless=True),
    "WebP with alpha": _encoded("RGBA", "WEBP", quality=90),
    "animated WebP": _several("WEBP"),
    "TIFF": _encoded("RGB", "TIFF"),
    "TIFF with LZW": _encoded("RGB", "TIFF", compression="tiff_lzw", tiffinfo={278: 8}),
    "TIFF with deflate": _encoded("RGB", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF with PackBits": _encoded("L", "TIFF", compression="packbits"),
    "TIFF with JPEG": _encoded("RGB", "TIFF", compression="jpeg"),
    "TIFF with fax 4": _encoded("1", "TIFF", compression="group4"),
    "TIFF with fax 3": _encoded("1", "TIFF", compression="group3"),
    "TIFF of 16 bits": _encoded("I;16", "TIFF"),
    "BMP": _encoded("RGB", "BMP"),
    "BMP with a palette": _encoded("P", "BMP"),
    "BMP with runs": _rle_bmp,
    "JPEG 2000": _encoded("RGB", "JPEG2000"),
    "lossy JPEG 2000": _encoded("RGB", "JPEG2000", irreversible=True, quality_layers=[20]),
    "JPEG 2000 in tiles": _encoded("RGB", "JPEG2000", tile_size=(32, 32)),
    "JPEG 2000 codestream": _encoded("RGB", "JPEG2000", no_jp2=True),
    "AVIF": _encoded("RGB", "AVIF", quality=90),
    "AVIF with alpha": _encoded("RGBA", "AVIF", quality=90),
}


@cache
def whole(kind: str) -> bytes:
    return WHOLE[kind]()


def damages(data: bytes, parts: int) -> Iterator[tuple[str, bytes]]:
    """Damage that can affect any file, at evenly spaced places: its name, and the damaged bytes."""
    length = len(data)
    places = [length * part // parts for part in range(1, parts)]
    for missing in (1, 2, 3, 13):
        yield f"lacks {missing}", data[:-missing]
    for place in places:
        yield f"cut at {place}", data[:place]
    for place in [*places, length - 6, length - 14]:
        for bits in (0x01, 0xFF):
            yield f"{bits:02x} flipped at {place}", data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]
    noise = random.Random(length).randbytes(length)
    for place in places[::2]:
        span = min(60, length // 16)
        yield f"zeros at {place}", data[:place] + bytes(span) + data[place + span :]
        yield f"noise at {place}", data[:place] + noise[:span] + data[place + span :]
        yield f"hole at {place}", data[:place] + data[place + span :]
        yield f"twice at {place}", data[: place + span] + data[place:]
