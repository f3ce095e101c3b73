"""Makes many distinct small JPEGs quickly: one picture, with a different comment in each file."""

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
    """Writes `count` files of `file_bytes` to a new directory, the same ones every time, and syncs them."""
    directory.mkdir(parents=True)
    start, rest = _drawn((320, 200) if file_bytes >= FILE_BYTES else (16, 16))
    comment_bytes = file_bytes - len(start) - len(rest) - len(_COMMENT)
    # The length includes its own two bytes.
    head = start + _COMMENT + comment_bytes.to_bytes(2, "big")
    filling = b" " * (comment_bytes - 2 - 32)
    for number in range(count):
        own = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest().encode()
        (directory / f"{number:07}.jpg").write_bytes(head + own + filling + rest)
    # Otherwise the disk would write them during a measurement.
    os.sync()


def _drawn(pixels: tuple[int, int]) -> tuple[bytes, bytes]:
    """A JPEG in two parts; a comment may go between them."""
    encoded = io.BytesIO()
    photograph(pixels, seed="small").save(encoded, "JPEG", quality=_QUALITY)
    data = encoded.getvalue()
    # Start of image, and the JFIF segment, whose third and fourth byte are its length.
    end = 2 + 2 + int.from_bytes(data[4:6], "big")
    return data[:end], data[end:]
