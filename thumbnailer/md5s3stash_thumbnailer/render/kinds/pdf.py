"""A page of a PDF, drawn by PDFium at the size that is needed. `page=N` is any page but the first.

A page is said to have 200 pixels an inch. PDFium runs no script and fetches nothing (its V8 and XFA are not in the
package). It has fonts of its own for those that a file does not embed, and is given no others: a sealed worker cannot
open them, and two boxes would draw the same page differently.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import re
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash_thumbnailer.errors import NotAnImage, NotShown, PartNotFound
from md5s3stash_thumbnailer.part import page_of
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn, within
from md5s3stash_thumbnailer.render.geometry import Size

TITLE = "PDF files"

_PIXELS_A_POINT = 200 / 72
# A drawing of a building has metres. A page that is larger than this is said to have fewer pixels an inch.
_MAX_SIDE = 6000
# What other readers skip before the header, which is in the first 1,024 bytes: nothing that begins a picture, or a
# drawing.
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[\0\t\n\f\r ]*+(?!<)[\0\t\n\f\r -~]{0,1019}?%PDF-")
_NOT_A_PAGE = 1.0


def is_begun_by(prefix: bytes) -> bool:
    return bool(_HEADER.match(prefix[:1024]))


def missing() -> str:
    return kinds.missing_package("pypdfium2", "pypdfium2")


def prepare() -> None:
    raw = _pdfium().raw
    # The package has begun it with the fonts of the system.
    raw.FPDF_DestroyLibrary()
    no_paths = (ctypes.POINTER(ctypes.c_char) * 1)()
    raw.FPDF_InitLibraryWithConfig(raw.FPDF_LIBRARY_CONFIG(version=2, m_pUserFontPaths=no_paths))
    # What it imports when it is first used, too.
    with _pdfium().PdfDocument.new() as document:
        _drawn(document.new_page(1, 1), (1, 1))


def opened(file: BinaryIO, part: str, max_pixels: int) -> Drawn:
    document = _document(file)
    number, count = page_of(part), len(document)
    if number > count:
        raise PartNotFound(f"The PDF has no page {number}: it has {count}")
    document.init_forms()
    page = document[number - 1]
    points = page.get_size()
    if not all(side >= _NOT_A_PAGE for side in points):
        raise NotAnImage("File cannot be read as an image: the page of the PDF has no size")
    size = within((points[0] * _PIXELS_A_POINT, points[1] * _PIXELS_A_POINT), _MAX_SIDE, max_pixels)
    return Drawn(file, size, lambda size: _drawn(page, size), "RGB", "JPEG")


def _document(file: BinaryIO) -> Any:
    pdfium = _pdfium()
    try:
        return pdfium.PdfDocument(_bytes(file))
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium.raw.FPDF_ERR_PASSWORD:
            raise NotShown("The PDF is encrypted: it is only shown to those who have its password") from error
        raise NotAnImage("File cannot be read as an image: the PDF is damaged") from error


def _bytes(file: BinaryIO) -> Any:
    """The file in memory, not copied if it has a descriptor. The package would read the file through a function that it
    makes at run time, which a sealed worker cannot.
    """
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except io.UnsupportedOperation:
        return file.read()
    return (ctypes.c_ubyte * len(mapped)).from_buffer(mapped)


def _drawn(page: Any, size: Size) -> PIL.Image.Image:
    """The page, on white, distorted to exactly this size."""
    pdfium = _pdfium()
    raw = pdfium.raw
    bitmap = pdfium.PdfBitmap.new_native(*size, raw.FPDFBitmap_BGRx)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, *size)
    place = (bitmap, page, 0, 0, *size, 0, raw.FPDF_ANNOT)
    raw.FPDF_RenderPageBitmap(*place)
    if page.formenv:
        raw.FPDF_FFLDraw(page.formenv, *place)
    image: PIL.Image.Image = bitmap.to_pil()
    return image.convert("RGB")


def _pdfium() -> Any:
    import pypdfium2

    return pypdfium2
