"""Writes TIFFs of every layout from known values: the expected picture is computed, without any library's decoder.

TIFF 6.0, with BigTIFF and the compressions that Python's library, Pillow or a few lines can write. All are lossless,
except for JPEG.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import PIL.Image

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB, ICCLAB, ITULAB = 0, 1, 2, 3, 4, 5, 6, 8, 9, 10
LOG_L, LOG_LUV = 32844, 32845
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
NONE, G3, G4, LZW, OLD_JPEG, JPEG, DEFLATE, PACKBITS = 1, 3, 4, 5, 6, 7, 8, 32773
OLD_DEFLATE, LZMA, ZSTD, WEBP, LERC = 32946, 34925, 50000, 50001, 34887

_SHORT, _LONG, _LONG8, _BYTES = 3, 4, 16, 7
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
Values = Any
"""A numpy array of height, width and samples."""


@dataclass(frozen=True)
class Layout:
    """How a TIFF stores a picture."""

    bits: int = 8
    photometric: int = BLACK_IS_ZERO
    sample_format: int = UNSIGNED
    extra: tuple[int, ...] = ()
    planar: bool = False
    reversed_bits: bool = False
    compression: int = NONE
    predictor: int = 1
    tiled: bool = False
    big_endian: bool = False
    big_tiff: bool = False
    tags: tuple[tuple[int, int, tuple[int, ...] | bytes], ...] = ()
    """Additional tags: number, type, values."""

    @property
    def colours(self) -> int:
        return {RGB: 3, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3, ITULAB: 3, LOG_LUV: 3}.get(self.photometric, 1)

    @property
    def samples(self) -> int:
        return self.colours + len(self.extra)

    @property
    def order(self) -> str:
        return ">" if self.big_endian else "<"

    def __str__(self) -> str:
        usual = Layout()
        return (
            " ".join(
                f"{name}={value}"
                for name, value in vars(self).items()
                if value != getattr(usual, name) and name != "tags"
            )
            or "usual"
        )


def written(layout: Layout, values: Values, palette: Values | None = None) -> bytes:
    """The file. `palette` has 16 bits: three rows with a column per colour."""
    height, width, _ = values.shape
    planes = [values[:, :, s : s + 1] for s in range(layout.samples)] if layout.planar else [values]
    chunks: list[bytes] = []
    for plane in planes:
        chunks += [_compressed(layout, part) for part in _parts(layout, plane)]
    return _file(layout, _tags(layout, (width, height), palette), chunks)


def from_strips(layout: Layout, size: tuple[int, int], strips: list[bytes]) -> bytes:
    """The file of these uncompressed strips."""
    chunks = [_CODERS[layout.compression](strip) for strip in strips]
    return _file(layout, _tags(layout, size), chunks)


def _tags(layout: Layout, size: tuple[int, int], palette: Values | None = None) -> dict[int, tuple[int, Any]]:
    width, height = size
    count = layout.samples
    tags: dict[int, tuple[int, Any]] = {
        256: (_LONG, (width,)),
        257: (_LONG, (height,)),
        258: (_SHORT, (layout.bits,) * count),
        259: (_SHORT, (layout.compression,)),
        262: (_SHORT, (layout.photometric,)),
        277: (_SHORT, (count,)),
        284: (_SHORT, (2 if layout.planar else 1,)),
    }
    if layout.sample_format != UNSIGNED:
        tags[339] = (_SHORT, (layout.sample_format,) * count)
    if layout.extra:
        tags[338] = (_SHORT, layout.extra)
    if layout.reversed_bits:
        tags[266] = (_SHORT, (2,))
    if layout.predictor != 1:
        tags[317] = (_SHORT, (layout.predictor,))
    if palette is not None:
        tags[320] = (_SHORT, tuple(int(level) for level in palette.reshape(-1)))
    if layout.tiled:
        tags |= {322: (_SHORT, (16,)), 323: (_SHORT, (16,))}
    else:
        tags[278] = (_SHORT, (8,))
    for number, kind, value in layout.tags:
        tags[number] = (kind, value)
    return tags


def _file(layout: Layout, tags: dict[int, tuple[int, Any]], chunks: list[bytes]) -> bytes:
    order, wide = layout.order, layout.big_tiff
    places, place = [], 16 if wide else 8
    for chunk in chunks:
        places.append(place)
        place += len(chunk) + len(chunk) % 2
    offset_kind = _LONG8 if wide else _LONG
    tags[324 if layout.tiled else 273] = (offset_kind, tuple(places))
    tags[325 if layout.tiled else 279] = (offset_kind, tuple(len(chunk) for chunk in chunks))
    entry = order + ("HHQ" if wide else "HHI")
    pointer = order + ("Q" if wide else "I")
    inline = struct.calcsize(pointer)
    count_bytes = struct.pack(order + ("Q" if wide else "H"), len(tags))
    behind = place + len(count_bytes) + len(tags) * (struct.calcsize(entry) + inline) + inline
    table, more = b"", b""
    for number, (kind, value) in sorted(tags.items()):
        data = value if isinstance(value, bytes) else _numbers(order, kind, value)
        table += struct.pack(entry, number, kind, len(value))
        if len(data) <= inline:
            table += data.ljust(inline, b"\0")
        else:
            table += struct.pack(pointer, behind + len(more))
            more += data + b"\0" * (len(data) % 2)
    magic = b"MM" if layout.big_endian else b"II"
    head = magic + (struct.pack(order + "HHHQ", 43, 8, 0, place) if wide else struct.pack(order + "HI", 42, place))
    body = b"".join(chunk + b"\0" * (len(chunk) % 2) for chunk in chunks)
    return head + body + count_bytes + table + struct.pack(pointer, 0) + more


def _numbers(order: str, kind: int, values: tuple[int, ...]) -> bytes:
    return struct.pack(
        f"{order}{len(values)}{ {_SHORT: 'H', _LONG: 'I', _LONG8: 'Q', 1: 'B', 12: 'd'}[kind] }", *values
    )


def _parts(layout: Layout, plane: Values) -> list[Values]:
    """Strips of eight rows, or tiles of 16x16 padded with zeros."""
    height, width, samples = plane.shape
    if not layout.tiled:
        return [plane[top : top + 8] for top in range(0, height, 8)]
    tiles = []
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            tile = numpy.zeros((16, 16, samples), plane.dtype)
            part = plane[top : top + 16, left : left + 16]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
    return tiles


def _compressed(layout: Layout, part: Values) -> bytes:
    if layout.compression in (JPEG, WEBP):
        return _as_picture(layout, part)
    if layout.compression in (G3, G4):
        return _as_fax(layout, part)
    if layout.predictor == 2:
        part = numpy.concatenate([part[:, :1], numpy.diff(part.astype(part.dtype), axis=1)], axis=1)
    data = _float_predicted(layout, part) if layout.predictor == 3 else packed(layout, part)
    coded = _CODERS[layout.compression](data)
    return coded.translate(_REVERSED) if layout.reversed_bits else coded


def packed(layout: Layout, part: Values) -> bytes:
    """Rows of samples, each aligned to a byte."""
    bits = layout.bits
    if layout.sample_format == FLOAT:
        return bytes(part.astype(f"{layout.order}f{bits // 8}").tobytes())
    if bits in (8, 16, 32, 64):
        kind = "i" if layout.sample_format == SIGNED else "u"
        return bytes(part.astype(f"{layout.order}{kind}{bits // 8}").tobytes())
    rows = part.reshape(part.shape[0], -1).astype(numpy.int64)
    shifts = numpy.arange(bits - 1, -1, -1)
    spread = ((rows[:, :, None] >> shifts) & 1).astype(numpy.uint8).reshape(rows.shape[0], -1)
    return bytes(numpy.packbits(spread, axis=1).tobytes())


def _float_predicted(layout: Layout, part: Values) -> bytes:
    """Adobe's technical note 3: the bytes of a row sorted by significance, then differenced."""
    size, samples = layout.bits // 8, part.shape[2]
    wide = numpy.frombuffer(part.astype(f">f{size}").tobytes(), numpy.uint8).reshape(part.shape[0], -1, size)
    rows = wide.transpose(0, 2, 1).reshape(part.shape[0], -1)
    differences = rows.copy()
    differences[:, samples:] = rows[:, samples:] - rows[:, :-samples]
    return bytes(differences.tobytes())


