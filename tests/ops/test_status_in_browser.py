"""The status page in a real browser, of an appliance started by `make run`: daemon, ledger, S3 and thumbnails are real
too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from md5s3stash.audit import FaultKind
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.receipts.receipt import publish
from md5s3stash_daemon.deliveries.records import FileRow, State
from md5s3stash_daemon.fixity.progress import Progress
from md5s3stash_daemon.fixity.state import State as FixityState
from md5s3stash_daemon.fixity.state import StateFolder, WrongObject
from md5s3stash_daemon.monitoring.undelivered import Notices
from md5s3stash_daemon.spool.spool import Spool
from tests.ops.test_make_run import Appliance, picture
from tests.support.browser import DESK, PHONE, Visit, axe_violations, chromium
from tests.support.servers import wait_until
from tests.support.status import status_server

HOSTILE = [
    "<img src=x onerror=alert(1)>.txt",
    "\"'><b>bold.txt",
    "\u202egpj.exe",
    "line\nbreak\x1b[31m.txt",
    "n" * 251 + ".txt",
    "\udcff\udcfe.txt",
]
HOSTILE_AS_SHOWN = [
    "<img src=x onerror=alert(1)>.txt",
    "\"'><b>bold.txt",
    r"\u202egpj.exe",
    r"line\nbreak\x1b[31m.txt",
    "nnnn…nnnn",
    r"\xff\xfe.txt",
]


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """With the samples, some failures, and files with hostile names."""
    appliance = Appliance(tmp_path_factory.mktemp("browser") / "data")
    appliance.start_and_wait()
    try:
        (appliance.incoming / "link to nowhere.tif").symlink_to("/nowhere")
        # Too long to display.
        for name in ("list of all.urls", "-list\n.urls"):
            (appliance.data / "new").touch()
            os.truncate(appliance.data / "new", 1 << 40)
            (appliance.data / "new").rename(appliance.incoming / name)
        for number, name in enumerate(HOSTILE):
            # A name of maximum length leaves no room for a longer temporary one.
            (appliance.data / "new").write_bytes(b"hostile %d" % number)
            (appliance.data / "new").rename(appliance.incoming / name)
        for name in ("\ufffd.txt", "link to nowhere.tif", "list of all.urls", r"-list\n.urls"):
            appliance.wait_for_line(name)
        yield appliance
    finally:
        appliance.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, appliance: Appliance) -> Iterator[Visit]:
    with Visit(browser, f"http://127.0.0.1:{appliance.ports['METRICS_PORT']}/") as visit:
        yield visit


def test_the_receipt_of_a_delivery_is_readable_on_a_phone_and_for_a_screen_reader(
    browser: Browser, tmp_path: Path
) -> None:
    for folder in ("incoming", "deliveries"):
        (tmp_path / folder).mkdir()
    journal = Journal(journal_path(tmp_path))
    with journal.transaction():
        number = journal.open("20261129T122000Z-a1b2c3", "vendor/batch", "vendor", 0.0)
        journal.list_names(number, "md5", [(f"{place}.tif", "0" * 32) for place in range(3)])
        journal.note_listed(number)
        journal.put_file(number, FileRow("0.tif", State.RIGHT, "0" * 32, 12_345_678, 0.0))
        journal.put_file(number, FileRow("1.tif", State.WRONG, reason=f"its md5 is {'1' * 32}, not {'0' * 32}"))
        counts = json.dumps(journal.counts(number))
        journal.update(number, ended=1.0, ended_by="still", verdict="incomplete", counts=counts)
    receipt = publish(Spool(tmp_path), journal, journal.unpublished()[0], lambda md5: f"s3://b/{md5}")
    journal.close()
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})

    page.goto(f"file://{receipt.removesuffix('.json')}.html")

    assert page.get_by_role("heading", name="Wrong: 1").is_visible()
    assert axe_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    # On paper: no margin of its own, and each heading stays with its table.
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).margin") == "0px"
    assert page.evaluate("getComputedStyle(document.querySelector('h2')).breakAfter") == "avoid"
    page.close()


def test_axe_finds_nothing_in_deliveries_fixity_and_notices(browser: Browser, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    (tmp_path / "deliveries").mkdir()
    with contextlib.closing(Journal(journal_path(tmp_path))) as journal, journal.transaction():
        for name, verdict in (("open", ""), ("vendor/good", "complete"), ("v" * 200, "incomplete")):
            number = journal.open(f"20261129T122000Z-{len(name)}", name, "vendor", 0.0)
            journal.list_names(number, "md5", [(f"{place}.tif", "0" * 32) for place in range(3)])
            journal.note_listed(number)
            journal.put_file(number, FileRow("0.tif", State.RIGHT, "0" * 32, 12_345_678, 0.0))
            journal.put_file(number, FileRow("1.tif", State.WRONG, reason="its md5 differs"))
            if verdict:
                journal.update(number, ended=1.0, verdict=verdict, counts=json.dumps(journal.counts(number)))
                journal.update(
                    number, is_published=1, receipt=f"/var/spool/md5s3stash/done/{name}.receipt.json".encode()
                )
    folder = StateFolder(tmp_path)
    folder.write(FixityState(Progress(["s3://b/"], 0.0, 0.0), waits="no answer"))
    url = f"s3://b/{'0' * 32}"
    folder.wrong.add(WrongObject(url, FaultKind.WRONG_BYTES, "its md5 differs", "", 5, 1.0, 1.0))
    environment = {"BUCKET_BASE": "b", "REDIS_URL": "redis://127.0.0.1:9/0", "SPOOL_DIR": str(tmp_path)}
    environment |= {"MD5S3STASH_FIXITY_PERIOD_DAYS": "90", "MD5S3STASH_DELIVERIES_STILL_SECONDS": "3600"}
    with status_server(environment) as server:
        server.metrics.watch_words(lambda: [Notices("email", 3, 7200.0, 0, "Connection refused").words()])
        with Visit(browser, f"http://127.0.0.1:{server.server_address[1]}/") as visit:
            page = visit.open()
            expect(page.locator("#deliveries li")).to_have_count(3)
            expect(page.locator("#fixity")).to_contain_text("1 object is wrong")
            expect(page.get_by_text("notices by email cannot be sent, 3 notices wait (2h)")).to_be_visible()
            for size, scheme in itertools.product((DESK, PHONE), ("light", "dark")):
                assert_nothing_serious(page, size, scheme)


def test_a_dropped_picture_appears_with_its_thumbnail_without_a_reload(visit: Visit, appliance: Appliance) -> None:
    page = visit.open()
    page.evaluate("window.sameDocument = true")

    appliance.drop("live/teal.jpg", picture("teal"))

    tile = page.locator("#stashes > li").filter(has_text="live/teal.jpg")
    expect(tile).to_be_visible()
    image = tile.locator("img")
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=image.element_handle())
    expect(page.locator("#stashes > li").first).to_contain_text("live/teal.jpg")
    expect(page.locator("#hour figcaption")).to_contain_text(re.compile(r"[1-9]\d* stashed"))
    assert page.evaluate("window.sameDocument")


def test_it_is_searched_by_name_by_a_part_of_one_and_by_digest_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.open()
    found = page.locator("section.found")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_attribute("type", "search")

    page.keyboard.type("FRACT")
    page.keyboard.press("Enter")
    expect(found).to_contain_text("samples/fractal.png")
    expect(found).to_contain_text("8655335b961447cf127e1c78eeea0a9f")
    expect(found).to_contain_text("480 \N{MULTIPLICATION SIGN} 360 pixels")

    for word in (
        "samples/scan.tif",
        "c0d429b298365c71ca9cc0ebfce0cd46",
        "http://t.example/clip/9x9/c0d429b298365c71ca9cc0ebfce0cd46",
    ):
        page.get_by_role("searchbox").fill(word)
        page.keyboard.press("Enter")
        expect(found).to_contain_text("samples/scan.tif")
        assert page.get_by_role("searchbox").input_value() == word

    page.get_by_role("searchbox").fill("<b>nobody</b>")
    page.get_by_role("button", name="Search").click()
    expect(found).to_contain_text("There is no record of <b>nobody</b>")


def test_a_tile_leads_to_what_is_known_of_the_content(visit: Visit) -> None:
    page = visit.open()

    page.get_by_role("link", name="samples/portrait.jpg", exact=True).click()

    expect(page.locator("section.found")).to_contain_text("s3://md5s3stash-laptop/54524a535b0f91e359b98e00cc5d5a0a")


def test_a_picture_leads_to_the_viewer_which_knows_its_name(visit: Visit) -> None:
    page = visit.open()

    page.get_by_role("link", name="Zoom in to samples/portrait.jpg").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("samples/portrait.jpg")
    expect(page.get_by_role("status")).to_contain_text("Zoom")
    expect(page.get_by_role("application", name="samples/portrait.jpg")).to_be_visible()


def test_hostile_names_are_text(visit: Visit) -> None:
    page = visit.open()

    shown = page.locator("#stashes .name").all_inner_texts()
    for name in HOSTILE_AS_SHOWN:
        assert any(name.replace("…", "n…n") in text or name in text for text in shown), (name, shown)
    assert page.locator("#stashes b, #failures b, img[src=x]").count() == 0
    expect(page.locator("#failures")).to_contain_text(r"md5s3stashctl retry -- $'-list\x0a.urls'")
    expect(page.locator("#failures")).to_contain_text("md5s3stashctl retry 'list of all.urls'")
    expect(page.locator("#failures")).to_contain_text("link to nowhere.tif")
    expect(page.locator("#failures")).not_to_contain_text("md5s3stashctl retry 'link to nowhere.tif'")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("path", "sizes"), [("", [DESK, PHONE]), ("?q=samples", [DESK]), ("?q=nothing+such", [PHONE])])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(
    visit: Visit, path: str, sizes: list[tuple[int, int]]
) -> None:
    page = visit.open(path, size=sizes[0])
    expect(page.locator("#live")).to_be_visible()
    for size, scheme in itertools.product(sizes, ("light", "dark")):
        assert_nothing_serious(page, size, scheme)


def assert_nothing_serious(page: Page, size: tuple[int, int], scheme: str) -> None:
    """Axe finds nothing at this size in this colour scheme, and nothing sticks out."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    # A new tile is animated for three seconds, with other colours.
    page.evaluate("document.getAnimations().forEach((animation) => animation.finish())")

    assert axe_violations(page) == [], (size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (size, scheme)


def test_each_colour_scheme_has_its_own_colours(visit: Visit) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"

    assert visit.open(scheme="light").evaluate(colour) == "rgb(248, 248, 246)"
    assert visit.open(scheme="dark").evaluate(colour) == "rgb(18, 20, 22)"


def test_without_javascript_the_page_is_complete(visit: Visit) -> None:
    plain, scripted = visit.open(javascript=False), visit.open()

    for selector in ("#stashes .name", "#failures code", ".states h3", "h2"):
        assert plain.locator(selector).all_inner_texts() == scripted.locator(selector).all_inner_texts()
    expect(plain.locator("#hour .key")).to_have_count(3)
    expect(plain.locator("#live")).to_be_hidden()
    expect(plain.locator("footer")).to_contain_text("Reload the page to update it")
    plain.get_by_role("searchbox").fill("fractal")
    plain.get_by_role("button", name="Search").click()
    expect(plain.locator("section.found")).to_contain_text("samples/fractal.png")


def test_whoever_stands_on_a_link_or_copies_a_command_is_not_disturbed(visit: Visit, appliance: Appliance) -> None:
    page = visit.open()
    page.get_by_role("link", name="samples/notes.txt").focus()
    command = page.locator("#failures code").filter(has_text="list of all")
    command.click()
    selected = page.evaluate("String(getSelection())")
    page.get_by_role("link", name="samples/notes.txt").focus()

    appliance.drop("live/undisturbed.jpg", picture("navy"))

    expect(page.locator("#stashes")).to_contain_text("live/undisturbed.jpg")
    assert selected.strip() == "md5s3stashctl retry 'list of all.urls'", "one click selects all of it"
    assert page.evaluate("String(getSelection())") == selected
    expect(page.get_by_role("link", name="samples/notes.txt")).to_be_focused()


def test_a_page_that_nobody_sees_or_that_is_not_live_asks_nothing(visit: Visit) -> None:
    page = visit.open()
    page.clock.install()
    page.reload()
    page.clock.run_for(5000)
    wait_until(lambda: visit.pages_asked_for(page) >= 3, "requests of the page")

    def turn(hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    def live(checked: bool) -> None:
        page.get_by_label("Live").set_checked(checked)

    for switch, stopped in ((turn, True), (live, False)):
        switch(stopped)
        before = visit.pages_asked_for(page)
        page.clock.run_for(60_000)
        assert visit.pages_asked_for(page) == before
        switch(not stopped)
        page.clock.run_for(100)
        wait_until(lambda before=before: visit.pages_asked_for(page) > before, "an immediate request")  # type: ignore[misc]


def test_a_daemon_that_does_not_answer_is_told_until_it_does(visit: Visit) -> None:
    page = visit.open()
    page.route(visit.url, lambda route: route.abort())
    told = page.locator("#connection")
    expect(told).to_contain_text("No answer since")
    expect(page.locator("#stashes")).to_contain_text("samples/notes.txt")

    page.unroute(visit.url)

    expect(told).to_be_hidden()
    # The browser's messages about interrupted requests.
    assert all("ERR_FAILED" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_nothing_is_loaded_from_elsewhere(visit: Visit, appliance: Appliance) -> None:
    page = visit.open()
    page.wait_for_function("() => [...document.images].some((image) => image.complete && image.naturalWidth > 0)")
    page.wait_for_function(
        "() => performance.getEntriesByType('resource').some((entry) => entry.initiatorType === 'fetch')"
    )

    ours = {f"127.0.0.1:{appliance.ports[name]}" for name in ("METRICS_PORT", "THUMBNAILER_PORT")}
    assert {urlsplit(url).netloc for url in visit.requests} == ours
