"""`position=face`: places a crop so that it holds the faces.

Uses OpenCV, as pilbox does; docs/decisions/0007-faces-with-opencv-4.md has the reasons for classifier and numbers.
OpenCV is imported at the first use, or before a worker is sealed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

import PIL.Image

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.geometry import CENTRE, Point, Size

if TYPE_CHECKING:
    import cv2

PREVIEW_PX = 640
"""The long side of the picture that is searched: enough for a face that fills a tenth of it."""

_CLASSIFIER = "haarcascade_frontalface_alt2.xml"
_PACKAGE = "opencv-python-headless"
_SCALE_FACTOR, _MIN_NEIGHBOURS, _MIN_FACE_PX = 1.2, 4, 20

Rectangle = Sequence[int]

log = logging.getLogger(__name__)


def missing() -> dict[str, str]:
    """What is not installed, under the name `faces`; it is logged as well. Imports nothing."""
    reason = kinds.missing_package("cv2", _PACKAGE) or _wrong_release()
    if not reason:
        return {}
    log.warning("event=faces_off reason='%s'", reason)
    return {"faces": reason}


def _wrong_release() -> str:
    """Empty as well if another package brings OpenCV."""
    with suppress(metadata.PackageNotFoundError):
        if not (release := metadata.version(_PACKAGE)).startswith("4."):
            return f"OpenCV {release} is installed, and release 4 is needed"
    return ""


def require_detector() -> None:
    """Raises SettingsError if OpenCV cannot be used. Called at the start of a server whose default is `face`."""
    try:
        _classifier()
    except ImportError as error:
        raise SettingsError(
            f"position=face needs OpenCV 4, which cannot be used here ({error}); "
            "install it with: pip install 'md5s3stash[thumbnailer]', or use the image md5s3stash-thumbnailer-faces"
        ) from error


def prepare() -> None:
    """Imports OpenCV, if it is installed."""
    with suppress(ImportError):
        _classifier()


def position_of_faces(preview: PIL.Image.Image) -> Point:
    """The middle of all faces as fractions of width and height; the centre if there are no faces, or no OpenCV."""
    try:
        return centroid(_find_faces(preview), preview.size)
    except ImportError:
        return CENTRE


def centroid(faces: Sequence[Rectangle], size: Size) -> Point:
    """The mean of the centres of rectangles (left, top, width, height), as fractions of the size."""
    if not len(faces):
        return CENTRE
    across = sum(left + width / 2 for left, _, width, _ in faces) / (len(faces) * size[0])
    down = sum(top + height / 2 for _, top, _, height in faces) / (len(faces) * size[1])
    return across, down


def _find_faces(preview: PIL.Image.Image) -> Sequence[Rectangle]:
    classifier = _classifier()
    import cv2
    import numpy

    grey = cv2.equalizeHist(numpy.asarray(preview.convert("L")))
    found = classifier.detectMultiScale(
        grey, scaleFactor=_SCALE_FACTOR, minNeighbors=_MIN_NEIGHBOURS, minSize=(_MIN_FACE_PX, _MIN_FACE_PX)
    )
    return [tuple(int(number) for number in face) for face in found]


@cache
def _classifier() -> cv2.CascadeClassifier:
    """Raises ImportError without OpenCV 4: release 5 has dropped this classifier."""
    import cv2
    import cv2.data

    if not hasattr(cv2, "CascadeClassifier"):
        raise ImportError(f"OpenCV {cv2.__version__} is installed")
    # There is one worker per core.
    cv2.setNumThreads(1)
    classifier = cv2.CascadeClassifier(os.path.join(cv2.data.haarcascades, _CLASSIFIER))
    if classifier.empty():
        raise ImportError(f"OpenCV {cv2.__version__} lacks {_CLASSIFIER}")
    return classifier
