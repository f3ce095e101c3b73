"""Intact pictures with odd metadata: too long, too short, broken, or of an unknown kind."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import PIL.Image
from PIL import ImageCms

from tests.support.damaged_pictures import PNG_SIGNATURE, SIZE, chunk, scene, whole

_JUNK = random.Random(5).randbytes(3000)
_PNG_CHUNKS = (
    *(["gAMA", "cHRM", "sRGB", "pHYs", "bKGD", "hIST", "sBIT", "sPLT", "tIME", "acTL", "fcTL", "fdAT", "cICP", "mDCV"]),
    *(["oFFs", "sCAL", "tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "caBX", "prVt"]),
)
_ORIENTATION_99 = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0"
_EXIF = {
    "of noise": _JUNK[:200],
    "that is cut off": b"II*\0",
    "of nothing": b"",
    "behind other bytes": b"abcd" + _ORIENTATION_99,
    "behind a second name": b"Exif\0\0" + _ORIENTATION_99,
    "of more tags than there are": b"II*\0\x08\0\0\0\xff\xff",
    "with a description beyond its end": b"II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\0\0\0\xff\xff\0\0\0\0\0\0",
    "with a resolution in words": b"II*\0\x08\0\0\0\x01\0\x1a\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    "in a circle": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0",
    "with an orientation in words": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    "with orientation 99": _ORIENTATION_99,
    "with 4 billion orientations": _ORIENTATION_99.replace(b"\x01\0\0\0\x63", b"\xff\xff\xff\xff\x08"),
}
_JPEG_SEGMENTS = {
    "ICC parts that do not fit together": ((0xE2, b"ICC_PROFILE\0\x05\x02" + _JUNK[:50]), (0xE2, b"ICC_PROFILE\0")),
    "50 parts of XMP": tuple((0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) for _ in range(50)),
    "an MPF index of noise": ((0xE2, b"MPF\0" + _JUNK[:100]),),
    "a short JFIF segment": ((0xE0, b"JFIF\0"),),
    "a short segment of Adobe": ((0xEE, b"Adobe"),),
    "Photoshop data of noise": ((0xED, b"Photoshop 3.0\0" + _JUNK[:100]),),
    "Photoshop data that are cut off": ((0xED, b"Photoshop 3.0\0008BIM\x04\x04\0"),),
    "a comment of noise": ((0xFE, _JUNK),),
    "a JFXX segment of noise": ((0xE0, b"JFXX\0\x10" + _JUNK[:30]),),
}


# Tag, field type, count and value of an entry that a TIFF gets beside its own.
_ODD_TAGS = {
    "a description beyond its end": (270, 2, 900, 5_000_000),
    "a description of 4 billion bytes": (270, 2, 0xFFFFFFFF, 8),
    "a field type that nobody knows": (270, 99, 1, 0),
    "a number for a description": (270, 3, 1, 7),
    "a resolution of no numbers": (282, 5, 0, 0),
    "a resolution beyond its end": (282, 5, 1, 5_000_000),
    "a resolution in words": (282, 2, 4, 0x20202020),
    "EXIF data beyond its end": (34665, 4, 1, 5_000_000),
    "EXIF data in a circle": (34665, 4, 1, 8),
    "a profile beyond its end": (34675, 7, 3000, 5_000_000),
    "a profile of 4 billion bytes": (34675, 7, 0xFFFFFFFF, 8),
    "4 billion other pictures": (330, 4, 0xFFFFFFFF, 8),
    "Photoshop data beyond its end": (34377, 7, 3000, 5_000_000),
    "XMP beyond its end": (700, 1, 3000, 5_000_000),
    "IPTC in an odd type": (33723, 4, 3, 8),
    "an orientation in words": (274, 2, 4, 0x20202020),
    "4 billion orientations": (274, 3, 0xFFFFFFFF, 8),
    "a private tag of 4 billion numbers": (65000, 12, 0xFFFFFFFF, 8),
}
_GIF_EXTENSIONS = {
    "a comment of noise": b"!\xfe\xc8" + _JUNK[:200] + b"\0",
    "a comment of nothing": b"!\xfe\0",
    "an application of noise": b"!\xff\x0bNETSCAPE2.0\x05" + _JUNK[:5] + b"\0",
    "an application of a byte": b"!\xff\x01a\0",
    "XMP that is cut off": b"!\xff\x0bXMP DataXMP\x05<?xpa\0",
    "an extension that nobody knows": b"!\x42\x03abc\0",
    "a plain text": b"!\x01\x0c" + bytes(12) + b"\x03abc\0",
}


def large_profile() -> bytes:
    """sRGB in 1.6 MB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return struct.pack(">I", 1_600_000) + profile[4:] + bytes(1_600_000 - len(profile))


