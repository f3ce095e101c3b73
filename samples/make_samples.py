"""Makes the sample files: `python samples/make_samples.py [directory]`.

Draws them by arithmetic, with integers wherever floating point could round differently on another platform, so that
every run gives the same pixels. Each picture tests one thing that a thumbnailer can get wrong: transparency, EXIF
orientation, a format that browsers do not show, large flat areas, fine detail, text.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

_ORIENTATION = 0x0112
_ROTATE_90_TO_SHOW = 6

_NIGHT, _DUSK, _GLOW = (28, 38, 84), (196, 92, 96), (255, 206, 128)


def landscape() -> Image.Image:
    """Hills at sunset, the sun above a lake."""
    size = width, height = 960, 640
    picture = _vertical_gradient(size, [_NIGHT, _DUSK, _GLOW])
    draw = ImageDraw.Draw(picture)
    draw.ellipse((600, 270, 720, 390), fill=(255, 244, 214))
    layers = [((96, 66, 110), 400, 60, 47), ((62, 50, 92), 440, 46, 31), ((36, 36, 66), 490, 34, 19)]
    for colour, base, swing, seed in layers:
        ridge = [(x, base + _hill(x, seed) * swing // 100) for x in range(0, width + 8, 8)]
        draw.polygon([*ridge, (width, height), (0, height)], fill=colour)
    draw.ellipse((-200, 540, 1160, 900), fill=(48, 60, 100))
    for row in range(550, height, 6):
        half = 12 + (row - 550) * 3 // 4
        draw.line((660 - half, row, 660 + half, row), fill=(236, 184, 132), width=2)
    for x in range(40, 330, 34):
        _fir(draw, x, 566 + (x * 7) % 23, 70 + (x * 13) % 50)
    return picture


def fractal() -> Image.Image:
    """The Mandelbrot set, in fixed-point arithmetic."""
    width, height, shift, limit = 480, 360, 24, 48
    palette = [
        _mix([(8, 6, 40), (30, 90, 170), (240, 240, 220), (240, 150, 30), (60, 10, 20)], i, limit) for i in range(limit)
    ]
    palette.append((0, 0, 0))
    picture = Image.new("RGB", (width, height))
    scale = (3 << shift) // width
    four = 4 << shift
    for row in range(height // 2 + 1):
        for column in range(width):
            c_re, c_im = column * scale - (9 << shift) // 4, (row - height // 2) * scale
            re = im = steps = 0
            while steps < limit:
                re2, im2 = re * re >> shift, im * im >> shift
                if re2 + im2 > four:
                    break
                re, im, steps = re2 - im2 + c_re, (re * im >> shift - 1) + c_im, steps + 1
            picture.putpixel((column, row), palette[steps])
            if 0 < row < height // 2:
                picture.putpixel((column, height - row), palette[steps])
    return picture


def colour_card() -> Image.Image:
    """Colour bars, grey steps, fine lines, and text."""
    picture = Image.new("RGB", (800, 600), (24, 24, 24))
    draw = ImageDraw.Draw(picture)
    bars = ["white", "yellow", "cyan", "lime", "magenta", "red", "blue"]
    for index, colour in enumerate(bars):
        draw.rectangle((40 + index * 103, 40, 40 + index * 103 + 102, 259), fill=colour)
    for index in range(16):
        draw.rectangle((40 + index * 45, 280, 40 + index * 45 + 44, 339), fill=(index * 17,) * 3)
    x = 40
    for index in range(60):
        x += 4 + index // 8
        draw.line((x, 360, x, 430), fill="white")
    draw.ellipse((560, 350, 740, 530), outline="white", width=3)
    draw.ellipse((620, 410, 680, 470), outline="white", width=3)
    font = ImageFont.load_default_imagefont()
    _text(picture, (40, 460), "md5s3stash test card", font, 3)
    _text(picture, (40, 520), "0123456789 abcdefghijklmnopqrstuvwxyz", font, 2)
    return picture


def gradient() -> Image.Image:
    """Smooth in both directions: shows banding."""
    across = Image.linear_gradient("L").rotate(90)
    down = Image.linear_gradient("L")
    return Image.merge("RGB", (across, down, across.rotate(180))).resize((512, 512), Image.Resampling.NEAREST)


def transparent() -> Image.Image:
    """Three discs of coloured glass on a transparent background."""
    picture = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    for box, colour in [
        ((40, 20, 240, 220), (230, 60, 60, 150)),
        ((160, 20, 360, 220), (60, 170, 80, 150)),
        ((100, 150, 300, 350), (60, 90, 220, 150)),
    ]:
        glass = Image.new("RGBA", picture.size, (0, 0, 0, 0))
        ImageDraw.Draw(glass).ellipse(box, fill=colour)
        picture = Image.alpha_composite(picture, glass)
    return picture


def portrait() -> Image.Image:
    """A face. The file stores it on its side, with the EXIF tag that turns it upright."""
    picture = _vertical_gradient((480, 640), [(210, 226, 236), (150, 178, 200)])
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 500, 420, 900), fill=(70, 80, 120))
    draw.rectangle((200, 430, 280, 540), fill=(214, 164, 130))
    draw.ellipse((120, 110, 360, 380), fill=(74, 48, 34))
    draw.ellipse((140, 150, 340, 460), fill=(228, 180, 146))
    for x in (200, 280):
        draw.ellipse((x - 20, 270, x + 20, 294), fill="white")
        draw.ellipse((x - 10, 272, x + 10, 292), fill=(60, 44, 36))
        draw.line((x - 26, 252, x + 26, 248), fill=(74, 48, 34), width=7)
    draw.line((240, 296, 232, 344, 248, 346), fill=(190, 136, 104), width=5, joint="curve")
    draw.arc((196, 350, 284, 410), 20, 160, fill=(170, 70, 70), width=8)
    return picture.transpose(Image.Transpose.ROTATE_90)


def mosaic() -> Image.Image:
    """Tiles whose colours follow the parity of binomial coefficients."""
    picture = Image.new("RGB", (512, 512), (250, 246, 236))
    draw = ImageDraw.Draw(picture)
    for row in range(64):
        for column in range(row + 1):
            if column & (row - column) == 0:
                x = 256 - row * 4 + column * 8
                draw.rectangle((x, row * 8, x + 6, row * 8 + 6), fill=(180 - row * 2, 40 + column * 2, 60 + row * 3))
    return picture


def scan() -> Image.Image:
    """A scanned page: grey, mostly paper."""
    picture = Image.new("L", (620, 800), 244)
    font = ImageFont.load_default_imagefont()
    _text(picture, (60, 60), "THE SPOOL", font, 4, 40)
    for line in range(24):
        words = " ".join(("lorem", "ipsum", "dolor", "amet", "stash")[(line * 3 + word) % 5] for word in range(7))
        _text(picture, (60, 150 + line * 25), words, font, 2, 70)
    return picture.filter(ImageFilter.BoxBlur(1))


EMBLEM = """<svg xmlns="http://www.w3.org/2000/svg" width="240" height="160" viewBox="0 0 240 160">
<title>md5s3stash</title>
<linearGradient id="sky" x2="0" y2="1">
<stop stop-color="#1c2654"/><stop offset="1" stop-color="#c45c60"/>
</linearGradient>
<rect x="8" y="8" width="224" height="144" rx="24" fill="url(#sky)"/>
<circle cx="168" cy="64" r="26" fill="#ffce80"/>
<path d="M24 136 92 52l52 60 20-22 52 46z" fill="#24243c" fill-opacity=".85"/>
<text x="120" y="146" font-family="Helvetica, sans-serif" font-size="14" text-anchor="middle" fill="white">stash</text>
</svg>
"""


def leaflet() -> bytes:
    """Two pages of A5 as a PDF: a drawing, and lines of text in a font that the file does not bring."""
    drawing = "0.11 0.15 0.33 rg 0 0 420 595 re f 1 0.81 0.5 rg 60 330 300 4 re f 0.77 0.36 0.38 rg "
    drawing += " ".join(f"{60 + 50 * n} 120 36 {40 + 37 * n % 160} re f" for n in range(6))
    title = "BT /F 34 Tf 1 1 1 rg 60 420 Td (The spool) Tj 0 -44 Td /F 18 Tf (a leaflet of two pages) Tj ET"
    lines = " ".join(f"(Line {n}: every file is stored under its md5.) Tj 0 -22 Td" for n in range(1, 22))
    pages = [f"{drawing} {title}", f"BT /F 14 Tf 0 g 50 520 Td {lines} ET"]
    objects = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Count 2/Kids[4 0 R 6 0 R]>>"]
    objects.append("<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")
    for content in pages:
        number = len(objects) + 2
        facts = "/Parent 2 0 R/MediaBox[0 0 420 595]/Resources<</Font<</F 3 0 R>>>>"
        objects.append(f"<</Type/Page{facts}/Contents {number} 0 R>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    text, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(text))
        text += f"{number} 0 obj{body}endobj\n"
    entries = "".join(f"{place:010} 00000 n \n" for place in places)
    table = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{entries}"
    return f"{text}{table}trailer<</Size {len(places) + 1}/Root 1 0 R>>\nstartxref\n{len(text)}\n%%EOF\n".encode()


NOTES = """These files were made by samples/make_samples.py. They are in the public domain (CC0 1.0).

