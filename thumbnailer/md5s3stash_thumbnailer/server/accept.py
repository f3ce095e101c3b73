"""Which formats an answer may have, by the header Accept (RFC 9110, 12.5.1). Pure.

Any header becomes one of a few answers, so that no header makes a cache keep one more picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from md5s3stash_thumbnailer.request import USUAL

# Browsers send 150. A longer one is not worth the time of the event loop.
_MOST_CHARACTERS = 1000
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
# Java's own client sends `q=.2`.
_WEIGHT = re.compile(r"q\s*=\s*([0-9]+\.?[0-9]*|\.[0-9]+)")
_ANY, _ANY_PICTURE = "*/*", "image/*"
# What every browser shows, and most thumbnails are.
_USUAL_TYPES = ("image/jpeg", "image/png")


def accepted_formats(accept: str, offered: Sequence[str]) -> tuple[str, ...]:
    """Of these formats those that the client wants most, and USUAL if what is sent without negotiation may be sent too.

    Empty if none is left: the usual answer. A format counts only if the header names it: `image/*` and `*/*` also
    come from clients that were written before it. It must weigh at least as much as JPEG and PNG.
    """
    if len(accept) > _MOST_CHARACTERS:
        return ()
    weights = dict(_weights(accept.lower()))
    usual = max(_weight(weights, name) for name in _USUAL_TYPES)
    named = {name: weight for name in offered if (weight := weights.get(f"image/{name}", 0)) > 0}
    most = max(named.values(), default=0)
    if most < usual:
        return ()
    formats = tuple(name for name, weight in named.items() if weight == most)
    return (*formats, USUAL) if formats and usual else formats


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """The media ranges and their weights. Of two for one range the last counts, and a wrong one is 0."""
    for element in _QUOTED.sub('""', accept).split(","):
        media_range, *parameters = (part.strip() for part in element.split(";"))
        given = [parameter for parameter in parameters if parameter.partition("=")[0].strip() == "q"]
        found = _WEIGHT.fullmatch(given[-1]) if given else None
        yield media_range, min(1.0, float(found[1])) if found else 0.0 if given else 1.0


def _weight(weights: dict[str, float], media_type: str) -> float:
    """By the most precise range."""
    return next((weights[name] for name in (media_type, _ANY_PICTURE, _ANY) if name in weights), 0.0)
