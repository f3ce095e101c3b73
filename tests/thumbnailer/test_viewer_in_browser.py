"""The viewer, and the manifest in Mirador, in a real browser before a real server and S3: what is on the screen is
compared with the original. Whatever the browser complains of fails the test, and so does what its policy forbids.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import PIL.Image
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import DESK, PHONE, Visit, axe_violations, chromium
from tests.support.mirador import MiradorServer
from tests.support.servers import wait_until
from tests.thumbnailer.conftest import FORKING, Thumbnailer, picture, thumbnailer
from tests.thumbnailer.screen import colours, has_focus_mark, shot, shows_all, shows_full_detail
from tests.thumbnailer.ssim import ssim

# The middle is a little right of and below the corner of a tile.
SIZE = (2168, 1144)
LIGHT_PAPER = (248, 248, 246)
UNKNOWN = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def original() -> PIL.Image.Image:
    """Fine detail everywhere, which no smaller level has, and no two places look alike."""
    half = SIZE[0] // 2, SIZE[1] // 2
    noise = PIL.Image.frombytes("L", half, random.Random(1).randbytes(half[0] * half[1]))
    grain = noise.resize(SIZE, PIL.Image.Resampling.BICUBIC)
    gradient = PIL.Image.linear_gradient("L").resize(SIZE)
    return PIL.Image.merge("RGB", (grain, PIL.Image.blend(grain, gradient, 0.5), grain))


@pytest.fixture(scope="module")
def md5(original: PIL.Image.Image, put: Callable[[bytes], str]) -> str:
    out = io.BytesIO()
    original.save(out, "PNG", compress_level=1)
    return put(out.getvalue())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, server: Thumbnailer) -> Iterator[Visit]:
    with Visit(browser, f"http://127.0.0.1:{server.port}/view/") as visit:
        yield visit


def opened(visit: Visit, path: str, scheme: str = "light", size: tuple[int, int] = DESK) -> Page:
    """The page, once it has its picture."""
    return with_picture(visit.open(path, scheme, size))


def with_picture(page: Page) -> Page:
    expect(page.get_by_role("button", name="Zoom in")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Zoom")
    return page


def test_the_whole_picture_and_then_every_pixel_of_it_are_on_the_screen(
    visit: Visit, md5: str, original: PIL.Image.Image
) -> None:
    page = opened(visit, md5)
    picture = page.locator("#picture")
    wait_until(lambda: shows_all(picture, original), "the whole picture")
    assert not shows_full_detail(picture, original)

    page.get_by_role("button", name="Full detail").click()

    expect(page.get_by_role("status")).to_have_text("Zoom 100 %")
    wait_until(lambda: shows_full_detail(picture, original), "every pixel of the middle")
    expect(page.get_by_text("2,168 \N{MULTIPLICATION SIGN} 1,144 pixels")).to_be_visible()
    expect(page.locator("code")).to_have_text(md5)
    assert {urlsplit(url).netloc for url in visit.requests} == {urlsplit(visit.url).netloc}


def test_all_of_the_picture_stays_in_a_place_that_becomes_smaller(visit: Visit, md5: str) -> None:
    """As it does when the buttons get a line of their own."""
    page = visit.open(md5, size=(900, 560))
    for size in ((900, 560), (1100, 420), PHONE, (1400, 700)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        wait_until(lambda: is_as_large_as_fits(page), "all of the picture")
    page.get_by_role("button", name="Rotate").click()
    wait_until(lambda: is_as_large_as_fits(page, SIZE[::-1]), "all of the rotated picture")

    # What a reader looks at stays as large as it is.
    page.get_by_role("button", name="Full detail").click()
    expect(page.get_by_role("status")).to_have_text("Zoom 100 %, rotated 90°")
    page.set_viewport_size({"width": 1000, "height": 500})
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("status")).to_have_text("Zoom 100 %, rotated 180°")


def is_as_large_as_fits(page: Page, size: tuple[int, int] = SIZE) -> bool:
    place, text = page.locator("#picture").bounding_box(), page.get_by_role("status").inner_text()
    assert place
    percent = 100 * min(place["width"] / size[0], place["height"] / size[1])
    return text.startswith("Zoom ") and abs(int(text.split()[1]) - percent) <= 1


@pytest.mark.parametrize("scale", [1.25, 2])
def test_on_a_finer_screen_full_detail_is_a_pixel_of_the_screen_too(
    visit: Visit, md5: str, original: PIL.Image.Image, scale: float
) -> None:
    page = visit.new_page(scale=scale)
    page.goto(visit.url + md5)

    page.get_by_role("button", name="Full detail").click()

    expect(page.get_by_role("status")).to_have_text("Zoom 100 %")
    wait_until(lambda: shows_full_detail(page.locator("#picture"), original), "every pixel of the middle")


def test_a_picture_of_any_shape_is_shown(visit: Visit, put: Callable[[bytes], str]) -> None:
    # The browser gets a JPEG of either; test_iiif_pixels compares the tiles of each format with the original.
    shapes = [((1, 1), "JPEG"), ((512, 512), "PNG"), ((513, 511), "JPEG"), ((9000, 3), "PNG"), ((2, 5000), "JPEG")]
    page = visit.new_page()
    for size, image_format in shapes:
        page.goto(visit.url + put(picture(size, image_format)))
        with_picture(page)

        page.get_by_role("button", name="Full detail").click()

        expect(page.get_by_role("status")).to_have_text("Zoom 100 %")
        # From red on the left to blue on the right; of one column, the paper around it is the other colour.
        wait_until(lambda: len(colours(shot(page.locator("#picture")))) > 1, f"the picture of {size}")
        page.get_by_role("button", name="Whole picture").click()
        expect(page.get_by_role("status")).to_have_text(re.compile("^Zoom [1-9]|^Zoom 0[.][0-9]*[1-9] %"))


def test_a_server_that_says_to_come_back_later_is_asked_again(
    visit: Visit, md5: str, original: PIL.Image.Image
) -> None:
    refused: set[str] = set()

    def answer(route: Route) -> None:
        if route.request.url in refused:
            route.continue_()
        else:
            refused.add(route.request.url)
            route.fulfill(status=429)

    page = visit.new_page()
    page.route("**/default.jpg", answer)
    page.goto(visit.url + md5)

    wait_until(lambda: shows_all(page.locator("#picture"), original), "the whole picture")
    expect(page.get_by_role("status")).to_contain_text("Zoom")
    assert refused
    page.close()
    # The browser's words and OpenSeadragon's.
    assert all("429" in said or "failed to load" in said for said in visit.complaints)
    visit.complaints.clear()


def test_a_picture_that_does_not_come_is_told_after_a_minute(visit: Visit, md5: str) -> None:
    page = visit.new_page()
    page.clock.install()
    page.route("**/default.jpg", lambda route: route.fulfill(status=503))
    page.goto(visit.url + md5)
    state = page.get_by_role("status")

    def told() -> bool:
        # A second with one frame: sixty of them take long to draw.
        page.clock.fast_forward(1000)
        return "could not be loaded" in state.inner_text()

    wait_until(told, "the message", 600)

    asked = sum(url.endswith("/full/271,143/0/default.jpg") for url in visit.requests)
    # Only a server that shows damaged pictures is asked once more, whether this is one.
    assert asked == 6
    page.close()
    visit.complaints.clear()


def test_the_keyboard_is_enough(visit: Visit, md5: str, original: PIL.Image.Image) -> None:
    page = opened(visit, md5)
    state, picture = page.get_by_role("status"), page.locator("#picture")
    whole = state.inner_text()
    wait_until(lambda: shows_all(picture, original), "the whole picture")
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.locator(":focus").inner_text())
    assert names == ["Zoom in", "Zoom out", "Whole picture", "Full detail", "Rotate", "Full screen"]
    page.keyboard.press("Enter")
    # Not wait_for_function: the page's policy forbids what it runs if the first look is too early.
    wait_until(lambda: page.evaluate("document.fullscreenElement !== null"), "full screen")
    wait_until(lambda: shot(page.locator("header")).getpixel((4, 4)) == LIGHT_PAPER, "paper in full screen")
    page.keyboard.press("Enter")
    wait_until(lambda: page.evaluate("document.fullscreenElement === null"), "the window again")
    page.keyboard.press("Tab")
    expect(page.get_by_role("application")).to_be_focused()

    for key in ("+", "=", "NumpadAdd"):
        before = state.inner_text()
        page.keyboard.press(key)
        expect(state).not_to_have_text(before)
    for scheme in ("light", "dark"):
        for colors in ("none", "active"):
            page.emulate_media(color_scheme=scheme, forced_colors=colors)
            wait_until(lambda: has_focus_mark(picture), f"the mark of the focus: {scheme}, {colors}")
    page.emulate_media(color_scheme="light", forced_colors="none")
    page.keyboard.press("0")
    expect(state).to_have_text(whole)
    page.keyboard.press("r")
    expect(state).to_contain_text(", rotated 90°")
    page.keyboard.press("Shift+R")
    expect(state).to_have_text(whole)
    seen = shot(picture)
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    wait_until(lambda: ssim(shot(picture), seen) < 0.9, "another part of the picture")
    page.keyboard.press("-")
    page.keyboard.press("0")
    expect(state).to_have_text(whole)
    wait_until(lambda: shows_all(picture, original), "the whole picture again")


def test_a_screen_reader_is_told_what_is_there_and_what_it_can_do(visit: Visit, md5: str) -> None:
    page = opened(visit, f"{md5}#name=maps%2Fnorth.tif")

    picture = page.get_by_role("application", name="maps/north.tif")
    expect(picture).to_have_attribute("aria-roledescription", "zoomable picture")
    expect(picture).to_have_accessible_description(
        "Keys, once the picture has the focus: arrows move it, + and \N{MINUS SIGN} zoom, 0 shows all of it, "
        "R rotates, F mirrors."
    )
    expect(page).to_have_title("maps/north.tif")
    expect(page.get_by_role("heading", level=1)).to_have_text("maps/north.tif")
    expect(page.get_by_role("group", name="View").get_by_role("button")).to_have_count(6)


def test_a_name_in_the_link_is_short_text_and_nothing_else(visit: Visit, md5: str) -> None:
    odd = "\N{REPLACEMENT CHARACTER}"
    names = {
        "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
        "%E2%80%AEgpj.exe%0A%00": f"{odd}gpj.exe{odd}{odd}",
        "n" * 1000: "n" * 200,
        "%ff%20": odd,
        "": "Picture",
    }
    page = visit.new_page()
    for given, shown in names.items():
        # Another document: to follow a link to a place of the same one loads nothing.
        page.goto("about:blank")
        page.goto(f"{visit.url}{md5}#name={given}")
        with_picture(page)

        assert page.locator("#name").text_content() == shown
        assert page.locator("#name *").count() == 0
    # What the browser tells of a document's own address holds the name.
    assert [url for url in visit.requests if "name" in url and "#" not in url] == []


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_axe_finds_nothing_and_nothing_sticks_out(visit: Visit, md5: str, size: tuple[int, int]) -> None:
    page = opened(visit, md5, size=size)

    for scheme, paper in (("light", "rgb(248, 248, 246)"), ("dark", "rgb(18, 20, 22)")):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert axe_violations(page) == [], scheme
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_without_javascript_there_is_a_picture(visit: Visit, md5: str) -> None:
    page = visit.open(md5, javascript=False)

    image = page.get_by_role("img")
    expect(image).to_be_visible()
    expect(page.get_by_role("button", name="Zoom in")).to_be_hidden()
    wait_until(lambda: image.evaluate("image => image.naturalWidth") == 1600, "the thumbnail")


def test_without_javascript_the_picture_has_the_place_that_is_left(visit: Visit, put: Callable[[bytes], str]) -> None:
    for shape in ((2000, 1200), (900, 1800)):
        page = visit.open(put(picture(shape)), javascript=False)
        for size in (DESK, PHONE, (500, 400)):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            place, shown = (page.locator(found).bounding_box() for found in ("#picture", "#picture img"))
            assert place
            assert shown == place, (shape, size)
            top = page.locator("footer").bounding_box()
            assert top
            assert place["y"] + place["height"] <= top["y"] + 0.5, (shape, size)


def test_a_damaged_picture_is_called_damaged(
    browser: Browser, s3_server: str, put: Callable[[bytes], str], tmp_path: Path
) -> None:
    with (
        thumbnailer(tmp_path, s3_server, "--truncated", program=FORKING) as server,
        Visit(browser, f"http://127.0.0.1:{server.port}/view/") as visit,
    ):
        for image_format in ("JPEG", "PNG"):
            whole = picture((1800, 1200), image_format)
            page = opened(visit, put(whole[:-500]))
            expect(page.get_by_role("alert")).to_contain_text("The picture is damaged")
            with page.expect_response("**/full/*/0/default.jpg"):
                page.goto(visit.url + put(whole))
            expect(page.locator("#damage")).to_be_empty()


def test_an_unknown_picture_is_a_clear_page_with_status_404(visit: Visit) -> None:
    page = visit.new_page()
    for path in (UNKNOWN, "not-an-md5", "%3Cscript%3Ealert(1)%3C%2Fscript%3E"):
        page.goto(visit.url + path)

        expect(page.get_by_role("heading", level=1)).to_have_text("There is no picture here")
        expect(page.get_by_text("Status 404")).to_be_visible()
        assert axe_violations(page) == [], path
    # The browser's own words about the status.
    assert all("404 (Not Found)" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_a_wrong_public_address_does_not_break_the_viewer(
    browser: Browser, s3_server: str, md5: str, original: PIL.Image.Image, tmp_path: Path
) -> None:
    with (
        thumbnailer(tmp_path, s3_server, "--public_url=http://images.example.org/elsewhere", program=FORKING) as server,
        Visit(browser, f"http://localhost:{server.port}/view/") as visit,
    ):
        assert server.get(f"/iiif/3/{md5}/info.json").json["id"].startswith("http://images.example.org/elsewhere/")
        picture = opened(visit, md5).locator("#picture")
        wait_until(lambda: shows_all(picture, original), "the whole picture")


def test_mirador_opens_the_manifest_and_shows_every_pixel(
    browser: Browser, server: Thumbnailer, md5: str, original: PIL.Image.Image
) -> None:
    manifest = f"http://127.0.0.1:{server.port}/iiif/3/{md5}/manifest.json"
    with MiradorServer(manifest) as mirador, Visit(browser, mirador.url) as visit:
        page = visit.open()
        picture = page.locator(".mirador-osd-container")
        expect(picture).to_be_visible()
        expect(page.get_by_role("heading", name=md5).first).to_be_visible()
        # Its OpenSeadragon stretches each tile by a pixel.
        wait_until(lambda: shows_all(picture, original, 0.85), "the whole picture")

        (window,) = page.evaluate("Object.keys(mirador.store.getState().windows)")
        # Its zoom is the part of the canvas' pixels that is as wide as the place.
        page.evaluate(
            "([id, x, y, zoom]) => mirador.store.dispatch(Mirador.updateViewport(id, { x, y, zoom }))",
            [window, SIZE[0] / 2, SIZE[1] / 2, 1 / shot(picture).width],
        )

        # Near the corner of a tile, that moves nothing.
        wait_until(lambda: shows_full_detail(picture, original, (60, 60), 0.97), "every pixel of the middle")
        # Mirador's libraries have more to say, to its developers.
        assert not [said for said in visit.complaints if "Failed to load" in said or "blocked" in said]
        visit.complaints.clear()