def _packbits(data: bytes) -> bytes:
    return b"".join(bytes([len(data[at : at + 128]) - 1]) + data[at : at + 128] for at in range(0, len(data), 128))


def _lzw(data: bytes) -> bytes:
    """Only codes of nine bits: the table is cleared before it grows."""
    codes = []
    for at in range(0, len(data), 200):
        codes += [256, *data[at : at + 200]]
    text = "".join(f"{code:09b}" for code in [*codes, 257])
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8))


def _zstd(data: bytes) -> bytes:
    """One frame with one raw block (RFC 8878)."""
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + struct.pack("<I", len(data) << 3 | 1)[:3] + data


_CODERS: dict[int, Callable[[bytes], bytes]] = {
    NONE: lambda data: data,
    LZW: _lzw,
    DEFLATE: zlib.compress,
    OLD_DEFLATE: zlib.compress,
    PACKBITS: _packbits,
    LZMA: lambda data: lzma.compress(data, lzma.FORMAT_XZ),
    ZSTD: _zstd,
    LERC: lambda data: b"Lerc2 " + data,
    OLD_JPEG: lambda data: data,
}


def _as_picture(layout: Layout, part: Values) -> bytes:
    levels = part.astype(numpy.uint8)
    image = PIL.Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    out = io.BytesIO()
    if layout.compression == WEBP:
        image.save(out, "WEBP", lossless=True, exact=True)
    else:
        # RGB stored without conversion, or values that are already YCbCr.
        image.save(out, "JPEG", quality=100, subsampling=0, **({"keep_rgb": True} if image.mode == "RGB" else {}))
    return out.getvalue()


