"""Small JPEGs, as many as are wanted and no two alike, quickly: one drawn picture, and in each file another comment."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from bench.picture_corpus import photograph

FILE_BYTES = 20_000
_PIXELS = (320, 200)
_QUALITY = 86
_COMMENT = b"\xff\xfe"


def make_files(directory: Path, count: int) -> None:
    """`count` files of FILE_BYTES bytes in a new directory: 000000.jpg and so on. The same ones every time."""
    directory.mkdir(parents=True)
    start, rest = _drawn()
    comment_bytes = FILE_BYTES - len(start) - len(rest) - len(_COMMENT)
    # The two bytes of the length count.
    head = start + _COMMENT + comment_bytes.to_bytes(2, "big")
    filling = b" " * (comment_bytes - 2 - 32)
    for number in range(count):
        own = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest().encode()
        (directory / f"{number:06}.jpg").write_bytes(head + own + filling + rest)


def _drawn() -> tuple[bytes, bytes]:
    """A JPEG in two parts, between which a comment may stand."""
    encoded = io.BytesIO()
    photograph(_PIXELS, seed="small").save(encoded, "JPEG", quality=_QUALITY)
    data = encoded.getvalue()
    # Start of image, and the JFIF segment, which says in its third and fourth byte how long it is.
    end = 2 + 2 + int.from_bytes(data[4:6], "big")
    return data[:end], data[end:]
