"""Takes the EXIF data out of an AVIF, for Pillow refuses the picture where they are broken. Pure."""

from __future__ import annotations

import re

# An entry that says of which type an item is (ISO/IEC 14496-12, 8.11.6), of version 2 or 3.
_ENTRY = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


def is_avif(prefix: bytes) -> bool:
    """By the first 12 bytes of a file."""
    return prefix[4:8] == b"ftyp" and prefix[8:12] in (b"avif", b"avis", b"mif1", b"msf1")


def without_exif(avif: bytes) -> bytes:
    """The file with EXIF data under a type that is unknown, so that they are ignored."""
    return _ENTRY.sub(rb"\1free", avif)
