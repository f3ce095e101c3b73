"""The kinds beside pictures: what all of them promise, whatever the kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.signed_url import sign
from tests.support.clips import Clips
from tests.thumbnailer import corpus, kind_files
from tests.thumbnailer.conftest import ROOT, Thumbnailer, environment, thumbnailer

PUT = Callable[[bytes], str]
KIND_NAMES = sorted(kinds.every())
KEY = "a key of the tests"
OTHER_CORNERS = ((250, 250, 40), (20, 20, 20), (200, 40, 160), (40, 200, 200))

# Draws a PDF and a JPEG in a package from which a module was removed.
DRAW = """
import io, json, sys
import PIL.Image
from md5s3stash_thumbnailer.errors import ThumbnailError
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, prepare_process, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
limits = RenderLimits(kinds=kinds.chosen("all")[0])
prepare_process(limits)
outcomes = {}
for name in sys.argv[1:]:
    try:
        with open(name, "rb") as file:
            outcomes[name] = render(file, ThumbnailRequest("clip", 60, 60, "0" * 32), limits).kind
    except ThumbnailError as error:
        outcomes[name] = str(error)
print(json.dumps([limits.kinds, outcomes]))
"""


@pytest.fixture(scope="module")
def server(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    # On a busy machine a client would have its share soon.
    patience = ("--client_share=0", "--queue_timeout=100", "--render_timeout=100")
    with thumbnailer(tmp_path_factory.mktemp("kinds"), s3_server, "--pyramid_pixels=1000", *patience) as running:
        yield running


def metric(server: Thumbnailer, sample: str) -> float:
    lines = server.get("/metrics").body.decode().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(sample)), 0.0)


def test_every_kind_is_shown_and_counted(server: Thumbnailer, put: PUT, tmp_path: Path) -> None:
    card = corpus.card()
    files = {
        "epub": kind_files.epub(corpus.encoded(card, "JPEG")),
        "heic": kind_files.heic(card, tmp_path),
        "pdf": kind_files.pdf(),
        "psd": kind_files.psd(card),
        "svg": kind_files.svg(),
    }

    for name, data in files.items():
        before = metric(server, f'md5s3stash_thumbnailer_kinds_drawn_total{{kind="{name}"}}')
        md5 = put(data)
        answer = server.get(f"/clip/100x100/{md5}")

        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png" if name == "svg" else "image/jpeg")
        assert corpus.corners_of(answer.image)[0] == pytest.approx(corpus.CORNERS[0], abs=14)
        assert metric(server, f'md5s3stash_thumbnailer_kinds_drawn_total{{kind="{name}"}}') == before + 1
        # From a pyramid.
        assert server.get(f"/iiif/3/{md5}/0,0,20,20/max/0/default.jpg").status == 200
    assert set(files) <= set(KIND_NAMES)


def test_pages_are_pictures_of_their_own(server: Thumbnailer, put: PUT) -> None:
    """With an ETag, a reduced copy and a pyramid each."""
    # Of two thousand pixels, so that copies are made.
    md5 = put(kind_files.pdf([corpus.CORNERS, OTHER_CORNERS], size=(900, 600)))
    first, second = (f"/clip/90x90/{md5}{query}" for query in ("", "?page=2"))

    answers = [server.get(path) for path in (first, second, first, second)]

    corners = [corpus.corners_of(answer.image) for answer in answers]
    assert corners[0] == corners[2] != corners[1] == corners[3]
    assert corners[1][0] == pytest.approx(OTHER_CORNERS[0], abs=14)
    assert answers[0].headers["ETag"] != answers[1].headers["ETag"]
    assert server.get(f"{first}?page=1").headers["ETag"] == answers[0].headers["ETag"]
    assert server.get(second, If_None_Match=answers[1].headers["ETag"]).status == 304
    assert server.get(second, If_None_Match=answers[0].headers["ETag"]).status == 200


BAD_PAGE = "Invalid page: a number from 1 to 999999999"


@pytest.mark.parametrize(
    ("page", "status", "words"),
    [
        ("3", 404, "no page 3: it has 2"),
        ("999999999", 404, "no page 999999999: it has 2"),
        *((page, 400, BAD_PAGE) for page in ("1000000000", "0", "-1", "x")),
    ],
)
def test_a_page_that_is_not_there_is_said_so(server: Thumbnailer, put: PUT, page: str, status: int, words: str) -> None:
    md5 = put(kind_files.pdf([corpus.CORNERS, OTHER_CORNERS]))

    answer = server.get(f"/clip/90x90/{md5}?page={page}")

    assert answer.status == status
    assert words in answer.json["error"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_picture_has_one_page(server: Thumbnailer, put: PUT) -> None:
    md5 = put(corpus.encoded(corpus.card(), "JPEG"))

    assert server.get(f"/clip/90x90/{md5}?page=1").status == 200
    assert server.get(f"/clip/90x90/{md5}?page=2").status == 404


def test_a_signature_is_for_one_page(s3_server: str, put: PUT, tmp_path: Path) -> None:
    path = f"/clip/90x90/{put(kind_files.pdf([corpus.CORNERS, OTHER_CORNERS]))}?page=2"
    with thumbnailer(tmp_path, s3_server, f"--url-keys={KEY}") as server:
        signed = sign(path, KEY, 4_000_000_000)

        assert server.get(signed).status == 200
        assert server.get(signed.replace("page=2", "page=1")).status == 403


def test_iiif_shows_each_page(server: Thumbnailer, put: PUT) -> None:
    md5 = put(kind_files.pdf([corpus.CORNERS, OTHER_CORNERS]))
    for name, corners in ((md5, corpus.CORNERS), (f"{md5};page=2", OTHER_CORNERS)):
        info = server.get(f"/iiif/3/{name}/info.json").json
        assert (info["id"].rpartition("/")[2], info["width"], info["height"]) == (name, 1000, 667)
        for part, place in (("full/max", 0), ("750,0,250,166/100,", 1)):
            answer = server.get(f"/iiif/3/{name}/{part}/0/default.jpg")
            assert answer.status == 200, answer.body
            middle = answer.image.getpixel((10, 10) if place == 0 else (50, 30))
            assert middle == pytest.approx(corners[place], abs=14)
        assert server.get(f"/view/{name}").status == 200
    assert server.get(f"/iiif/3/{md5};page=1/info.json").json["id"].endswith(md5)
    assert server.get(f"/iiif/3/{md5};page=3/info.json").status == 404
    # The viewer says which one it shows.
    assert b"<p>page 2 &middot;" in server.get(f"/view/{md5};page=2").body.replace("·".encode(), b"&middot;")
    assert b"page 1" not in server.get(f"/view/{md5}").body
    assert server.get(f"/iiif/3/{md5};page=x/info.json").status == 400
    assert server.get(f"/iiif/3/{md5};leaf=2/info.json").status == 404


def test_the_file_itself_is_not_sent(server: Thumbnailer, put: PUT) -> None:
    """A script in a drawing would run as one of this site's."""
    data = kind_files.svg(inner="<script>alert(1)</script>")

    answer = server.get(f"/clip/90x90/{put(data)}?op=noop")

    assert answer.status == 415
    assert b"<script>" not in answer.body


