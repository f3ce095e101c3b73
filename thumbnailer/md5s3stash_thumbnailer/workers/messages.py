"""What the server and a render worker say to each other, as JSON: requests, and answers, which are checked.

A picture may have taken over the worker. So its answers name only errors and MIME types of these lists.
"""

from __future__ import annotations

import textwrap
import traceback
from fractions import Fraction
from typing import Any

from md5s3stash.sealed.channel import Message
from md5s3stash_thumbnailer._pilbox import ImageSaveError, PilboxError, RectangleError
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    NotShown,
    PartNotFound,
    PyramidDamaged,
    PyramidNeeded,
    PyramidNotWritten,
    ReducedDamaged,
    RenderFailed,
    RequestRefused,
    ThumbnailError,
    TooManyPixels,
)
from md5s3stash_thumbnailer.render import file_types, kinds
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, Request, Thumbnail
from md5s3stash_thumbnailer.render.region_request import (
    AskedRegion,
    AskedSize,
    Output,
    RegionRequest,
    Rotation,
    SizeRequest,
)
from md5s3stash_thumbnailer.request import ThumbnailRequest

_ERRORS: dict[str, type[ThumbnailError | PilboxError]] = {
    kind.__name__: kind
    for kind in (
        *(ImageSaveError, NotAnImage, NotShown, PartNotFound, PyramidDamaged, PyramidNeeded, PyramidNotWritten),
        *(RectangleError, ReducedDamaged, RenderFailed, TooManyPixels),
    )
}
# A size has no picture.
_MIME_TYPES = frozenset({"", *MIME_TYPES.values()})
_MAX_MESSAGE, _MAX_TRACEBACK = 1000, 20_000
_MAX_SIDE = 2**31
# Of two formats and the usual one.
_MOST_COSTS = 3


def written_request(request: Request | PyramidRequest) -> Message:
    """As JSON."""
    original = {"content": request.content, "part": request.part}
    if isinstance(request, ThumbnailRequest):
        sizes = {"mode": request.mode, "width": request.width, "height": request.height}
        return {"kind": "thumbnail", **original, **sizes, "options": request.options, "formats": request.formats}
    if isinstance(request, RegionRequest):
        return {"kind": "region", **original, **_written_region(request)}
    if isinstance(request, PyramidRequest):
        return {"kind": "pyramid", **original, "max_bytes": request.max_bytes}
    return {"kind": "size", **original}


def read_request(message: Message) -> Request | PyramidRequest:
    """What the server has written."""
    kind, content, part = message["kind"], message["content"], message["part"]
    if kind == "thumbnail":
        sizes = message["width"], message["height"]
        formats = tuple(message["formats"])
        return ThumbnailRequest(message["mode"], *sizes, content, _pairs(message["options"]), part, formats)
    if kind == "region":
        return RegionRequest(
            content,
            AskedRegion(message["region"], _fractions(message["region_numbers"])),
            AskedSize(message["size"], _fractions(message["size_numbers"]), *message["enlarges"]),
            Rotation(message["is_mirrored"], Fraction(message["degrees"])),
            Output(message["quality"], message["format"], _pairs(message["options"])),
            (message["most"][0], message["most"][1]),
            part,
        )
    return PyramidRequest(content, message["max_bytes"], part) if kind == "pyramid" else SizeRequest(content, part)


def written_thumbnail(thumbnail: Thumbnail, reduced_bytes: int) -> Message:
    """As JSON, without its body."""
    return {
        "mime_type": thumbnail.mime_type,
        "is_truncated": thumbnail.is_truncated,
        "original_size": thumbnail.original_size,
        "original_kind": thumbnail.kind,
        "icon": thumbnail.icon,
        "encoder_costs": thumbnail.encoder_costs,
        "saved_bytes": thumbnail.saved_bytes,
        "reduced_bytes": reduced_bytes,
    }


def read_thumbnail(message: Message, body: bytes) -> tuple[Thumbnail, int]:
    """The thumbnail, and the bytes of the reduced copy that the worker has. Raises ValueError."""
    width, height = message["original_size"]
    sizes = _number(width, _MAX_SIDE), _number(height, _MAX_SIDE)
    mime_type, is_truncated, kind = message["mime_type"], message["is_truncated"], message["original_kind"]
    if mime_type not in _MIME_TYPES or not isinstance(is_truncated, bool) or (kind and kind not in kinds.every()):
        raise ValueError("not a thumbnail")
    icon = message["icon"]
    if icon and not file_types.NAME.fullmatch(icon):
        raise ValueError("not the name of a type")
    thumbnail = Thumbnail(
        *(mime_type, body, is_truncated, sizes, kind),
        icon=icon,
        encoder_costs=_costs(message["encoder_costs"]),
        saved_bytes=_number(message["saved_bytes"], _MAX_SIDE),
    )
    return thumbnail, _number(message["reduced_bytes"], _MAX_SIDE)


def written_error(error: Exception) -> Message:
    """As JSON. What a worker may not answer with is an error of this program."""
    if isinstance(error, RequestRefused):
        return {"error": "RequestRefused", "message": str(error)[:_MAX_MESSAGE], "code": error.code}
    name = type(error).__name__
    if isinstance(error, RenderFailed) or name not in _ERRORS:
        text = error.traceback if isinstance(error, RenderFailed) else "".join(traceback.format_exception(error))
        return {"error": "RenderFailed", "message": text[-_MAX_TRACEBACK:]}
    # tornado keeps the message as a format.
    text = (error.log_message or "") % error.args if isinstance(error, PilboxError) else str(error)
    return {"error": name, "message": text[:_MAX_MESSAGE]}


def read_error(message: Message) -> ThumbnailError | PilboxError:
    """What a worker has answered. Raises ValueError."""
    name, text = message["error"], message["message"]
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError("not an error")
    if name == "RequestRefused":
        return RequestRefused(_printable(text[:_MAX_MESSAGE]), _number(message["code"], 1000))
    if name == "RenderFailed":
        # Indented, a line of it does not look like a line of the log.
        return RenderFailed(textwrap.indent(_printable(text[-_MAX_TRACEBACK:]), "  ", lambda line: True))
    if name not in _ERRORS:
        raise ValueError("not an error of a worker")
    return _ERRORS[name](_printable(text[:_MAX_MESSAGE]))


def _written_region(request: RegionRequest) -> dict[str, Any]:
    return {
        "region": request.region.kind,
        "region_numbers": [str(number) for number in request.region.numbers],
        "size": request.size.kind,
        "size_numbers": [str(number) for number in request.size.numbers],
        "enlarges": [request.size.enlarges, request.size.is_never_larger],
        "is_mirrored": request.rotation.is_mirrored,
        "degrees": str(request.rotation.degrees),
        "quality": request.output.quality,
        "format": request.output.format,
        "options": request.output.options,
        "most": request.most,
    }


def _pairs(pairs: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in pairs)


def _fractions(numbers: list[str]) -> tuple[Fraction, ...]:
    return tuple(Fraction(number) for number in numbers)


def _number(value: object, most: int) -> int:
    # True is an int too.
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number in its bounds")
    return value


def _costs(costs: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(costs, list) or len(costs) > _MOST_COSTS:
        raise ValueError("not a few costs")
    return tuple((_format(name), _number(cost, _MAX_SIDE)) for name, cost in costs)


def _format(name: object) -> str:
    if not isinstance(name, str) or name not in MIME_TYPES:
        raise ValueError("not a format")
    return name


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)
