"""A IIIF Presentation 3.0 manifest of one picture, with which Mirador and other readers open it. Pure.

https://iiif.io/api/presentation/3.0/: a manifest has canvases, a canvas has pages of annotations, and the annotation
that paints it has the picture as its body.
"""

from __future__ import annotations

from typing import Any

from md5s3stash_thumbnailer.render.geometry import Size

MEDIA_TYPE = 'application/ld+json;profile="http://iiif.io/api/presentation/3/context.json"'
THUMBNAIL_SIDE = 400


def manifest(service: str, md5: str, original: Size, largest: Size, rights: str = "") -> dict[str, Any]:
    """`service` is the picture's address in the Image API 3.0, below which the manifest has its own and its parts;
    `largest` is what it gives as `max`.
    """
    width, height = original
    small = _thumbnail_size(largest)
    canvas = f"{service}/canvas"
    return {
        "@context": "http://iiif.io/api/presentation/3/context.json",
        "id": f"{service}/manifest.json",
        "type": "Manifest",
        # The stash knows contents, and not what they are called.
        "label": {"none": [md5]},
        **({"rights": rights} if rights else {}),
        "thumbnail": [_picture(service, small, f"{small[0]},{small[1]}")],
        "items": [
            {
                "id": canvas,
                "type": "Canvas",
                "label": {"none": [md5]},
                "width": width,
                "height": height,
                "items": [
                    {
                        "id": f"{canvas}/page",
                        "type": "AnnotationPage",
                        "items": [
                            {
                                "id": f"{canvas}/page/painting",
                                "type": "Annotation",
                                "motivation": "painting",
                                "body": _picture(service, largest, "max"),
                                "target": canvas,
                            }
                        ],
                    }
                ],
            }
        ],
    }


def _picture(service: str, size: Size, asked_size: str) -> dict[str, Any]:
    return {
        "id": f"{service}/full/{asked_size}/0/default.jpg",
        "type": "Image",
        "format": "image/jpeg",
        "width": size[0],
        "height": size[1],
        "service": [{"id": service, "type": "ImageService3", "profile": "level2"}],
    }


def _thumbnail_size(size: Size) -> Size:
    factor = min(1.0, THUMBNAIL_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
