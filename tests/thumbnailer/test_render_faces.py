"""`position=face` places a crop around the faces, or in the middle without faces."""

from __future__ import annotations

import io
import sys
from importlib import metadata
from pathlib import Path

import PIL.Image
import pytest

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.render import faces
from md5s3stash_thumbnailer.render.geometry import CENTRE
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import corpus
from tests.thumbnailer.ssim import ssim

FACE = PIL.Image.open(Path(__file__).parent / "pictures" / "astronaut.jpg")
# It closes the file.
FACE.load()
SIDE = FACE.width
# Fractions of its sides.
FACE_MIDDLE = (0.55, 0.375)
# The classifier's position of a face may be slightly off.
OFF_PX = range(-14, 15)


def scene(*lefts: int, width: int = 3 * SIDE) -> PIL.Image.Image:
    """A wide picture with a face at each of these distances from its left edge."""
    picture = PIL.Image.new("RGB", (width, SIDE), "grey")
    for left in lefts:
        picture.paste(FACE, (left, 0))
    return picture


def cropped(data: bytes, width: int, height: int, **options: str) -> PIL.Image.Image:
    request = ThumbnailRequest(options.pop("mode", "crop"), width, height, "0" * 32, tuple(sorted(options.items())))
    return PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, RenderLimits()).body))


def assert_placed_by_face(picture: PIL.Image.Image, left: int, width: int) -> None:
    """Asserts that the crop of `scene(left)` splits the removed width in the ratio of the face's centre."""
    start = (width - SIDE) * (left + FACE_MIDDLE[0] * SIDE) / width
    whole = scene(left, width=width)
    cuts = [whole.crop((round(start + off), 0, round(start + off) + SIDE, SIDE)) for off in OFF_PX]
    assert max(ssim(picture, cut.resize(picture.size)) for cut in cuts) > 0.8


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("left", [0, SIDE // 2, 2 * SIDE])
def test_crop_is_placed_by_the_face(image_format: str, left: int) -> None:
    data = corpus.encoded(scene(left), image_format)
    assert_placed_by_face(cropped(data, SIDE, SIDE, position="face"), left, 3 * SIDE)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_face_is_looked_for_in_the_upright_picture(orientation: int) -> None:
    data = corpus.held(orientation, scene=scene(2 * SIDE))
    assert_placed_by_face(cropped(data, SIDE, SIDE, position="face"), 2 * SIDE, 3 * SIDE)


def test_face_is_found_for_a_thumbnail_that_is_too_small_to_show_it() -> None:
    large = scene(2 * SIDE).resize((12 * SIDE, 4 * SIDE))
    thumbnail = cropped(corpus.encoded(large, "JPEG"), 30, 30, position="face", format="png")
    assert_placed_by_face(thumbnail, 2 * SIDE, 3 * SIDE)


def test_adapt_that_crops_looks_for_faces_too() -> None:
    options = {"mode": "adapt", "retain": "0", "position": "face"}
    assert_placed_by_face(cropped(corpus.encoded(scene(0), "PNG"), SIDE, SIDE, **options), 0, 3 * SIDE)


def test_several_faces_are_placed_by_their_common_middle() -> None:
    across, down = faces.position_of_faces(scene(0, SIDE, width=2 * SIDE))
    assert across == pytest.approx((0.5 + FACE_MIDDLE[0]) / 2, abs=0.03)
    assert down == pytest.approx(FACE_MIDDLE[1], abs=0.05)


@pytest.mark.parametrize(
    "kind", ["baseline JPEG", "PNG with alpha", "grey PNG", "16-bit grey TIFF", "CMYK JPEG of Adobe"]
)
def test_picture_without_a_face_is_cropped_in_the_middle(kind: str) -> None:
    data = corpus.samples()[kind].data
    one, other = (cropped(data, 40, 90, position=position) for position in ("face", "center"))
    assert ssim(one.convert("RGB"), other.convert("RGB")) > 0.98


def test_middle_of_faces_is_the_mean_of_their_middles() -> None:
    assert faces.centroid([], (100, 100)) == CENTRE
    assert faces.centroid([(0, 0, 20, 40), (60, 20, 20, 40)], (100, 200)) == (0.4, 0.15)


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(faces, "_classifier", faces._classifier.__wrapped__)


@pytest.mark.usefixtures("without_opencv")
def test_missing_opencv_is_told_at_the_start_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"position=face needs OpenCV 4.*pip install") as raised:
        faces.require_detector()
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("without_opencv")
def test_missing_opencv_crops_in_the_middle_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert faces.position_of_faces(scene(0)) == CENTRE
    assert faces.missing() == {"faces": "the package opencv-python-headless is not installed"}
    assert "event=faces_off" in caplog.text


def test_opencv_of_another_release_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lacks the classifier, so a crop would be kept for ever that is centred for this reason alone."""
    monkeypatch.setattr(metadata, "version", lambda package: "5.0.0.93")
    assert faces.missing() == {"faces": "OpenCV 5.0.0.93 is installed, and release 4 is needed"}


def test_opencv_that_is_there_is_enough() -> None:
    faces.require_detector()
    assert faces.missing() == {}
