"""Runs the validator of the IIIF consortium at level 2 against a running server.

Its picture is a board of a hundred colours, defined in its code. It chooses positions and sizes at random; here each
test uses the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
from iiif_validator.validator import ImageAPI, ValidationInfo
from iiif_validator.validator import TestSuite as Suite

from tests.thumbnailer.conftest import Thumbnailer
from tests.thumbnailer.corpus import encoded

Put = Callable[[bytes], str]

LEVEL = 2
_SQUARE_PX, _SQUARES = 100, 10
# Features of higher levels that the validator tests and we support. Its tests of WebP, JPEG 2000 and PDF call a
# function that Python 3 lacks, and that of upscaling expects for `^max` that the server allows at most 1000 pixels.
ABOVE_LEVEL_2 = {
    "format_gif",
    "format_tif",
    "linkheader_canonical",
    "linkheader_profile",
    "rot_full_non90",
    "rot_mirror",
    "rot_mirror_180",
    "rot_region_non90",
}
BY_VERSION = {"2.0": {*ABOVE_LEVEL_2, "size_up"}, "3.0": ABOVE_LEVEL_2}


def board() -> bytes:
    """The validator's picture."""
    picture = PIL.Image.new("RGB", (_SQUARE_PX * _SQUARES, _SQUARE_PX * _SQUARES))
    for x, column in enumerate(ValidationInfo().colorInfo):
        for y, colour in enumerate(column):
            left, top = x * _SQUARE_PX, y * _SQUARE_PX
            picture.paste(colour, (left, top, left + _SQUARE_PX, top + _SQUARE_PX))
    return encoded(picture, "PNG")


def names_of(version: str) -> list[str]:
    listed: dict[str, dict[str, Any]] = Suite(ValidationInfo()).list_tests(version)
    return sorted(name for name, test in listed.items() if test["level"] <= LEVEL or name in BY_VERSION[version])


CASES = [(version, name) for version in BY_VERSION for name in names_of(version)]


@pytest.mark.parametrize(("version", "name"), CASES)
def test_validator_of_the_consortium_passes(server: Thumbnailer, put: Put, version: str, name: str) -> None:
    result = ImageAPI(
        put(board()), f"127.0.0.1:{server.port}", f"iiif/{version[0]}", "http", version=version, debug=False
    )
    random.seed(f"{version} {name}")

    Suite(ValidationInfo()).run_test(name, result)

    assert str(result.exception or "") == "", result.urls


def test_all_names_of_level_2_are_among_them() -> None:
    assert {version: len([case for case in CASES if case[0] == version]) for version in BY_VERSION} == {
        "2.0": 39,
        "3.0": 41,
    }