def test_a_sealed_worker_draws_no_file_that_a_drawing_names(server: Thumbnailer, put: PUT, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    corpus.card().save(secret)
    named = kind_files.svg(inner=f'<image width="24" height="16" href="{secret}"/>')

    answers = [server.get(f"/clip/90x90/{put(data)}") for data in (named, kind_files.svg())]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body


def test_a_file_that_crashes_its_decoder_costs_one_worker_and_is_no_fault_of_the_server(
    server: Thumbnailer, put: PUT
) -> None:
    # Nested too deep for the stack of resvg.
    clips = "".join(f'<clipPath id="c{n}" clip-path="url(#c{n - 1})"><rect/></clipPath>' for n in range(1, 50_000))
    data = kind_files.svg(inner=f'<clipPath id="c0"/>{clips}<rect clip-path="url(#c49999)"/>')

    assert server.get(f"/clip/90x90/{put(data)}").status == 415
    assert server.get(f"/clip/90x90/{put(kind_files.svg())}").status == 200


def test_kinds_that_are_off_are_refused_with_the_reason_and_not_shown_from_the_cache(
    server: Thumbnailer, s3_server: str, put: PUT, tmp_path: Path
) -> None:
    cache = server.log_path.parent / f"cache-{server.port}"
    drawing = put(kind_files.svg(inner='<circle r="9"/>'))
    video = put(Clips(tmp_path).video("mp4").read_bytes())
    cached = [f"/iiif/3/{drawing}/full/90,/0/default.jpg", f"/clip/90x90/{video}"]
    assert [server.get(path).status for path in cached] == [200, 200]
    assert (cache / f"{drawing}.pyramid").exists()
    assert (cache / f"{video}.still").exists()
    # As if a package was not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pi_heif'] = sys.modules['cv2'] = None")
    path = f"{tmp_path}:{environment(None)['PYTHONPATH']}"
    files = {"svg": kind_files.svg(), "heic": kind_files.heic(corpus.card(), tmp_path), "pdf": kind_files.pdf()}
    options = ("--kinds=pdf,heic,sound", "--pyramid_pixels=1000", f"--cache_dir={cache}")
    with thumbnailer(tmp_path, s3_server, *options, PYTHONPATH=path) as other:
        answers = {name: other.get(f"/clip/90x90/{put(data)}") for name, data in files.items()}
        health = other.get("/healthz")
        assert [other.get(path).status for path in cached] == [415, 415]
        page = f"/iiif/3/{put(files['pdf'])}/full/90,/0/default.jpg"
        # Drawn for the first one, and from what was kept under a name of its own for the second one.
        assert [other.get(page).status for _ in range(2)] == [200, 200]
        assert len(list(cache.glob("*-without-*.pyramid"))) == 1

        reasons = {name: answer.json["error"] for name, answer in answers.items() if answer.status == 415}
        assert answers["pdf"].status == 200
        assert reasons == {
            "svg": "SVG drawings are not shown by this server",
            "heic": "HEIC pictures are not shown by this server: the package pi-heif is not installed",
        }
        assert (health.status, health.json) == (
            200,
            {
                "status": "ok",
                "missing": {
                    "heic": "the package pi-heif is not installed",
                    "faces": "the package opencv-python-headless is not installed",
                },
            },
        )
        assert other.log.count("event=kind_off kind=heic reason='the package pi-heif is not installed'") == 1
        # Where OpenCV is installed they are other pictures, so no cache may keep these for long.
        card = put(corpus.encoded(corpus.card(), "JPEG"))
        centred = other.get(f"/crop/40x90/{card}?pos=face")
        assert (centred.status, centred.headers["Cache-Control"]) == (200, "public, max-age=300")
        assert "Etag" not in centred.headers
        for path in (f"/clip/40x90/{card}?pos=face", f"/crop/40x90/{card}?pos=left"):
            assert "immutable" in other.get(path).headers["Cache-Control"]
        assert "kind=svg" not in other.log


@pytest.mark.parametrize(("setting", "shown"), [("all", KIND_NAMES), ("none", []), ("svg,pdf", ["svg", "pdf"])])
def test_the_setting_names_what_is_shown(setting: str, shown: list[str]) -> None:
    assert kinds.chosen(setting) == (tuple(shown), {})


@pytest.mark.parametrize("setting", ["", "pdf,", "frob", "none,pdf", "PDF"])
def test_a_wrong_name_of_a_kind_is_said_at_the_start(setting: str) -> None:
    with pytest.raises(SettingsError, match="kinds must be all, none or of epub, heic, pdf"):
        kinds.chosen(setting)


@pytest.mark.parametrize("removed", [*KIND_NAMES, "*"])
def test_a_kind_is_removed_with_its_module_alone(removed: str, tmp_path: Path) -> None:
    package = tmp_path / "md5s3stash_thumbnailer"
    shutil.copytree(ROOT / "thumbnailer/md5s3stash_thumbnailer", package)
    gone = KIND_NAMES if removed == "*" else [removed]
    for name in gone:
        for path in package.glob(f"render/kinds/{name}*"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (tmp_path / "a.pdf").write_bytes(kind_files.pdf())
    shutil.copy(ROOT / "samples/gradient.jpg", tmp_path / "b.jpg")

    found = subprocess.run(
        [sys.executable, "-c", DRAW, "a.pdf", "b.jpg"],
        cwd=tmp_path,
        env={**environment(None), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        check=True,
    )

    shown, outcomes = json.loads(found.stdout)
    assert shown == [name for name in KIND_NAMES if name not in gone]
    assert outcomes["b.jpg"] == ""
    assert outcomes["a.pdf"] == ("pdf" if "pdf" in shown else "File is not an image of a kind that is shown")