def png_with(*chunks: bytes) -> bytes:
    """A PNG with these chunks after its header."""
    png = whole("PNG")
    return png[:33] + b"".join(chunks) + png[33:]


# Two modules ask when pytest collects, in each of its processes.
@functools.cache
def pictures() -> tuple[tuple[str, bytes], ...]:
    """Names and files. All show the scene."""
    return tuple(_pictures())


def _pictures() -> Iterator[tuple[str, bytes]]:
    yield from _pngs()
    yield from _jpegs()
    for image_format in ("WEBP", "TIFF", "AVIF", "JPEG"):
        yield f"{image_format} with a profile of 1.6 MB", _encoded(image_format, icc_profile=large_profile())
    for image_format in ("WEBP", "TIFF", "JPEG"):
        yield f"{image_format} with a profile of noise", _encoded(image_format, icc_profile=_JUNK)
    yield "WEBP with XMP of 5 MB", _encoded("WEBP", xmp=bytes(5_000_000))
    yield "TIFF with XMP of 5 MB", _encoded("TIFF", tiffinfo={700: bytes(5_000_000)})
    for name, exif in _EXIF.items():
        yield f"WEBP with EXIF {name}", _encoded("WEBP", exif=b"Exif\0\0" + exif)
    for name, exif in _EXIF.items():
        yield f"AVIF with EXIF {name}", avif_with(exif, turned=False)
        yield f"turned AVIF with EXIF {name}", avif_with(exif, turned=True)
        yield f"TIFF with EXIF {name}", _tiff_with_exif(exif)
    for name, tag in _ODD_TAGS.items():
        yield f"TIFF with {name}", tiff_with_tag(tag)
    gif = whole("GIF")
    for name, extension in _GIF_EXTENSIONS.items():
        start = 13 + (3 << (gif[10] & 7) + 1)
        yield f"GIF with {name}", gif[:start] + extension + gif[start:]
    bmp = whole("BMP")
    yield "BMP with odd resolutions", bmp[:38] + b"\xff" * 8 + bmp[46:]


def avif_with(exif: bytes, *, turned: bool) -> bytes:
    """An AVIF with these EXIF data. If it is `turned`, it is stored lying, and its own rotation makes it upright."""
    words = b"words " * 50
    sound = PIL.Image.Exif()
    sound[270] = words.decode()
    if turned:
        sound[274] = 6
    out = io.BytesIO()
    scene("RGB", SIZE[::-1] if turned else SIZE).save(out, "AVIF", exif=sound.tobytes())
    avif = out.getvalue()
    end = avif.index(words) + len(words)
    start = max(avif.rfind(order, 0, end) for order in (b"II*\0", b"MM\0*"))
    return avif[:start] + exif[: end - start].ljust(end - start, b"\0") + avif[end:]


