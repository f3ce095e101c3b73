"""The viewer's answers over HTTP. What it shows is in test_viewer_in_browser.py."""

from __future__ import annotations

import gzip
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from md5s3stash_thumbnailer.server.client_rate import ANSWER_SECONDS, PAGE_ANSWERS
from tests.thumbnailer.conftest import FORKING, ROOT, Thumbnailer, picture, thumbnailer

Put = Callable[[bytes], str]

ASSETS = ROOT / "thumbnailer" / "md5s3stash_thumbnailer" / "viewer" / "assets"
UNKNOWN = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def md5(put: Put) -> str:
    return put(picture((400, 300)))


def asset_paths(page: str) -> list[str]:
    return [f"/view/{path}" for path in re.findall(r'(?:src|href)="(assets/[^"]*)"', page)]


def test_the_page_names_the_picture_and_lets_only_our_own_files_run(server: Thumbnailer, md5: str) -> None:
    answer = server.get(f"/view/{md5.upper()}")
    page, policy = answer.body.decode(), answer.headers["Content-Security-Policy"]

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=UTF-8")
    assert md5 in page
    assert "400 \N{MULTIPLICATION SIGN} 300 pixels" in page
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! src=)", page)
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/view/", f"/iiif/3/{UNKNOWN}/"])
def test_head_is_answered_as_get(server: Thumbnailer, md5: str, path: str) -> None:
    path = f"/view/{md5}" if path == "/view/" else f"/iiif/3/{md5}/manifest.json"
    got, head = server.get(path), server.request(path, "HEAD")

    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Type", "Content-Length", "Cache-Control"):
        assert head.headers[name] == got.headers[name]


def test_errors_are_pages_with_their_own_status(server: Thumbnailer, put: Put) -> None:
    text = put(b"no picture at all")
    for path, status, word in (
        (UNKNOWN, 404, "Nothing is stashed under"),
        ("%3Cscript%3E", 404, "32 hexadecimal digits"),
        (text, 415, "image"),
    ):
        answer = server.get(f"/view/{path}")
        page = answer.body.decode()
        assert answer.status == status
        assert word in page
        assert "There is no picture here" in page
        assert f"Status {status}" in page
        assert "<script" not in page
        assert answer.headers["Content-Type"] == "text/html; charset=UTF-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")


def test_assets_are_immutable_under_the_address_that_the_page_gives(server: Thumbnailer, md5: str) -> None:
    paths = asset_paths(server.get(f"/view/{md5}").body.decode())

    assert {Path(path).name for path in paths} == {"view.css", "view.js", "openseadragon.min.js"}
    for path in paths:
        plain, packed = server.get(path), server.get(path, Accept_Encoding="gzip, br")
        assert plain.body == gzip.decompress(packed.body) == (ASSETS / Path(path).name).read_bytes()
        assert (
            plain.headers["Cache-Control"] == packed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        )
        assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
        assert server.get(path, If_None_Match=plain.headers["ETag"]).status == 304


def test_the_asset_of_another_release_is_ours_and_is_not_kept(server: Thumbnailer) -> None:
    answer = server.get("/view/assets/0123456789abcdef/view.js")

    assert answer.body == (ASSETS / "view.js").read_bytes()
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["view.html", "error.html", "..%2Fhandlers.py", "handlers.py", "nothing"])
def test_no_other_file_is_an_asset(server: Thumbnailer, name: str) -> None:
    assert server.get(f"/view/assets/0123456789abcdef/{name}").status == 404


def test_openseadragon_is_as_tools_viewer_assets_took_it_from_npm_with_its_licence() -> None:
    script = (ASSETS / "openseadragon.min.js").read_bytes()

    assert script.startswith(b"//! openseadragon 6.1.1\n")
    assert hashlib.sha256(script).hexdigest() == "4e6fe442742db946dfbe1e748486552078e28ba617412e91b81146443465d2c4"
    assert b"Redistribution and use in source and binary forms" in (ASSETS / "openseadragon.LICENSE.txt").read_bytes()


@pytest.mark.parametrize("option", ["--iiif=false", "--url_keys=a-long-random-word"])
def test_without_iiif_there_is_no_viewer_and_none_of_its_code(
    option: str, s3_server: str, md5: str, tmp_path: Path
) -> None:
    with thumbnailer(tmp_path, s3_server, option, program=FORKING) as server:
        for path in (f"/view/{md5}", "/view/assets/0123456789abcdef/view.js", f"/iiif/3/{md5}/manifest.json"):
            assert server.get(path).status == 404


def test_a_client_that_asks_for_too_much_is_told_when_to_come_back_and_others_are_not(
    s3_server: str, md5: str, put: Put, tmp_path: Path
) -> None:
    """The share is so small that the first request uses up all of it, however quick the machine is."""
    options = ("--client_share=0.000001", "--trusted_proxies=127.0.0.1")
    tile, other = f"/iiif/3/{md5}/full/200,150/0/default.jpg", put(picture((401, 300)))
    with thumbnailer(tmp_path, s3_server, *options, program=FORKING) as server:

        def of(client: str, path: str = tile) -> int:
            return server.get(path, X_Forwarded_For=client).status

        assert of("198.51.100.7") == 200
        refused = server.get(tile, X_Forwarded_For="203.0.113.1, 198.51.100.7")
        assert (refused.status, refused.json["error_code"]) == (429, 402)
        assert 25 <= int(refused.headers["Retry-After"]) <= 30
        assert refused.headers["Cache-Control"] == "no-store"
        page = server.get(f"/view/{other}", X_Forwarded_For="198.51.100.7")
        assert (page.status, page.headers["Content-Type"]) == (429, "text/html; charset=UTF-8")
        assert b"<h1>The picture cannot be shown</h1>" in page.body
        assert of("203.0.113.1") == 200
        assert of("2001:db8:1:2::1") == 200
        assert of("2001:db8:1:2::2") == 429
        # Thumbnails, and who comes through no proxy, are not bounded.
        assert of("198.51.100.7", f"/clip/100x100/{md5}") == 200
        assert {server.get(tile).status for _ in range(3)} == {200}


def test_beside_another_client_answers_beyond_a_page_are_spaced_and_none_is_refused(
    s3_server: str, md5: str, tmp_path: Path
) -> None:
    info, more = f"/iiif/3/{md5}/info.json", 10
    options = ("--client_share=0.01", "--trusted_proxies=127.0.0.1")
    with thumbnailer(tmp_path, s3_server, *options, program=FORKING) as server:
        assert server.get(info, X_Forwarded_For="203.0.113.1").status == 200
        begun = time.monotonic()
        statuses = {server.get(info, X_Forwarded_For="198.51.100.7").status for _ in range(PAGE_ANSWERS + more)}
        assert statuses == {200}
        assert time.monotonic() - begun >= more * ANSWER_SECONDS / 0.01
