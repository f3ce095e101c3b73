"""Icons for what is not stashed yet: each shows what kind of file a URL seems to name. Drawn for this program."""

from __future__ import annotations

import mimetypes
from urllib.parse import urlsplit

MIME_TYPE = "image/svg+xml"

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 100 100">'
    '<rect width="100" height="100" fill="#f1f1f1"/>'
    '<g fill="none" stroke="#767676" stroke-width="3" stroke-linejoin="round" stroke-linecap="round">{shape}</g>'
    "</svg>\n"
)
_FRAME = '<rect x="22" y="28" width="56" height="44" rx="3"/>'
_SHEET = '<path d="M32 20h24l14 14v46H32zM56 20v14h14"/>'
_SHAPES = {
    "image": f'{_FRAME}<circle cx="37" cy="41" r="5"/><path d="m24 68 18-17 10 9 12-14 13 16"/>',
    "video": f'{_FRAME}<path d="m44 40 16 10-16 10z"/>',
    "audio": '<circle cx="38" cy="66" r="8"/><circle cx="66" cy="60" r="8"/><path d="M46 66V32l28-6v34"/>',
    "text": f'{_SHEET}<path d="M40 46h22M40 56h22M40 66h14"/>',
    "": _SHEET,
}

# The table of Python alone: the files of the machine would give other icons on each.
_TYPES = mimetypes.MimeTypes()


def icon(url: str, width: int, height: int) -> bytes:
    """An SVG of this size, where a side of 0 is as long as the other one; an empty sheet if the ending is unknown."""
    shape = _SHAPES[_kind(url)]
    return _ICON.format(width=width or height, height=height or width, shape=shape).encode()


def _kind(url: str) -> str:
    try:
        mime_type = _TYPES.guess_type(f"x:{urlsplit(url).path.lower()}")[0] or ""
    except ValueError:
        mime_type = ""
    if mime_type == "application/pdf":
        return "text"
    kind = mime_type.partition("/")[0]
    return kind if kind in _SHAPES else ""