def tiff_with_tag(tag: tuple[int, int, int, int]) -> bytes:
    """A TIFF of which one entry is odd: its directory is written again, in order."""
    tiff = whole("TIFF")
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [tiff[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry) != tag[:1]]
    entries = sorted([*entries, struct.pack("<HHII", *tag)], key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


def _tiff_with_exif(exif: bytes) -> bytes:
    """A TIFF whose EXIF data are behind it: a directory, of which the places count from the start of the file."""
    place = len(tiff_with_tag((34665, 4, 1, 0)))
    return tiff_with_tag((34665, 4, 1, place)) + exif[8:]


def _pngs() -> Iterator[tuple[str, bytes]]:
    png = whole("PNG")
    end = png.index(b"IEND") - 4
    for kind in _PNG_CHUNKS:
        for name, data in (("nothing", b""), ("a byte", b"a"), ("40 bytes", _JUNK[:40]), ("3,000 bytes", _JUNK)):
            yield f"PNG with {kind} of {name}", png_with(chunk(kind.encode(), data))
        yield f"PNG with {kind} at its end", png[:end] + chunk(kind.encode(), _JUNK) + png[end:]
        odd = bytearray(chunk(kind.encode(), _JUNK))
        odd[-1] ^= 1
        yield f"PNG with a wrong checksum of {kind}", png_with(bytes(odd))
    for name, exif in _EXIF.items():
        yield f"PNG with EXIF {name}", png_with(chunk(b"eXIf", exif))
    profile = zlib.compress(large_profile())
    yield "PNG with a profile of 1.6 MB", png_with(chunk(b"iCCP", b"large\0\0" + profile))
    yield "PNG with a profile in unknown compression", png_with(chunk(b"iCCP", b"large\0\5" + profile))
    yield "PNG with a text of 5 MB", png_with(chunk(b"tEXt", b"k\0" + b"a" * 5_000_000))
    yield "PNG with 70 texts of 1 MB", png_with(*[chunk(b"tEXt", b"k\0" + b"a" * 1_000_000)] * 70)
    for text_kind, head in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")):
        text = zlib.compress(bytes(1_600_000))
        yield f"PNG with {text_kind.decode()} of 1.6 MB", png_with(chunk(text_kind, head + text))
    yield "PNG without an end", png[:end]


def _jpegs() -> Iterator[tuple[str, bytes]]:
    jpeg = whole("baseline JPEG")
    for name, segments in _JPEG_SEGMENTS.items():
        parts = [bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data for marker, data in segments]
        yield f"JPEG with {name}", jpeg[:2] + b"".join(parts) + jpeg[2:]
    for name, exif in _EXIF.items():
        data = b"Exif\0\0" + exif
        yield f"JPEG with EXIF {name}", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]
    yield "JPEG with fill bytes", jpeg[:2] + b"\xff\xff\xff" + jpeg[2:]


def noisy() -> Iterator[tuple[str, bytes]]:
    """Files for which Pillow logs or warns when it reads their headers."""
    tiff = _tiff([(256, 3, 8), (257, 3, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 9)])
    yield "TIFF of more samples than can be decoded", tiff
    yield "TIFF with a tag beyond its end", _tiff([(256, 3, 8), (257, 3, 8), (270, 2, 900)])
    yield "JPEG with an MPF index of noise", dict(_jpegs())["JPEG with an MPF index of noise"]
    yield "JPEG with EXIF of noise", dict(_jpegs())["JPEG with EXIF of noise"]
    acTL = chunk(b"acTL", bytes(8))
    for size in ((20_000, 9_000), (50_000, 40_000)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
        yield f"PNG of {size} pixels", PNG_SIGNATURE + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        yield f"TIFF of {size} pixels", _tiff([(256, 4, size[0]), (257, 4, size[1]), (262, 3, 1), (273, 4, 8)])
    for name, data in pictures():
        if name.startswith(("TIFF with", "AVIF with EXIF", "WEBP with EXIF", "PNG with iCCP", "JPEG with ICC")):
            yield name, data
    yield "PNG with an animation of no frames", PNG_SIGNATURE + whole("PNG")[8:33] + acTL + whole("PNG")[33:]


def _tiff(tags: list[tuple[int, int, int]]) -> bytes:
    """A TIFF of one directory. Text tags claim their length, and an offset beyond the end."""
    entries = b""
    for tag, kind, value in tags:
        count, value = (value, 5000) if kind == 2 else (1, value)
        entries += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def _encoded(image_format: str, **parameters: Any) -> bytes:
    out = io.BytesIO()
    scene().save(out, image_format, **parameters)
    return out.getvalue()