This file is not a picture. It is stashed all the same, like any other file.
"""


def make_all(directory: Path) -> None:
    """Writes every sample into the directory, which must exist."""
    landscape().save(directory / "landscape.jpg", quality=85)
    fractal().save(directory / "fractal.png", optimize=True)
    colour_card().save(directory / "test-card.png", optimize=True)
    gradient().save(directory / "gradient.jpg", quality=90)
    transparent().save(directory / "transparent.png", optimize=True)
    exif = Image.Exif()
    exif[_ORIENTATION] = _ROTATE_90_TO_SHOW
    portrait().save(directory / "portrait.jpg", quality=85, exif=exif)
    # Lossless, so that the pixels do not depend on the encoder's release.
    mosaic().save(directory / "mosaic.webp", lossless=True)
    scan().save(directory / "scan.tif", compression="tiff_deflate")
    _write_heic(landscape().crop((360, 120, 840, 600)), directory / "phone.heic")
    (directory / "emblem.svg").write_text(EMBLEM)
    (directory / "leaflet.pdf").write_bytes(leaflet())
    (directory / "notes.txt").write_text(NOTES)


def _write_heic(picture: Image.Image, path: Path) -> None:
    """By the program of libheif: nothing that is installed for the product can write HEIC."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source.png"
        picture.save(source)
        command = ["heif-enc", "--quality=60", "--output", str(path), str(source)]
        subprocess.run(command, check=True, capture_output=True)


