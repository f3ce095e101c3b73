"""What is on the screen of a browser, beside the original that should be there."""

from __future__ import annotations

import io

import numpy
import PIL.Image
from playwright.sync_api import Locator

from tests.thumbnailer.ssim import ssim

# Tiles are JPEGs, and the noise in the original is what they draw worst. At half of its size it comes to 0.955.
LEAST_SSIM = 0.98


def shot(place: Locator) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(place.screenshot())).convert("RGB")


def colours(image: PIL.Image.Image) -> set[object]:
    return {colour for _, colour in image.getcolors(image.width * image.height) or ()}


def middle(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def shows_full_detail(
    place: Locator, original: PIL.Image.Image, size: tuple[int, int] = (600, 400), least_ssim: float = LEAST_SSIM
) -> bool:
    """Whether the middle of the original is in the middle of the place, pixel for pixel, or one of them beside it."""
    width, height = size
    seen = middle(shot(place), size)
    around = middle(original, (width + 2, height + 2))
    moved = [around.crop((x, y, x + width, y + height)) for x in range(3) for y in range(3)]
    return max(ssim(seen, part) for part in moved) > least_ssim


def shows_all(place: Locator, original: PIL.Image.Image, least: float = 0.9) -> bool:
    """Whether the whole original is in the place, as large as fits in. `least` is of SSIM."""
    seen = shot(place)
    scale = min(seen.width / original.width, seen.height / original.height)
    whole = original.resize((round(original.width * scale), round(original.height * scale)), PIL.Image.Resampling.BOX)
    # Its edges lie between pixels of the screen. Of the detail that was there only the average is left.
    return ssim(middle(seen, (400, 300)).reduce(4), middle(whole, (400, 300)).reduce(4)) > least


def has_focus_mark(place: Locator) -> bool:
    """Whether a line of two colours is around all that is in the place: one of them is seen beside any picture."""
    seen = shot(place).convert("L")
    outer, inner = (ring(seen, step) for step in (1, 4))
    return len(outer) == len(inner) == 1 and abs(outer.pop() - inner.pop()) > 80


def ring(image: PIL.Image.Image, step: int) -> set[int]:
    """What is this many pixels from the edges of a grey image."""
    pixels = numpy.asarray(image)[step:-step, step:-step]
    return {int(grey) for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]) for grey in edge}
