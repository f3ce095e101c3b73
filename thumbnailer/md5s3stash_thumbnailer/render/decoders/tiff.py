"""Opens a TIFF with Pillow if Pillow is known to show its layout correctly, else with libvips if that does, else not at
all.

TIFF allows tens of thousands of layouts. Both libraries decode some of them to other pixels than were stored, without
an error, so the allowed layouts are a list: the tests show each of them and compare the pixels with the values that
were written.
"""

from __future__ import annotations

from typing import BinaryIO

import PIL.Image
from PIL import TiffImagePlugin

from md5s3stash import tiff_header
from md5s3stash.tiff_header import JPEG_COMPRESSION, NO_COMPRESSION, OLD_JPEG_COMPRESSION, TiffHeader
from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.decoders.vips import VipsTiff

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_GREYS = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_ANY_EXTRA = frozenset({_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED})
_TWELVE_BITS = 12

# The compressions of Pillow's libtiff and of libvips': fax of three kinds, LZW, JPEG, Deflate and PackBits; and those
# that only one of them supports.
_SHARED_COMPRESSIONS = frozenset({NO_COMPRESSION, 2, 3, 4, 5, JPEG_COMPRESSION, 8, 32773, 32946})
_LZMA, _ZSTD, _WEBP = 34925, 50000, 50001
_COMPRESSIONS_OF_PILLOW = _SHARED_COMPRESSIONS | {OLD_JPEG_COMPRESSION, _LZMA, _ZSTD}
_COMPRESSIONS_OF_VIPS = _SHARED_COMPRESSIONS | {_WEBP}

# Photometric interpretation, bits and format of a sample -> the allowed extra samples.
_Kinds = dict[tuple[int, int, int], tuple[tuple[int, ...], ...]]
_NO_EXTRA: tuple[tuple[int, ...], ...] = ((),)
_KINDS_OF_PILLOW: _Kinds = {
    **{(grey, bits, _UNSIGNED): _NO_EXTRA for grey in _GREYS for bits in (1, 2, 4, 8)},
    **{(_PALETTE, bits, _UNSIGNED): _NO_EXTRA for bits in (1, 2, 4)},
    (_BLACK_IS_ZERO, 8, _UNSIGNED): ((), (0,), (2,)),
    (_BLACK_IS_ZERO, _TWELVE_BITS, _UNSIGNED): _NO_EXTRA,
    (_BLACK_IS_ZERO, 16, _UNSIGNED): _NO_EXTRA,
    (_BLACK_IS_ZERO, 16, _SIGNED): _NO_EXTRA,
    (_BLACK_IS_ZERO, 32, _SIGNED): _NO_EXTRA,
    (_BLACK_IS_ZERO, 32, _FLOAT): _NO_EXTRA,
    (_RGB, 8, _UNSIGNED): ((), (0,), (1,), (2,), (0, 0), (1, 0), (2, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0), (999,)),
    (_RGB, 16, _UNSIGNED): ((), (0,), (1,), (2,)),
    (_PALETTE, 8, _UNSIGNED): ((), (0,), (2,)),
    (_CMYK, 8, _UNSIGNED): ((), (0,), (0, 0)),
    (_CMYK, 16, _UNSIGNED): _NO_EXTRA,
    (_YCBCR, 8, _UNSIGNED): _NO_EXTRA,
    (_LAB, 8, _UNSIGNED): _NO_EXTRA,
}
# libvips ignores extra samples after the first.
_FIRST_EXTRA_OF_VIPS: dict[tuple[int, int, int], frozenset[int]] = {
    **{(grey, bits, _UNSIGNED): frozenset() for grey in _GREYS for bits in (1, 2, 4, 32)},
    **{(grey, bits, _UNSIGNED): _ANY_EXTRA for grey in _GREYS for bits in (8, 16)},
    **{(_BLACK_IS_ZERO, bits, _SIGNED): frozenset() for bits in (8, 16, 32)},
    **{(_BLACK_IS_ZERO, bits, _FLOAT): frozenset() for bits in (16, 32)},
    **{(_RGB, bits, _UNSIGNED): _ANY_EXTRA for bits in (8, 16)},
    **{(_RGB, bits, _FLOAT): frozenset({_UNSPECIFIED, _UNASSOCIATED}) for bits in (16, 32)},
    **{(_PALETTE, bits, _UNSIGNED): frozenset() for bits in (1, 2, 4, 8)},
    **{(_CMYK, bits, _UNSIGNED): frozenset({_UNSPECIFIED, _UNASSOCIATED}) for bits in (8, 16)},
    **{(_LAB, bits, _UNSIGNED): frozenset({_UNASSOCIATED}) for bits in (8, 16)},
}


