"""The samples are the output of the script, and small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pi_heif
import pytest
from PIL import Image, ImageChops, ImageStat

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
COMMITTED = sorted(path.name for path in SAMPLES.iterdir() if path.is_file() and path.suffix not in ("", ".py", ".md"))
_PICTURES = [name for name in COMMITTED if name.endswith((".jpg", ".png", ".tif", ".webp"))]
# Another release of the encoder or decoder may round colours differently; a changed drawing differs much more.
_JPEG_TOLERANCE = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("samples")
    subprocess.run([sys.executable, SAMPLES / "make_samples.py", directory], check=True, timeout=60)
    return directory


def test_script_makes_the_files_that_are_committed_and_no_others(made: Path) -> None:
    # Those two are made by make_clips, with ffmpeg.
    clips = {"chord.mp3", "flight.mp4"}
    assert sorted(path.name for path in made.iterdir()) == [name for name in COMMITTED if name not in clips]


@pytest.mark.parametrize("name", _PICTURES)
def test_committed_picture_has_the_pixels_that_the_script_draws(name: str, made: Path) -> None:
    with Image.open(SAMPLES / name) as committed, Image.open(made / name) as again:
        assert (committed.size, committed.mode, committed.format) == (again.size, again.mode, again.format)
        assert committed.getexif() == again.getexif()
        extrema = ImageChops.difference(committed.convert("RGBA"), again.convert("RGBA")).getextrema()

    largest = max(high for _, high in extrema)  # type: ignore[misc]  # one pair a band, for an image of several
    assert largest <= (_JPEG_TOLERANCE if name.endswith(".jpg") else 0)


@pytest.mark.parametrize("name", ["emblem.svg", "leaflet.pdf", "notes.txt"])
def test_committed_file_has_the_bytes_that_the_script_writes(name: str, made: Path) -> None:
    assert (SAMPLES / name).read_bytes() == (made / name).read_bytes()


def test_committed_phone_picture_is_the_one_that_the_script_draws(made: Path) -> None:
    first, again = (pi_heif.open_heif(directory / "phone.heic").to_pillow() for directory in (SAMPLES, made))

    # Each release of the encoder chooses differently what to leave out.
    assert first.size == again.size
    assert max(ImageStat.Stat(ImageChops.difference(first, again)).mean) < 3


def test_portrait_lies_in_the_file_and_its_tag_turns_it_upright() -> None:
    with Image.open(SAMPLES / "portrait.jpg") as picture:
        assert picture.width > picture.height
        assert picture.getexif()[0x0112] == 6


def test_samples_are_small_and_their_readme_names_each() -> None:
    readme = (SAMPLES / "README.md").read_text()

    assert sum((SAMPLES / name).stat().st_size for name in COMMITTED) < 400_000
    assert [name for name in COMMITTED if f"| {name} |" not in readme] == []
    assert "CC0" in readme
