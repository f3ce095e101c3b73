"""Icons for what is not stashed yet: each shows what kind of file a URL seems to name. Drawn for this program, as the
icons of types are (`render/icons.py`).
"""

from __future__ import annotations

import mimetypes
from urllib.parse import urlsplit

from md5s3stash_thumbnailer.render.icons import BACKGROUND, FOLD, INK, SHEET, SIDE, STROKE

MIME_TYPE = "image/svg+xml"

_ICON = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{{width}}" height="{{height}}" viewBox="0 0 {SIDE} {SIDE}">'
    f'<rect width="{SIDE}" height="{SIDE}" fill="#{3 * f"{BACKGROUND:02x}"}"/>'
    f'<g fill="none" stroke="#{3 * f"{INK:02x}"}" stroke-width="{STROKE}" stroke-linejoin="round" '
    'stroke-linecap="round">{shape}</g></svg>\n'
)
_FRAME = '<rect x="22" y="28" width="56" height="44" rx="3"/>'
_SHEET = "".join(
    f'<{tag} points="{" ".join(f"{across},{down}" for across, down in points)}"/>'
    for tag, points in (("polygon", SHEET), ("polyline", FOLD))
)
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
