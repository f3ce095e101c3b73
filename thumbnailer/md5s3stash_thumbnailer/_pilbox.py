"""The only importer of pilbox: the names that current Pillow dropped, and the types that pilbox does not declare.

pilbox 1.3.4 pins tornado 5.1.0 and Pillow 5.2.0; see docs/decisions/0002-pilbox-without-its-pins.md.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import PIL.Image
import tornado.web

if not hasattr(PIL.Image, "ANTIALIAS"):
    # Pillow 10 dropped the name; pilbox asks for it while it is imported. It always was the Lanczos filter.
    PIL.Image.ANTIALIAS = PIL.Image.Resampling.LANCZOS  # type: ignore[attr-defined]

if TYPE_CHECKING:
    # The part of pilbox that we stand on, as far as we use it.
    class PilboxError(tornado.web.HTTPError):
        @staticmethod
        def get_code() -> int: ...

    class ImageFormatError(PilboxError): ...

    class PilboxApplication(tornado.web.Application):
        def __init__(self, **settings: Any) -> None: ...
        def get_handlers(self) -> list[Any]: ...

    class ImageHandler(tornado.web.RequestHandler):
        def validate_request(self) -> None: ...

    class Image:
        img: PIL.Image.Image

        def __init__(self, stream: BinaryIO) -> None: ...
        def region(self, rect: list[str]) -> Image: ...
        def resize(self, width: int, height: int, **options: str | None) -> Image: ...
        def rotate(self, deg: str, **options: str | None) -> Image: ...
        def save(self, **options: str | None) -> io.BytesIO: ...
        @staticmethod
        def validate_options(options: dict[str, str]) -> None: ...

    version: str
else:
    try:
        from pilbox import version
        from pilbox.app import ImageHandler, PilboxApplication
        from pilbox.errors import ImageFormatError, PilboxError
        from pilbox.image import Image
    except ModuleNotFoundError as error:
        if error.name != "pilbox":
            raise
        # This module is imported by the server alone, and there is nothing that the server could do without pilbox.
        print(
            "md5s3stash-thumbnailer: pilbox is not installed, install it with: "
            "pip install --no-deps -r requirements/pilbox.txt",
            file=sys.stderr,
        )
        raise SystemExit(2) from None

MIME_TYPES = {
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
"""The MIME type of each format that pilbox reads and writes, by Pillow's name of it."""

RENDERER = f"pilbox {version}, Pillow {PIL.__version__}"
"""What draws, for the ETag: another version of either may give other bytes."""

__all__ = [
    "MIME_TYPES",
    "RENDERER",
    "Image",
    "ImageFormatError",
    "ImageHandler",
    "PilboxApplication",
    "PilboxError",
]
