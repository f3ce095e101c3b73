"""Makes files of the kinds beside pictures (render/kinds/), from the test card of `corpus`."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from PIL import ImageChops

from tests.thumbnailer.corpus import CORNERS, Colour

# In points: 72 an inch.
PDF_SIZE = (360, 240)


def pdf(
    pages: Sequence[Sequence[Colour]] = (CORNERS,),
    *,
    size: tuple[float, float] = PDF_SIZE,
    rotate: int = 0,
    encrypted: bool = False,
) -> bytes:
    """One page for each list of colours: a grey field with a patch in each corner, and a line of text."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for corners in pages:
        content = zlib.compress(_content(corners, size))
        objects.append(b"<</Length %d/Filter/FlateDecode>>stream\n%b\nendstream" % (len(content), content))
        objects.append(
            b"<</Type/Page/Parent 2 0 R/Rotate %d/MediaBox[0 0 %g %g]/Contents %d 0 R/Resources<</Font<</F 3 0 R>>>>>>"
            % (rotate, *size, len(objects))
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%b]>>" % (len(kids), b" ".join(kids))
    return pdf_of(objects, trailer=_ENCRYPTED if encrypted else b"")


# Forty bits of RC4, and a password that is not the empty one.
_ENCRYPTED = b"/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>" % (b"11" * 32, b"22" * 32)


def pdf_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, the first of which is the catalog."""
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj%b endobj\n" % (number, body))
    table = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, table))
    return out.getvalue()


def _content(corners: Sequence[Colour], size: tuple[float, float]) -> bytes:
    width, height = size
    across, down = width / 4, height / 4
    # The origin is at the bottom.
    places = ((0.0, height - down), (width - across, height - down), (0.0, 0.0), (width - across, 0.0))
    lines = [f"0.5 g 0 0 {width} {height} re f"]
    for (red, green, blue), (left, bottom) in zip(corners, places, strict=True):
        lines.append(f"{red / 255:.4f} {green / 255:.4f} {blue / 255:.4f} rg {left} {bottom} {across} {down} re f")
    lines.append(f"0 g BT /F {height / 12} Tf {width / 4} {height / 2} Td (Page of a test) Tj ET")
    return "\n".join(lines).encode()


def svg(
    corners: Sequence[Colour] = CORNERS, *, width: float = 24.6, height: float = 16.4, inner: str = "", head: str = ""
) -> bytes:
    """The card as a drawing, with a word in a font that no system has."""
    across, down = width / 4, height / 4
    places = ((0.0, 0.0), (width - across, 0.0), (0.0, height - down), (width - across, height - down))
    patches = "".join(
        f'<rect x="{left}" y="{top}" width="{across}" height="{down}" fill="rgb{corner}"/>'
        for corner, (left, top) in zip(corners, places, strict=True)
    )
    font = f'font-family="Frobnicator, Helvetica" font-size="{height / 8}"'
    text = f'<text x="{width / 4}" y="{height / 2}" {font}>Test</text>'
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- A test -->{head}\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="#808080"/>{patches}{text}{inner}</svg>'
    ).encode()


def heic(picture: PIL.Image.Image, directory: Path, *options: str) -> bytes:
    """The picture as the program of libheif writes it."""
    source, target = directory / "source.png", directory / "target.heic"
    picture.save(source)
    command = ["heif-enc", "--quality=95", *options, "--output", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target.read_bytes()


def psd(picture: PIL.Image.Image, *, layers: int = 0, version: int = 1, has_picture: bool = True) -> bytes:
    """The picture as the one of all layers; a count of layers below zero says that the fourth band is transparency."""
    colours = {"L": 1, "RGB": 3, "RGBA": 3, "CMYK": 4}[picture.mode]
    bands = picture.split()
    if picture.mode == "CMYK":
        bands = tuple(ImageChops.invert(band) for band in bands)
    head = struct.pack(">4sH6xHIIHH", b"8BPS", version, len(bands), picture.height, picture.width, 8, colours)
    info = struct.pack(">I?x", 1, has_picture)
    resources = struct.pack(">4sHHI", b"8BIM", 1057, 0, len(info)) + info
    count = struct.pack(">Ih", 2, layers)
    parts = [bytes(4), struct.pack(">I", len(resources)), resources, struct.pack(">I", len(count)), count]
    return head + b"".join(parts) + bytes(2) + b"".join(band.tobytes() for band in bands)


def epub(cover: bytes | None, *, is_version_2: bool = False, package: str = "OEBPS/a.opf") -> bytes:
    """A book of one picture."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            f'<rootfile full-path="{package}"/></rootfiles></container>',
        )
        meta = '<meta name="cover" content="c"/>' if is_version_2 else ""
        properties = "" if is_version_2 else ' properties="svg cover-image"'
        item = f'<item id="c" href="my%20art/c.jpg"{properties}/>' if cover else ""
        book.writestr(
            package,
            f'<package xmlns="http://www.idpf.org/2007/opf"><metadata>{meta}</metadata>'
            f"<manifest>{item}</manifest></package>",
        )
        if cover:
            book.writestr("OEBPS/my art/c.jpg", cover)
    return out.getvalue()
