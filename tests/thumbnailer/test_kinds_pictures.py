"""The kinds beside pictures show what other programs show: Poppler, librsvg, libheif's own, and the test card."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from md5s3stash_thumbnailer.errors import NotAnImage, PartNotFound, TooManyPixels
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import corpus, kind_files
from tests.thumbnailer.ssim import ssim

LIMITS = RenderLimits(kinds=tuple(kinds.every()), reduced_side=1024)
OTHER_CORNERS = ((250, 250, 40), (20, 20, 20), (200, 40, 160), (40, 200, 200))


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    kinds.prepare(LIMITS.kinds)


def drawn(
    data: bytes, px: int = 300, mode: str = "clip", part: str = "", limits: RenderLimits = LIMITS
) -> PIL.Image.Image:
    options = (("format", "png"),)
    answer = render(io.BytesIO(data), ThumbnailRequest(mode, px, px, "0" * 32, options, part), limits)
    return PIL.Image.open(io.BytesIO(answer.body))


def assert_corners(picture: PIL.Image.Image, expected: tuple[corpus.Colour, ...] = corpus.CORNERS) -> None:
    for found, colour in zip(corpus.corners_of(picture), expected, strict=True):
        assert found == pytest.approx(colour, abs=6)


def by_poppler(data: bytes, directory: Path, page: int) -> PIL.Image.Image:
    (directory / "a.pdf").write_bytes(data)
    pages = ["-f", str(page), "-l", str(page)]
    command = ["pdftoppm", "-r", "200", "-png", "-singlefile", *pages, "a.pdf", "out"]
    subprocess.run(command, cwd=directory, check=True)
    return PIL.Image.open(directory / "out.png").convert("RGB")


@pytest.mark.parametrize("px", [150, 900])
@pytest.mark.parametrize("page", [1, 2])
def test_a_page_looks_as_poppler_draws_it(page: int, px: int, tmp_path: Path) -> None:
    data = kind_files.pdf([corpus.CORNERS, OTHER_CORNERS])
    part = "" if page == 1 else f"page={page}"

    picture = drawn(data, px, part=part)

    assert_corners(picture, (corpus.CORNERS, OTHER_CORNERS)[page - 1])
    expected = by_poppler(data, tmp_path, page).resize(picture.size, PIL.Image.Resampling.LANCZOS)
    assert ssim(picture, expected) > 0.97


@pytest.mark.parametrize(("rotate", "size"), [(0, (1000, 667)), (90, (667, 1000)), (180, (1000, 667))])
def test_a_page_is_turned_as_it_says(rotate: int, size: tuple[int, int]) -> None:
    picture = drawn(kind_files.pdf(rotate=rotate), 1000)

    assert picture.size == size
    assert_corners(picture.rotate(rotate, expand=True))


def test_a_page_has_200_pixels_an_inch_and_not_too_many() -> None:
    assert drawn(kind_files.pdf(), 4000).size == (1000, 667)
    assert drawn(kind_files.pdf(size=(72 * 72, 72 * 36)), 9000).size == (6000, 3000)
    few = RenderLimits(max_original_pixels=10_000, kinds=LIMITS.kinds)
    assert drawn(kind_files.pdf(), 4000, limits=few).size == (122, 81)


def test_a_page_that_is_not_there_is_told_from_a_damaged_file() -> None:
    with pytest.raises(PartNotFound, match="no page 3: it has 1"):
        drawn(kind_files.pdf(), part="page=3")
    with pytest.raises(NotAnImage, match="encrypted"):
        drawn(kind_files.pdf(encrypted=True))
    with pytest.raises(NotAnImage, match="damaged"):
        drawn(b"%PDF-1.7\nand nothing else")


def test_a_page_among_many_is_drawn_alone() -> None:
    data = kind_files.pdf([OTHER_CORNERS] * 99 + [corpus.CORNERS])

    assert_corners(drawn(data, 100, part="page=100"))
    with pytest.raises(PartNotFound):
        drawn(data, part="page=101")


def test_a_file_of_many_objects_is_shown() -> None:
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[3 0 R]>>"]
    objects += [b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 60]>>"] + [b"<<>>"] * 100_000

    assert drawn(kind_files.pdf_of(objects), 60).size == (60, 40)


def by_librsvg(data: bytes, directory: Path, size: tuple[int, int]) -> PIL.Image.Image:
    (directory / "a.svg").write_bytes(data)
    width, height = (str(side) for side in size)
    command = ["rsvg-convert", "--width", width, "--height", height, "--output", "a.png", "a.svg"]
    subprocess.run(command, cwd=directory, check=True)
    return PIL.Image.open(directory / "a.png").convert("RGB")


@pytest.mark.parametrize("px", [64, 500])
def test_a_drawing_looks_as_librsvg_draws_it(px: int, tmp_path: Path) -> None:
    data = kind_files.svg()

    picture = drawn(data, px)

    # Not the next whole numbers, 25 and 17.
    assert picture.size == (px, round(px * 2 / 3))
    assert_corners(picture)
    # Its 1,500 pixels, reduced, for it draws small texts without a half pixel.
    expected = by_librsvg(data, tmp_path, (1500, 1000)).resize(picture.size, PIL.Image.Resampling.LANCZOS)
    assert ssim(picture, expected) > 0.97


def test_a_drawing_may_be_gzipped_and_begin_in_many_ways() -> None:
    doctype = '<!DOCTYPE svg [<!ENTITY ns "http://ns.example.org/">]>'
    plain = kind_files.svg(head=doctype)
    latin = plain.replace(b"UTF-8", b"ISO-8859-1").replace(b"A test", b"\xc4 test")

    for data in (plain, gzip.compress(plain), b"\xef\xbb\xbf" + plain, latin):
        assert_corners(drawn(data, 120))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_a_drawing_may_begin_with_much_and_be_in_utf_16(encoding: str) -> None:
    # As Illustrator writes it.
    declared = """<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" [
        <!-- don't look for ] here -->
        <!ENTITY ns_svg "http://www.w3.org/2000/svg">
        <!ENTITY ns_x "x[y]">
    ]>"""
    drawing = kind_files.svg().decode().partition("?>")[2] or kind_files.svg().decode()
    text = f"<?xml version='1.0' encoding='{encoding[:6]}'?><!-- {'licence ' * 1000} -->{declared}{drawing}"
    mark = "\ufeff" if encoding == "utf-16-be" else ""

    assert_corners(drawn((mark + text).encode(encoding)))


@pytest.mark.parametrize("junk", [b"junk\r\n" * 100, b"HTTP/1.1 200 OK\r\n\r\n", b"\xef\xbb\xbf\r\n"])
def test_a_pdf_may_have_junk_before_its_header(junk: bytes) -> None:
    assert_corners(drawn(junk + kind_files.pdf()))


def test_a_picture_or_a_drawing_that_mentions_pdf_is_not_a_pdf() -> None:
    comment = PIL.Image.new("RGB", (30, 20), "red")
    file = io.BytesIO()
    comment.save(file, "JPEG", comment=b"%PDF-1.4")
    for data in (file.getvalue(), b"<!-- %PDF-1.4 -->" + kind_files.svg()):
        assert not kinds.every()["pdf"].is_begun_by(data)


@pytest.mark.parametrize(
    "text", [b"<html><svg></svg></html>", b"<sv", b"\x1f\x8b\x08rest", b"<?xml version='1.0'?><s:svgg/>"]
)
def test_other_texts_are_not_drawings(text: bytes) -> None:
    with pytest.raises(NotAnImage, match="not an image of a kind that is shown"):
        drawn(text)


def test_a_drawing_shows_no_file_of_this_machine(tmp_path: Path) -> None:
    """It is drawn as if the picture that it names was not there; resvg alone would read it."""
    secret = tmp_path / "secret.png"
    PIL.Image.new("RGB", (30, 30), "red").save(secret)
    names = [str(secret), f"file://{secret}", f"../../../..{secret}", "http://127.0.0.1:1/secret.png"]
    for element in ("image", "feImage"):
        inner = "".join(f'<{element} width="24" height="16" href="{name}"/>' for name in names)
        if element == "feImage":
            inner = f'<filter id="f">{inner}</filter><rect width="24" height="16" filter="url(#f)"/>'
        assert drawn(kind_files.svg(inner=inner), 60).tobytes() == drawn(kind_files.svg(), 60).tobytes()


def test_a_drawing_is_transparent_where_nothing_is() -> None:
    data = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="5" height="10" fill="red"/></svg>'
    )
    request = ThumbnailRequest("clip", 100, 100, "0" * 32, (("background", "00000000"), ("format", "png")))

    picture = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, LIMITS).body))

    assert picture.getpixel((25, 50)) == (255, 0, 0, 255)
    assert picture.getchannel("A").getpixel((75, 50)) == 0


@pytest.fixture(scope="module")
def phone_picture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    directory = tmp_path_factory.mktemp("heic")
    return lambda picture, *options: kind_files.heic(picture, directory, *options)


def by_libheif(data: bytes, directory: Path) -> PIL.Image.Image:
    (directory / "a.heic").write_bytes(data)
    program = "heif-dec" if shutil.which("heif-dec") else "heif-convert"
    subprocess.run([program, "a.heic", "a.png"], cwd=directory, check=True, capture_output=True)
    return PIL.Image.open(directory / "a.png")


def test_a_phone_picture_looks_as_libheif_shows_it(phone_picture: Callable[..., bytes], tmp_path: Path) -> None:
    grey = corpus.card(corners=corpus.GREY_CORNERS).convert("L")
    # Sixteen bits of grey, of which ten are kept.
    deep = grey.convert("I").point(lambda level: level * 257).convert("I;16")
    for picture, options in (
        (corpus.card(), ()),
        (corpus.card((361, 241)), ()),
        (grey, ()),
        (deep, ("--bit-depth=10",)),
    ):
        data = phone_picture(picture, *options)

        shown = drawn(data, 400)

        expected = by_libheif(data, tmp_path)
        if expected.mode.startswith("I"):
            expected = expected.convert("I").point(lambda level: level / 257)
        assert shown.size == expected.size == picture.size
        assert ssim(shown, expected.convert("L").convert("RGB") if shown.mode == "L" else expected) > 0.97


def test_a_phone_picture_has_its_transparency_and_its_profile(phone_picture: Callable[..., bytes]) -> None:
    card = corpus.card()
    card.putalpha(0)
    card.paste((200, 40, 40, 255), (0, 0, 90, 60))
    red, green, blue = corpus.card().split()
    swapped = PIL.Image.merge("RGB", (green, red, blue))
    swapped.info["icc_profile"] = corpus.swapped_profile()

    shown = drawn(phone_picture(card), 360)

    assert shown.getpixel((40, 30)) == pytest.approx((200, 40, 40, 255), abs=10)
    assert shown.getchannel("A").getpixel((200, 120)) == 0
    assert_corners(drawn(phone_picture(swapped), 360))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_psd_shows_the_picture_of_its_layers(mode: str) -> None:
    corners = corpus.GREY_CORNERS if mode == "L" else corpus.CORNERS
    picture = corpus.card(corners=corners).convert(mode)

    shown = drawn(kind_files.psd(picture), 360)

    assert_corners(shown, corners)


def test_a_psd_is_transparent_only_if_it_says_so() -> None:
    card = corpus.card().convert("RGBA")
    card.putalpha(0)

    assert drawn(kind_files.psd(card, layers=-1), 90).getchannel("A").getextrema() == (0, 0)
    assert_corners(drawn(kind_files.psd(card, layers=1), 90))


def test_a_psd_without_its_picture_and_a_psb_are_refused() -> None:
    with pytest.raises(NotAnImage, match="without the picture of all layers"):
        drawn(kind_files.psd(corpus.card(), has_picture=False))
    with pytest.raises(NotAnImage, match="PSB"):
        drawn(kind_files.psd(corpus.card(), version=2))


@pytest.mark.parametrize("is_version_2", [False, True])
def test_a_book_shows_its_cover(is_version_2: bool) -> None:
    assert_corners(drawn(kind_files.epub(corpus.held(6), is_version_2=is_version_2), 200))


def test_a_book_without_a_cover_is_refused() -> None:
    with pytest.raises(NotAnImage, match="no cover"):
        drawn(kind_files.epub(None))


@pytest.mark.parametrize("name", ["heic", "psd"])
def test_too_many_pixels_are_refused_before_they_are_decoded(name: str, phone_picture: Callable[..., bytes]) -> None:
    data = phone_picture(corpus.card()) if name == "heic" else kind_files.psd(corpus.card())

    with pytest.raises(TooManyPixels, match="at most 10000"):
        drawn(data, limits=RenderLimits(max_original_pixels=10_000, kinds=LIMITS.kinds))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused_whatever_its_library_says(size: tuple[int, int]) -> None:
    # libheif 1.19 opens a damaged HEIC with a side of 0.
    with pytest.raises(NotAnImage, match="no pixels"):
        Drawn(io.BytesIO(), size, lambda _: PIL.Image.new("RGB", (1, 1)), "RGB", "JPEG")
