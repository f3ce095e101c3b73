"""Writes PNGs of every colour type and bit depth from known samples, with any chunks (PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOUR: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), COLOUR_ALPHA: (8, 16)}
SAMPLES = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def profile_chunk(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))


def written(kind: int, depth: int, rows: Sequence[Sequence[int]], before: bytes = b"", after: bytes = b"") -> bytes:
    """`rows` hold the samples of each row; the chunks go before and after the pixel data."""
    width = len(rows[0]) // SAMPLES[kind]
    packed = b"".join(b"\0" + _packed(row, depth) for row in rows)
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head), before, chunk(b"IDAT", zlib.compress(packed)), after, chunk(b"IEND", b"")
    return SIGNATURE + b"".join(parts)


def _packed(row: Sequence[int], depth: int) -> bytes:
    if depth == 16:
        return struct.pack(f">{len(row)}H", *row)
    bits = "".join(f"{sample:0{depth}b}" for sample in row)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
