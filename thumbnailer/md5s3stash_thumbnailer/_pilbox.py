"""The only importer of pilbox. Adds the names that Pillow has dropped, and the types that pilbox does not declare.

pilbox 1.3.4 pins tornado 5.1.0 and Pillow 5.2.0; see docs/decisions/0002-pilbox-without-its-pins.md.
"""

from __future__ import annotations

import hmac
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

import PIL.Image
import tornado.web

PILBOX = "pilbox==1.3.4"
"""The release that the tests ran with. Without --no-deps pip would look for the Pillow and tornado of 2018."""

if not hasattr(PIL.Image, "ANTIALIAS"):
    # Pillow 10 dropped the name, which pilbox needs at import. It always was the Lanczos filter.
    PIL.Image.ANTIALIAS = PIL.Image.Resampling.LANCZOS  # type: ignore[attr-defined]

if TYPE_CHECKING:
    # The part of pilbox that we use.
    class PilboxError(tornado.web.HTTPError):
        def __init__(self, log_message: str) -> None: ...
        @staticmethod
        def get_code() -> int: ...

    class PilboxApplication(tornado.web.Application):
        def __init__(self, **settings: Any) -> None: ...
        def get_handlers(self) -> list[Any]: ...

    class ImageHandler(tornado.web.RequestHandler):
        OPERATIONS: list[str]

        def validate_request(self) -> None: ...

    class RectangleError(PilboxError): ...

    class SignatureError(PilboxError): ...

    class ImageSaveError(PilboxError): ...

    class Image:
        @staticmethod
        def validate_options(options: dict[str, str]) -> None: ...
        @staticmethod
        def _normalize_options(options: Mapping[str, str]) -> dict[str, Any]: ...

    def color_hex_to_dec_tuple(color: str) -> tuple[int, ...]: ...

    def derive_signature(key: str, qs: str) -> str: ...

    version: str
else:
    try:
        from pilbox import version
        from pilbox.app import ImageHandler, PilboxApplication
        from pilbox.errors import ImageSaveError, PilboxError, RectangleError, SignatureError
        from pilbox.image import Image, color_hex_to_dec_tuple
        from pilbox.signature import derive_signature
    except ModuleNotFoundError as error:
        if error.name != "pilbox":
            raise
        # Only the server imports this module, and it cannot run without pilbox.
        print(
            f"md5s3stash-thumbnailer: pilbox is not installed, install it with: pip install --no-deps {PILBOX}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None

RENDERER = f"pilbox {version}, Pillow {PIL.__version__}"
"""The renderer, for the ETag: another version of either may give other bytes."""

__all__ = [
    "PILBOX",
    "RENDERER",
    "DrawOptions",
    "Image",
    "ImageHandler",
    "ImageSaveError",
    "PilboxApplication",
    "PilboxError",
    "RectangleError",
    "SignatureError",
    "require_signature",
]


def require_signature(key: str, query: str) -> None:
    """pilbox's check of `sig`, which covers only the query, but with a comparison in constant time.

    Raises SignatureError.
    """
    expected = derive_signature(key, re.sub(r"&?sig=[^&]*", "", query))
    given = parse_qs(query).get("sig", [""])[0]
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode()):
        raise SignatureError("Invalid signature")


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """pilbox's drawing options, with pilbox's defaults and parsing."""

    resampling: PIL.Image.Resampling
    position: tuple[float, float] | None
    """How much of what a crop cuts off is at the left and the top, as fractions; None: look for faces."""
    background: tuple[int, int, int, int]
    """Red, green, blue, alpha."""
    retain_percent: float
    format: str | None
    """Pillow's name; None: the original's."""
    quality: int | None
    """None: the original's, pilbox's `keep`."""
    optimize: bool
    progressive: bool
    preserve_exif: bool
    expand: bool

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """Parses options that have passed `Image.validate_options`."""
        values = Image._normalize_options(options)
        colour = color_hex_to_dec_tuple(values["background"])
        return cls(
            resampling=PIL.Image.Resampling(values["pil"]["filter"]),
            position=values["pil"]["position"],
            background=(colour[0], colour[1], colour[2], colour[3] if len(colour) == 4 else 255),
            retain_percent=float(values["retain"]),
            format=values["pil"]["format"],
            quality=None if values["quality"] == "keep" else int(values["quality"]),
            optimize=bool(int(values["optimize"])),
            progressive=bool(int(values["progressive"])),
            preserve_exif=bool(int(values["preserve_exif"])),
            expand=bool(int(values["expand"])),
        )