def _as_fax(layout: Layout, part: Values) -> bytes:
    """Pillow's libtiff encodes it, with zeros as white; returns the encoded strip."""
    bits = PIL.Image.fromarray((part[:, :, 0] == 1).astype(numpy.uint8) * 255).convert("1")
    out = io.BytesIO()
    name = "group3" if layout.compression == G3 else "group4"
    # 0 is white in both kinds: a decoder returns the values as encoded.
    bits.save(out, "TIFF", compression=name, tiffinfo={278: part.shape[0], 262: 1})
    with PIL.Image.open(io.BytesIO(out.getvalue())) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        (place,), (length,) = tags[273], tags[279]
    coded = out.getvalue()[place : place + length]
    return coded.translate(_REVERSED) if layout.reversed_bits else coded


def pattern(layout: Layout, width: int = 24, height: int = 20) -> Values:
    """Values over the whole range, including the smallest and the greatest; the same each time."""
    y, x, s = numpy.mgrid[0:height, 0:width, 0 : layout.samples].astype(numpy.int64)
    noise = ((x * 37 + y * 101 + s * 53 + 11) * 2654435761 >> 5) & 0xFFFFFF
    noise[0, 0], noise[0, 1] = 0, 0xFFFFFF
    share = noise / 0xFFFFFF
    if layout.sample_format == FLOAT:
        return share.astype(numpy.float64 if layout.bits == 64 else numpy.float32)
    if layout.sample_format == SIGNED:
        values = numpy.floor(share * (2 ** (layout.bits - 1) - 1)).astype(numpy.int64)
        return values.astype(f"i{layout.bits // 8}") if layout.bits >= 8 else values
    values = numpy.floor(share * float(2**layout.bits - 1) + 0.5)
    if layout.bits == 64:
        return numpy.minimum(values, float(2**63)).astype(numpy.uint64)
    return values.astype(numpy.int64).astype(f"u{max(1, 1 << (max(layout.bits, 8) - 1).bit_length() >> 3)}")
