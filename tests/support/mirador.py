"""Mirador, the reader of IIIF that libraries use: one release from npm, and a page with it on a server of its own."""

from __future__ import annotations

import json
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.http_server import HttpServer
from tests.support.servers import REPOSITORY

RELEASE = "4.0.0"
_SHA512 = (
    "b96b04f5eda8a9273f954bbebd5c031a14ecc9cba11ac7d9d8a7d7e822df5e24"
    "f7c201b2eaa4fdfaae4cdd5f59cfbda191d220b09ba029eb1aa30991b589afac"
)
_INSTALL_SECONDS = 300
_SETTINGS = {
    "id": "mirador",
    "window": {"allowClose": False, "sideBarOpen": False},
    "workspaceControlPanel": {"enabled": False},
    # At full detail, one pixel of the picture to one of the screen is not too near.
    "osdConfig": {"maxZoomPixelRatio": 8, "drawer": "canvas"},
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Mirador</title><link rel="icon" href="data:,">
<div id="mirador"></div>
<script src="/mirador.min.js"></script>
<script>window.mirador = Mirador.viewer(%s)</script>
</html>
"""


class MiradorServer(HttpServer):
    """Serves the page at `/`, with the manifest opened in it."""

    def __init__(self, manifest_url: str) -> None:
        settings = {**_SETTINGS, "windows": [{"manifestId": manifest_url}]}
        self.page = (_PAGE % json.dumps(settings)).encode()
        self.script = _package() / "dist" / "mirador.min.js"
        super().__init__(_Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        owner: MiradorServer = self.server.owner  # type: ignore[attr-defined]
        is_page = self.path == "/"
        body = owner.page if is_page else owner.script.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if is_page else "text/javascript")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _package() -> Path:
    directory = REPOSITORY / "build" / "npm" / f"mirador-{RELEASE}"
    if not directory.exists():
        command: list[str | Path] = [REPOSITORY / "tools" / "npm-package", f"mirador@{RELEASE}", _SHA512, directory]
        subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
    return directory
