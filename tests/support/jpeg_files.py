"""Whole JPEGs of every way to store one, and what a program leaves that ends their pixels early."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import PIL.Image

from tests.support.damaged_pictures import scene

END = b"\xff\xd9"
_SIZES = ((1, 1), (7, 9), (64, 48), (150, 70))
_COLOURS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("L", {}),
    ("RGB", {"subsampling": "4:4:4"}),
    ("RGB", {"subsampling": "4:2:2"}),
    ("RGB", {"subsampling": "4:2:0"}),
    ("RGB", {"keep_rgb": True}),
    ("CMYK", {"subsampling": "4:4:4"}),
    ("CMYK", {"subsampling": "4:2:0"}),
)
_RESTARTS: tuple[dict[str, Any], ...] = (
    {},
    {"restart_marker_blocks": 1},
    {"restart_marker_blocks": 7},
    {"restart_marker_rows": 1},
)
# What stands behind the end of a picture, or before it, in files that every program shows.
BEHIND = {
    "nothing": b"",
    "zeros": bytes(300),
    "words": b"taken by a phone" * 9,
    "another end": END,
    "an end in words": b"a" * 50 + END + b"b" * 50,
    "words and an end": b"a" * 50 + END,
}
BEFORE_END = {"fill bytes": b"\xff" * 30, "zeros": bytes(30), "words": b"left over by a camera", "one byte": b"\x55"}


def encoded(picture: PIL.Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", **{"quality": 80, **options})
    return out.getvalue()


def whole() -> Iterator[tuple[str, bytes]]:
    """Each with what it is."""
    for size, (mode, colours), restarts, progressive in itertools.product(_SIZES, _COLOURS, _RESTARTS, (False, True)):
        options = {**colours, **restarts, "progressive": progressive}
        yield f"{mode} {size} {options}", encoded(scene(mode, size), **options)
    for quality, progressive, level in itertools.product((1, 30, 100), (False, True), (0, 128, 255)):
        options = {"quality": quality, "progressive": progressive, "optimize": True}
        yield f"flat {level} {options}", encoded(PIL.Image.new("RGB", (200, 100), (level,) * 3), **options)
        yield f"scene {options}", encoded(scene(), **options)
    for size in ((17, 33), (200, 160)):
        yield f"colours one after the other {size}", in_three_scans(size)


def odd_ends() -> Iterator[tuple[str, bytes]]:
    """Whole pictures with something behind their pixels."""
    for progressive in (False, True):
        data = encoded(scene(), progressive=progressive)
        for name, rest in BEHIND.items():
            yield f"{name} behind it, progressive {progressive}", data + rest
        yield f"another picture behind it, progressive {progressive}", data + data
        for name, rest in BEFORE_END.items():
            yield f"{name} before its end, progressive {progressive}", data[:-2] + rest + END


def in_three_scans(size: tuple[int, int]) -> bytes:
    """A sequential JPEG whose colours are stored one after the other."""
    grey = [encoded(plane) for plane in scene("RGB", size).convert("YCbCr").split()]
    frame, scan = grey[0].index(b"\xff\xc0"), grey[0].index(b"\xff\xda")
    tables = grey[0][frame + 13 : scan]
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    head = grey[0][:frame] + b"\xff\xc0\0\x11\x08" + grey[0][frame + 5 : frame + 9] + b"\3" + components
    scans = [
        b"\xff\xda\0\x08\x01" + bytes((number, 0)) + b"\0\x3f\0" + data[data.index(b"\xff\xda") + 10 : -2]
        for number, data in enumerate(grey, 1)
    ]
    return head + tables + b"".join(scans) + END


def cut(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The JPEG without the end of its last scan, but with its own end: at every fifth of the scan."""
    start = data.rindex(b"\xff\xda") + 10
    for part in range(1, 5):
        place = start + (len(data) - 2 - start) * part // 5
        yield f"cut at {part} fifths", data[:place] + END
