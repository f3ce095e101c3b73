"""A picture + what IIIF asks for -> the bytes of the answer: cut, scaled, mirrored, turned, in its quality and format.

Where there is nothing to show, at the corners of a turned picture, the answer is transparent, or white in a JPEG.
"""

from __future__ import annotations

import PIL.Image

from md5s3stash_thumbnailer._pilbox import DrawOptions
from md5s3stash_thumbnailer.render import output
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.geometry import Cut
from md5s3stash_thumbnailer.render.picture import Picture
from md5s3stash_thumbnailer.render.region_request import FORMATS, RegionRequest, Rotation

_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_WHITE = 255
_HALF = 127
_MOST_COLOURS = 256
# There is one worker per core. Slower AVIF is smaller, but takes seconds for a large picture.
_PARAMETERS: dict[str, dict[str, object]] = {
    "AVIF": {"max_threads": 1, "speed": 8},
    "TIFF": {"compression": "tiff_lzw"},
}


def written_formats() -> tuple[str, ...]:
    """IIIF's names of the formats that this build of Pillow writes; AVIF it may lack."""
    return tuple(name for name, pillow_name in FORMATS.items() if pillow_name in PIL.Image.SAVE)


def encoded_region(picture: Picture, request: RegionRequest) -> bytes:
    """Raises RequestRefused for what this picture cannot give, and pilbox's ImageSaveError."""
    image_format = FORMATS[request.output.format]
    left, top, width, height = (plan := request.plan(picture.size)).region
    cut = Cut((left, top, left + width, top + height), plan.size)
    image = to_srgb(picture.cut(cut, PIL.Image.Resampling.LANCZOS), picture.image)
    if image_format == "JPEG":
        image = _on_white(image)
    image = _in_quality(_turned(image, request.rotation, has_alpha=image_format != "JPEG"), request.output.quality)
    if image_format == "GIF" and "A" in image.getbands():
        image = _clear_or_opaque(image)
    options = DrawOptions.of(dict(request.output.options))
    return output.encode(image, picture, options, image_format, _PARAMETERS.get(image_format, {}))


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode != "RGBA":
        return image
    canvas = PIL.Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def _clear_or_opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    """With a palette, of which the last colour is clear: GIF has nothing between. Pillow would let those that are
    half clear share a colour with those that are clear, or write none of LA as clear.
    """
    clear = image.getchannel("A").point(lambda alpha: 255 * (alpha <= _HALF))
    opaque = image.convert("RGB")
    opaque.paste(0, mask=clear)
    with_palette = opaque.quantize(_MOST_COLOURS - 1)
    colours = with_palette.getpalette() or []
    with_palette.putpalette([*colours, 0, 0, 0])
    with_palette.paste(len(colours) // 3, mask=clear)
    with_palette.info["transparency"] = len(colours) // 3
    return with_palette


def _turned(image: PIL.Image.Image, rotation: Rotation, *, has_alpha: bool) -> PIL.Image.Image:
    if rotation.is_mirrored:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    if rotation.is_right_angle:
        # Right angles move pixels and compute none.
        return image.rotate(-int(rotation.degrees), expand=True)
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    if has_alpha:
        image = image.convert(_WITH_ALPHA.get(image.mode, image.mode))
    fill = 0 if has_alpha else _WHITE
    return image.rotate(
        -float(rotation.degrees),
        PIL.Image.Resampling.BICUBIC,
        expand=True,
        fillcolor=fill if image.mode == "L" else (fill,) * len(image.getbands()),
    )


def _in_quality(image: PIL.Image.Image, quality: str) -> PIL.Image.Image:
    if quality in ("default", "color"):
        return image
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    image = image.convert("L")
    if quality == "bitonal":
        # By a threshold: a pattern of dots would not fit together where two tiles meet.
        image = image.point(lambda grey: 255 * (grey > _HALF), "L" if alpha else "1")
    return image if alpha is None else PIL.Image.merge("LA", (image, alpha))
