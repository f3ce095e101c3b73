"""`/view/{md5}`: a page that shows the picture with OpenSeadragon, which asks the IIIF service beside it for tiles.

The page, its errors too, lets a browser run and show only what comes from this server. It is for people; a picture that
cannot be shown is a page of text with the status of its error.
"""

from __future__ import annotations

import gzip
import hashlib
import http
from functools import cache
from importlib.resources import files
from typing import Any

import tornado.web
from tornado.template import Template

from md5s3stash.objectstore import IMMUTABLE
from md5s3stash.scheme import parse_name, split_name
from md5s3stash_thumbnailer.iiif.handlers import Iiif, IiifHandler
from md5s3stash_thumbnailer.iiif.request import identifier, parse_identifier
from md5s3stash_thumbnailer.server.answers import JsonErrors
from md5s3stash_thumbnailer.server.handlers import unknown_path

# OpenSeadragon sets styles through the DOM's own interface, which style-src does not forbid.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_PAGE_TYPE = "text/html; charset=UTF-8"
_PAGE_CACHE_CONTROL = "public, max-age=300"
_TYPES = {
    "openseadragon.LICENSE.txt": "text/plain; charset=utf-8",
    "openseadragon.min.js": "text/javascript; charset=utf-8",
    "view.css": "text/css; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}


def viewer_routes(iiif: Iiif, content: str) -> list[tuple[str, type[JsonErrors], dict[str, Any]]]:
    """For tornado."""
    return [(r"/view/assets/([^/]+)/([^/]+)", AssetHandler, {}), (rf"/view/{content}", ViewHandler, {"iiif": iiif})]


class ViewHandler(IiifHandler):
    """`GET|HEAD /view/{md5}`."""

    kind = "view"

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Referrer-Policy", "no-referrer")

    async def get(self, name: str) -> None:
        await self.answer(self._answer(name))

    head = get

    async def _answer(self, name: str) -> None:
        if parse_name(name.partition(";")[0]) is None:
            raise tornado.web.HTTPError(404, "The address of a picture ends in its md5, 32 hexadecimal digits")
        await self.admit()
        asked = parse_identifier(name)
        width, height = await self.size_of(asked)
        # Shown without JavaScript.
        thumbnail = f"{asked.content}?{asked.part}" if asked.part else asked.content
        texts = {"md5": split_name(asked.content)[1], "identifier": identifier(asked), "thumbnail": thumbnail}
        shows_damaged = self.services.render_limits.truncated
        texts |= {"part": _shown_part(asked.part), "width": f"{width:,}", "height": f"{height:,}"}
        page = self._page("view.html", **texts, shows_damaged=shows_damaged)
        await self.send_document(page, _PAGE_TYPE, _PAGE_CACHE_CONTROL)

    def error_body(self, status: int, code: int, message: str) -> bytes:
        self.set_header("Content-Type", _PAGE_TYPE)
        is_missing = status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        heading = "There is no picture here" if is_missing else "The picture cannot be shown"
        return self._page("error.html", heading=heading, status=status, reason=message)

    def _page(self, name: str, **values: str | int) -> bytes:
        """Its links are relative, so that they are right behind every proxy."""
        root = "../" * (self.request.path.count("/") - 1)
        return _template(name).generate(root=root, assets=f"{root[3:]}assets/{_digest()}", **values)


class AssetHandler(JsonErrors):
    """`GET|HEAD /view/assets/{digest of all assets}/{name}`"""

    def get(self, digest: str, name: str) -> None:
        if name not in _TYPES:
            raise unknown_path()
        # While releases change, a page may come from one server and this request to the next.
        self.set_header("Cache-Control", IMMUTABLE if digest == _digest() else "no-cache")
        self.set_header("Content-Type", _TYPES[name])
        self.set_header("Vary", "Accept-Encoding")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(_compressed(name))
        else:
            self.finish(_asset(name))

    head = get


def _shown_part(part: str) -> str:
    """For people: `page 2`, `at 12.5 s`; empty for the whole or the first page."""
    name, _, value = part.partition("=")
    return {"page": f"page {value}", "t": f"at {value} s"}.get(name, "")


@cache
def _template(name: str) -> Template:
    return Template(_asset(name))


@cache
def _asset(name: str) -> bytes:
    return files(__package__).joinpath("assets", name).read_bytes()


@cache
def _compressed(name: str) -> bytes:
    return gzip.compress(_asset(name), mtime=0)


@cache
def _digest() -> str:
    """Of all assets, so that each release's have addresses of their own, which browsers keep."""
    return hashlib.sha256(b"".join(map(_asset, sorted(_TYPES)))).hexdigest()[:16]
