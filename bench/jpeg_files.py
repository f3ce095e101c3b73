"""Small JPEGs, as many as are wanted and no two alike, quickly: one drawn picture, and in each file another comment."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from bench.picture_corpus import photograph

FILE_BYTES = 20_000
_QUALITY = 86
_COMMENT = b"\xff\xfe"


def make_files(directory: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
    """`count` files of so many bytes in a new directory, the same ones every time; on the disk when it returns."""
    directory.mkdir(parents=True)
    start, rest = _drawn((320, 200) if file_bytes >= FILE_BYTES else (16, 16))
    comment_bytes = file_bytes - len(start) - len(rest) - len(_COMMENT)
    # The two bytes of the length count.
    head = start + _COMMENT + comment_bytes.to_bytes(2, "big")
    filling = b" " * (comment_bytes - 2 - 32)
    for number in range(count):
        own = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest().encode()
        (directory / f"{number:07}.jpg").write_bytes(head + own + filling + rest)
    # Or else the disk is busy with them while something is measured.
    os.sync()


def _drawn(pixels: tuple[int, int]) -> tuple[bytes, bytes]:
    """A JPEG in two parts, between which a comment may stand."""
    encoded = io.BytesIO()
    photograph(pixels, seed="small").save(encoded, "JPEG", quality=_QUALITY)
    data = encoded.getvalue()
    # Start of image, and the JFIF segment, which says in its third and fourth byte how long it is.
    end = 2 + 2 + int.from_bytes(data[4:6], "big")
    return data[:end], data[end:]
