"""Checks that the blocks of a GIF hold its first picture. Pure.

Pillow searches any bytes after the header for a picture, and shows one whose end is missing.
"""

from __future__ import annotations

from md5s3stash_thumbnailer.errors import NotAnImage

SIGNATURES = (b"GIF87a", b"GIF89a")

_HEADER_BYTES, _DESCRIPTOR_BYTES = 13, 10
_EXTENSION, _PICTURE = 0x21, 0x2C


def check(gif: bytes) -> None:
    """Raises NotAnImage if a file is damaged or cut off before its first picture ends."""
    try:
        _check(gif)
    except IndexError as error:
        raise NotAnImage("The GIF is cut off") from error


def _check(gif: bytes) -> None:
    position = _HEADER_BYTES + _palette_bytes(gif[10])
    while gif[position] != _PICTURE:
        if gif[position] != _EXTENSION:
            raise NotAnImage("The GIF is damaged: no picture follows its header")
        position = _end_of_blocks(gif, position + 2)
    _end_of_blocks(gif, position + _DESCRIPTOR_BYTES + _palette_bytes(gif[position + 9]) + 1)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_blocks(gif: bytes, position: int) -> int:
    while gif[position]:
        position += 1 + gif[position]
    return position + 1
