"""Icons, drawn for this program: a sheet of paper, and on it the short name of a type of file.

They have the colours and the sheet of the drawings that unknown look-ups get (`lookup/icons.py`).
"""

from __future__ import annotations

import functools

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from md5s3stash_thumbnailer.render.geometry import Size

BACKGROUND, INK, PAPER = 0xF1, 0x76, 0xFF
"""Greys."""
SIDE, STROKE = 100, 3
"""All places and lengths are for a square of this side."""
SHEET = ((32, 20), (56, 20), (70, 34), (70, 80), (32, 80))
FOLD = ((56, 20), (56, 34), (70, 34))

# The sheet is larger where it has a name on it: a name of four letters is 60 of 100 pixels wide.
_ENLARGED, _MIDDLE, _STROKE = 1.4, (51, 50), 2.5
_BAND = (10, 50, 90, 80)
_TEXT_HEIGHT, _TEXT_WIDTH = 25.0, 72.0
# For smooth edges, as far as it costs little.
_OVERSAMPLING, _LARGEST_SIDE = 4, 2048
_FONT_SIZE = 100


def drawn(name: str, size: Size) -> PIL.Image.Image:
    """In this size, in grey; in the middle if it is not a square."""
    side = min(size)
    factor = max(1, min(_OVERSAMPLING, _LARGEST_SIDE // side))
    square = _square(name, side * factor).reduce(factor)
    icon = PIL.Image.new("L", size, BACKGROUND)
    icon.paste(square, ((size[0] - side) // 2, (size[1] - side) // 2))
    return icon


def prepare() -> None:
    """Reads the font, and imports what draws: a sealed process cannot."""
    drawn("A", (8, 8))


def _square(name: str, side: int) -> PIL.Image.Image:
    image = PIL.Image.new("L", (side, side), BACKGROUND)
    draw = PIL.ImageDraw.Draw(image)
    scale = side / SIDE
    stroke = max(1, round(_STROKE * scale))
    sheet, fold = ([_on_large_sheet(point, scale) for point in points] for points in (SHEET, FOLD))
    draw.polygon(sheet, fill=PAPER)
    draw.line([*sheet, *sheet[:2]], INK, stroke, joint="curve")
    draw.line(fold, INK, stroke, joint="curve")
    left, top, right, bottom = (round(place * scale) for place in _BAND)
    draw.rounded_rectangle((left, top, right, bottom), 4 * scale, fill=INK)
    draw.text(((left + right) / 2, (top + bottom) / 2), name, PAPER, _font(name, scale), anchor="mm")
    return image


def _on_large_sheet(point: tuple[int, int], scale: float) -> tuple[float, float]:
    across, down = (
        (SIDE / 2 + (place - middle) * _ENLARGED) * scale for place, middle in zip(point, _MIDDLE, strict=True)
    )
    return across, down


def _font(name: str, scale: float) -> PIL.ImageFont.FreeTypeFont:
    """As large as the band allows."""
    widest = _any_font().getlength(name) / _FONT_SIZE
    size = max(1.0, min(_TEXT_HEIGHT, _TEXT_WIDTH / widest) * scale)
    return _any_font().font_variant(size=size)


@functools.cache
def _any_font() -> PIL.ImageFont.FreeTypeFont:
    font = PIL.ImageFont.load_default(_FONT_SIZE)
    assert isinstance(font, PIL.ImageFont.FreeTypeFont), "Pillow has FreeType, or refuses a size"
    # Raqm would load another library at its first text.
    return font.font_variant(layout_engine=PIL.ImageFont.Layout.BASIC)
