"""The benchmark of readers beside a crawler asks for what info.json announces, and its crawler counts what it gets."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path

from PIL import Image

from bench.picture_corpus import KINDS, Original
from bench.tile_crawl import read, tile_paths
from bench.tile_crawler import Crawl, run
from md5s3stash_thumbnailer.render.grid import tile_at
from tests.support.http_server import HttpServer


class Refusing(HttpServer):
    """Refuses one client."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        super().__init__(_Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        owner: Refusing = self.server.owner  # type: ignore[attr-defined]
        self.send_response(429 if self.headers["X-Forwarded-For"] == owner.refused else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_every_tile_of_the_grid_is_asked_for_once(tmp_path: Path) -> None:
    size = (1300, 700)
    path = tmp_path / "picture.jpg"
    Image.new("RGB", size).save(path)

    paths = tile_paths(Original(KINDS[0], path))

    tiles = set()
    for each in paths:
        region, output = (tuple(map(int, part.split(","))) for part in each.split("/")[4:6])
        tiles.add(tile_at(size, region, output))  # type: ignore[arg-type]
    assert len(tiles) == len(paths) == 3 * 2 + 2 * 1 + 1
    assert None not in tiles


def test_readers_and_crawler_are_clients_of_their_own() -> None:
    with Refusing("198.51.100.1") as server:
        crawled = run(Crawl(server.port, "198.51.100.1", ["/a", "/b"], connections=3, seconds=0.2))
        phase = read(server.port, "203.0.113.1", ["/a", "/b"], seconds=0.2)

    assert set(crawled) == {429}
    assert set(phase.statuses) == {200}
    assert len(phase.milliseconds) == phase.statuses[200] >= 1