def _vertical_gradient(size: tuple[int, int], colours: list[Colour]) -> Image.Image:
    width, height = size
    column = Image.new("RGB", (1, height))
    for row in range(height):
        column.putpixel((0, row), _mix(colours, row, height))
    return column.resize((width, height), Image.Resampling.NEAREST)


def _mix(colours: list[Colour], step: int, steps: int) -> Colour:
    """The colour at `step` of `steps` along the list."""
    index, rest = divmod(step * (len(colours) - 1), steps)
    first, second = colours[index], colours[min(index + 1, len(colours) - 1)]
    red, green, blue = ((a * (steps - rest) + b * rest) // steps for a, b in zip(first, second, strict=True))
    return red, green, blue


def _hill(x: int, seed: int) -> int:
    """A rolling line between -100 and 100: two triangle waves."""
    wide = abs((x * 5 + seed * 37) % 2000 - 1000) // 10
    narrow = abs((x * 11 + seed * 53) % 1400 - 700) // 10
    return wide + narrow - 100


def _fir(draw: ImageDraw.ImageDraw, x: int, foot: int, height: int) -> None:
    for part in range(3):
        top = foot - height + part * height // 4
        half = height // 6 + part * height // 12
        draw.polygon([(x, top), (x - half, top + height // 2), (x + half, top + height // 2)], fill=(20, 26, 40))


def _text(
    picture: Image.Image,
    place: tuple[int, int],
    text: str,
    font: ImageFont.ImageFont,
    times: int,
    fill: int | str = "white",
) -> None:
    """Draws Pillow's built-in bitmap font, enlarged: releases of FreeType draw a scalable font differently."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    # The glyphs of this font are a little larger than the reported box.
    mask = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(mask).text((1, 1), text, fill=255, font=font)
    mask = mask.resize((mask.width * times, mask.height * times), Image.Resampling.NEAREST)
    picture.paste(fill, (*place, place[0] + mask.width, place[1] + mask.height), mask)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