def is_tiff(file: BinaryIO) -> bool:
    """By its first bytes."""
    file.seek(0)
    return file.read(4) in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")


def opened(file: BinaryIO) -> PIL.Image.Image:
    """The first picture of a file, not decoded. Raises NotAnImage, or any error of Pillow for broken data."""
    header = tiff_header.read(file)
    if header is None or min(*header.stored_size, header.samples) < 1:
        raise NotAnImage("The TIFF is damaged")
    if _is_for_pillow(header) and (header.is_within_file or not _is_for_vips(header)):
        file.seek(0)
        image = TiffImagePlugin.TiffImageFile(file)
        if header.bits[0] == _TWELVE_BITS:
            image.info["white"] = float(2**_TWELVE_BITS - 1)
        return image
    if _is_for_vips(header):
        return VipsTiff(file, header, has_alpha=has_alpha(header))
    raise NotAnImage(
        f"TIFFs of this layout are not shown: photometric interpretation {header.photometric}, bits {header.bits[:4]}, "
        f"sample format {header.formats[0]}, compression {header.compression}"
    )


def _is_for_pillow(header: TiffHeader) -> bool:
    kind = _kind(header)
    if kind is None or header.compression not in _COMPRESSIONS_OF_PILLOW:
        return False
    photometric, bits, sample_format = kind
    is_raw = header.compression == NO_COMPRESSION
    has_untold_alpha = photometric == _RGB and header.samples == 4 and not header.extra_samples
    if not (has_untold_alpha or _has_declared_samples(header)):
        return False
    if header.extra_samples not in _KINDS_OF_PILLOW.get(kind, ()):
        return False
    if header.is_reversed and (bits >= 8 or photometric not in _GREYS):
        return False
    # Pillow does not read these.
    if header.is_big_endian and (header.is_big_tiff or bits == _TWELVE_BITS):
        return False
    if header.is_big_endian and not is_raw and (sample_format != _UNSIGNED):
        return False
    if not header.is_planar:
        return True
    if is_raw:
        return photometric in (_RGB, _CMYK) and bits == 8 and not header.extra_samples
    return photometric in (_RGB, _CMYK, _YCBCR) and len(header.extra_samples) < 2


def has_alpha(header: TiffHeader) -> bool:
    """Whether the first of the extra samples says how much is seen of a pixel."""
    return header.extra_samples[:1] in ((_ASSOCIATED,), (_UNASSOCIATED,))


def has_rows(header: TiffHeader) -> bool:
    """Whether libvips is known to show this layout rightly, row by row."""
    is_ycc_in_jpeg = _kind(header) == (_YCBCR, 8, _UNSIGNED) and header.compression == JPEG_COMPRESSION
    return (is_ycc_in_jpeg and header.samples == 3 and not header.is_planar) or _is_for_vips(header)


def _is_for_vips(header: TiffHeader) -> bool:
    kind = _kind(header)
    if kind is None or kind not in _FIRST_EXTRA_OF_VIPS or header.compression not in _COMPRESSIONS_OF_VIPS:
        return False
    photometric, bits, sample_format = kind
    if not _has_declared_samples(header) or not set(header.extra_samples[:1]) <= _FIRST_EXTRA_OF_VIPS[kind]:
        return False
    # libvips converts some pixels only if they are not in planes.
    return not header.is_planar or (photometric in (_RGB, _CMYK) and not (sample_format == _FLOAT and bits == 16))


def _kind(header: TiffHeader) -> tuple[int, int, int] | None:
    """None if the samples differ from each other, or the photometric interpretation is not known."""
    if len(set(header.bits)) != 1 or len(set(header.formats)) != 1 or header.photometric not in _COLOURS:
        return None
    return header.photometric, header.bits[0], header.formats[0]


def _has_declared_samples(header: TiffHeader) -> bool:
    return header.samples == _COLOURS[header.photometric] + len(header.extra_samples)
