"""What info.json says of a picture: its size, the levels and tiles that are cheap, and what may be asked for. Pure.

https://iiif.io/api/image/3.0/#5-image-information and https://iiif.io/api/image/2.1/#image-information.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from md5s3stash_thumbnailer.iiif.request import Offer, Version
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.grid import TILE, level_size, scale_factors
from md5s3stash_thumbnailer.render.region_request import QUALITIES

JSON, JSON_LD = "application/json", "application/ld+json"
CONTEXT_2, CONTEXT_3 = (f"http://iiif.io/api/image/{version}/context.json" for version in (2, 3))

_PROTOCOL = "http://iiif.io/api/image"
_FORMATS_OF_LEVEL_2 = ("jpg", "png")
_FEATURES = ["canonicalLinkHeader", "mirroring", "profileLinkHeader", "rotationArbitrary"]
# Raise this when info.json comes to say something else of the same picture.
_REVISION = 1


def profile_url(version: Version) -> str:
    """The compliance level."""
    return f"http://iiif.io/api/image/{version}/level2.json"


def links(version: Version, chosen: str) -> str:
    """The header Link of the document in a media type. JSON of version 2.1 names its context there (section 5)."""
    profile = f'<{profile_url(version)}>;rel="profile"'
    if (version, chosen) != (2, JSON):
        return profile
    return f'{profile}, <{CONTEXT_2}>;rel="http://www.w3.org/ns/json-ld#context";type="{JSON_LD}"'


def information(version: Version, address: str, original: Size, offer: Offer, rights: str) -> dict[str, Any]:
    """The document. `address` is the public URL of the picture, without a slash at its end."""
    limits = {"maxWidth": offer.most[0], "maxHeight": offer.most[1], "maxArea": offer.most[0] * offer.most[1]}
    size = {"width": original[0], "height": original[1]}
    formats = [name for name in offer.formats if name not in _FORMATS_OF_LEVEL_2]
    qualities = list(QUALITIES[1:])
    if version == 3:
        return {
            "@context": CONTEXT_3,
            "id": address,
            "type": "ImageService3",
            "protocol": _PROTOCOL,
            "profile": "level2",
            **size,
            **limits,
            **_grid(original, offer.most),
            **({"rights": rights} if rights else {}),
            "extraQualities": qualities,
            "extraFormats": formats,
            "extraFeatures": [*_FEATURES, "sizeUpscaling"],
        }
    more = {"formats": formats, "qualities": qualities, "supports": [*_FEATURES, "regionSquare", "sizeAboveFull"]}
    return {
        "@context": CONTEXT_2,
        "@id": address,
        "protocol": _PROTOCOL,
        **size,
        **_grid(original, offer.most),
        "profile": [profile_url(2), {**more, **limits}],
        **({"license": rights} if rights else {}),
    }


def _grid(original: Size, most: Size) -> dict[str, Any]:
    """Levels and tiles, as far as the server's bounds allow to ask for them."""
    factors = scale_factors(original)
    levels = [level_size(original, factor) for factor in reversed(factors)]
    sizes = [{"width": width, "height": height} for width, height in levels if width <= most[0] and height <= most[1]]
    tiles = [{"width": TILE, "scaleFactors": factors}] if min(most) >= TILE else []
    return {**({"sizes": sizes} if sizes else {}), **({"tiles": tiles} if tiles else {})}


def media_type(version: Version, accept: str) -> str:
    """JSON-LD or JSON. In version 2.1 only clients that name JSON-LD get it, in 3.0 all that do not prefer JSON."""
    weights = _weights(accept)
    if version == 2:
        named = weights.get(JSON_LD, 0.0)
        return JSON_LD if named > 0 and named >= weights.get(JSON, 0.0) else JSON
    json_ld, plain = (_weight(weights, name) for name in (JSON_LD, JSON))
    return JSON_LD if json_ld >= plain else JSON


def content_type(version: Version, chosen: str) -> str:
    """The header of a chosen media type."""
    return f'{chosen};profile="{CONTEXT_3}"' if (version, chosen) == (3, JSON_LD) else chosen


def etag(version: Version, address: str, offer: Offer, rights: str, chosen: str) -> str:
    """The size of an original never changes. So all that the document depends on is known without it."""
    identity = repr((_REVISION, version, address, offer, rights, chosen))
    return f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'


def encoded(document: dict[str, Any]) -> bytes:
    """As UTF-8."""
    return json.dumps(document, indent=1).encode()


def _weights(accept: str) -> dict[str, float]:
    """Media ranges of an Accept header, and their weights (RFC 9110, 12.5.1)."""
    weights = {}
    for element in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in element.split(";"))
        values = [parameter[2:].strip() for parameter in parameters if parameter.startswith("q=")]
        weights[media_range] = _number(values[0]) if values else 1.0
    return weights


def _number(text: str) -> float:
    return float(text) if len(text) <= 5 and text.isascii() and text.replace(".", "", 1).isdigit() else 0.0


def _weight(weights: dict[str, float], media_type: str) -> float:
    return next((weights[name] for name in (media_type, "application/*", "*/*") if name in weights), 0.0)
