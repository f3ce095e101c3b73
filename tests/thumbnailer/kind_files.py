"""Makes files of the kinds beside pictures (render/kinds/), from the test card of `corpus`."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

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
