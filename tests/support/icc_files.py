"""Generates small ICC profiles of each colour space (ICC.1, version 2)."""

from __future__ import annotations

import struct

_D50 = struct.pack(">3i", 63190, 65536, 54061)
_XYZ = b"XYZ \0\0\0\0"


def linear_grey() -> bytes:
    """Grey with gamma 1: 128 appears as 188."""
    return _profile(b"GRAY", b"XYZ ", [(b"kTRC", _gamma())])


def linear_colour() -> bytes:
    """The primaries of sRGB with gamma 1."""
    primaries = {b"rXYZ": (28578, 14581, 913), b"gXYZ": (25240, 46982, 6364), b"bXYZ": (9374, 3973, 46785)}
    tags = [(name, _XYZ + struct.pack(">3i", *values)) for name, values in primaries.items()]
    return _profile(b"RGB ", b"XYZ ", [*tags, *((name, _gamma()) for name in (b"rTRC", b"gTRC", b"bTRC"))])


def ink() -> bytes:
    """Four inks that all print white: only a program that uses the profile shows white instead of black."""
    head = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    table = head + ramp * 4 + bytes((255, 128, 128)) * 16 + ramp * 3
    return _profile(b"CMYK", b"Lab ", [(b"A2B0", table)], b"prtr")


def lab() -> bytes:
    """For pictures in Lab."""
    head = b"mft1\0\0\0\0" + bytes((3, 3, 2, 0)) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    corners = b"".join(bytes((255 * a, 255 * b, 255 * c)) for a in (0, 1) for b in (0, 1) for c in (0, 1))
    return _profile(b"Lab ", b"Lab ", [(b"A2B0", head + ramp * 3 + corners + ramp * 3)], b"abst")


def _gamma() -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)


def _profile(colours: bytes, connection: bytes, tags: list[tuple[bytes, bytes]], kind: bytes = b"mntr") -> bytes:
    text = b"made for tests"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 78
    tags = [(b"desc", description), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", _XYZ + _D50), *tags]
    table, body, begin = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        data += b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", name, begin + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", begin + len(body), b"lcms", 0x02400000, kind, colours, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + _D50 + b"\0" * 48
    return head + struct.pack(">I", len(tags)) + table + body
