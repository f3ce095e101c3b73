"""HTTP: the paths of IIIF's Image API below /iiif/3/ and /iiif/2/, and the manifest of each picture.

Answers, errors and headers are those of thumbnails, with what the API adds: CORS, links, and the choice of JSON-LD.
"""

from __future__ import annotations

import hashlib
import http
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tornado.web

from md5s3stash.scheme import split_name
from md5s3stash_thumbnailer._pilbox import RENDERER
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.iiif import info
from md5s3stash_thumbnailer.iiif.address import forwarded_address, own_address
from md5s3stash_thumbnailer.iiif.manifest import MEDIA_TYPE, manifest
from md5s3stash_thumbnailer.iiif.request import (
    Offer,
    Version,
    canonical_path,
    identifier,
    parse_identifier,
    parse_request,
)
from md5s3stash_thumbnailer.part import OfPart
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.pipeline import Request, Thumbnail
from md5s3stash_thumbnailer.render.region_request import SizeRequest, largest
from md5s3stash_thumbnailer.server.answers import PictureHandler
from md5s3stash_thumbnailer.server.client_address import is_trusted

# What info.json says follows from the settings too, which may change.
_INFO_CACHE_CONTROL = "public, max-age=86400"
_MAX_SIZES = 20_000


class Sizes:
    """The sizes of the originals that were asked for last, by their names (`derived_name`)."""

    def __init__(self, max_entries: int = _MAX_SIZES) -> None:
        self._max_entries = max_entries
        self._sizes: OrderedDict[str, Size] = OrderedDict()

    def get(self, name: str) -> Size | None:
        if name in self._sizes:
            self._sizes.move_to_end(name)
        return self._sizes.get(name)

    def keep(self, name: str, size: Size) -> None:
        self._sizes[name] = size
        self._sizes.move_to_end(name)
        if len(self._sizes) > self._max_entries:
            self._sizes.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Iiif:
    """What the handlers work with. `public_url` has no slash at its end; it is empty if requests show the address."""

    offer: Offer
    public_url: str = ""
    rights: str = ""
    sizes: Sizes = field(default_factory=Sizes)


def routes(iiif: Iiif, content: str) -> list[tuple[str, type[IiifHandler], dict[str, Any]]]:
    """For tornado. `content` is the pattern of what names a content in a path."""
    base = rf"/iiif/([23])/{content}"
    arguments = {"iiif": iiif}
    return [
        (rf"{base}/info\.json", InfoHandler, arguments),
        (rf"/iiif/3/{content}/manifest\.json", ManifestHandler, arguments),
        (rf"{base}/([^/]*)/([^/]*)/([^/]*)/([^/]*)", RegionHandler, arguments),
        (base, BaseHandler, arguments),
        (r"/iiif(?:/.*)?", UnknownIiifHandler, arguments),
    ]


class IiifHandler(PictureHandler):
    """Every web page may use the answers, errors included."""

    methods = "GET, HEAD, OPTIONS"
    kind = "base"

    def initialize(self, iiif: Iiif) -> None:  # type: ignore[override]
        super().initialize()
        self.iiif = iiif

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Expose-Headers", "ETag, Link, Retry-After, X-Truncated")

    def options(self, *_: str) -> None:
        """A browser's question before a request that no form could send."""
        self.set_status(http.HTTPStatus.NO_CONTENT)
        self.set_header("Access-Control-Allow-Methods", self.methods)
        self.set_header("Access-Control-Allow-Headers", "*")
        self.set_header("Access-Control-Max-Age", "86400")
        self.set_header("Allow", self.methods)
        self.finish()

    def on_finish(self) -> None:
        self.services.metrics.iiif_answered(self.kind, self.get_status(), self.request.request_time())

    async def admit(self) -> None:
        await self.services.clients.admit(self.client)

    async def admit_work(self) -> None:
        """Before anything that may need a worker. Raises TooManyRequests."""
        await self.services.clients.admit_work(self.client)

    async def rendered(self, source: Source, request: Request, is_quick: bool) -> Thumbnail:
        # A crawler asks for thousands of tiles, each of which is quick.
        return await super().rendered(source, request, is_quick=False)

    def charge(self, seconds: float) -> None:
        self.services.clients.charge(self.client, seconds)

    async def size_of(self, asked: SizeRequest) -> Size:
        """Width and height of the upright original."""
        size = self.iiif.sizes.get(asked.derived_name)
        if size is None:
            await self.admit_work()
            answer, _ = await self.draw(self.services.originals.open_whole(asked), asked)
            size = answer.original_size
            self.iiif.sizes.keep(asked.derived_name, size)
        return size

    async def send_document(self, body: bytes, content_type: str, cache_control: str) -> None:
        """What this server says of a picture that it has; its ETag comes from its bytes."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        self.set_header("Etag", etag)
        self.set_header("Cache-Control", cache_control)
        if self.is_fresh(etag) or self.is_any_enough():
            self.set_status(http.HTTPStatus.NOT_MODIFIED)
            await self.send()
            return
        self.set_header("Content-Type", content_type)
        await self.send(body)

    def address(self, version: Version, asked: OfPart) -> str:
        """The public URL of the picture."""
        return f"{self.iiif.public_url or self._seen_address()}/iiif/{version}/{identifier(asked)}"

    def _seen_address(self) -> str:
        if is_trusted(self.request.remote_ip or "", self.services.proxies):
            forwarded = forwarded_address(self.request.headers)
            if forwarded is not None:
                return forwarded
        stream = self.request.connection.stream  # type: ignore[union-attr]
        # Of a connection that is closed nothing is known; no client reads the answer.
        return own_address(stream.socket.getsockname() if stream.socket else None)


class UnknownIiifHandler(IiifHandler):
    """Every other path below /iiif."""

    def prepare(self) -> None:
        raise tornado.web.HTTPError(404, "No such page: the paths begin with /iiif/3/{md5} or /iiif/2/{md5}")


class BaseHandler(IiifHandler):
    """`GET|HEAD /iiif/{version}/{md5}`: see info.json."""

    def get(self, version: str, name: str) -> None:
        # Relative, so that it is right behind every proxy.
        asked = identifier(parse_identifier(name))
        last = asked if "%2f" in self.request.path.lower() else split_name(asked)[1]
        self.set_header("Location", f"{last}/info.json")
        self.set_header("Cache-Control", _INFO_CACHE_CONTROL)
        self.set_status(http.HTTPStatus.SEE_OTHER)
        self.finish()

    head = get


class InfoHandler(IiifHandler):
    """`GET|HEAD /iiif/{version}/{md5}/info.json`."""

    kind = "info"

    async def get(self, version: str, name: str) -> None:
        await self.answer(self._answer(int(version), parse_identifier(name)))

    head = get

    async def _answer(self, version: Version, asked: SizeRequest) -> None:
        await self.admit()
        iiif, address = self.iiif, self.address(version, asked)
        chosen = info.media_type(version, self.request.headers.get("Accept", ""))
        etag = info.etag(version, address, iiif.offer, iiif.rights, chosen)
        self.set_header("Vary", "Accept")
        if self.is_fresh(etag):
            await self.send_not_modified(etag)
            return
        size = await self.size_of(asked)
        if self.is_any_enough():
            await self.send_not_modified(etag)
            return
        self.set_validators(etag)
        self.set_header("Content-Type", info.content_type(version, chosen))
        self.set_header("Link", info.links(version, chosen))
        await self.send(info.encoded(info.information(version, address, size, iiif.offer, iiif.rights)))

    def set_validators(self, etag: str) -> None:
        self.set_header("Etag", etag)
        self.set_header("Cache-Control", _INFO_CACHE_CONTROL)


class ManifestHandler(IiifHandler):
    """`GET|HEAD /iiif/3/{md5}/manifest.json`."""

    kind = "manifest"

    async def get(self, name: str) -> None:
        await self.answer(self._answer(parse_identifier(name)))

    head = get

    async def _answer(self, asked: SizeRequest) -> None:
        await self.admit()
        size = await self.size_of(asked)
        largest_size = largest(size, self.iiif.offer.most, enlarges=False)
        document = manifest(self.address(3, asked), identifier(asked), size, largest_size, self.iiif.rights)
        await self.send_document(info.encoded(document), MEDIA_TYPE, _INFO_CACHE_CONTROL)


class RegionHandler(IiifHandler):
    """`GET|HEAD /iiif/{version}/{md5}/{region}/{size}/{rotation}/{quality}.{format}`."""

    kind = "image"

    async def get(self, version: str, name: str, *parts: str) -> None:
        await self.answer(self._answer(int(version), name, parts))

    head = get

    async def _answer(self, version: Version, name: str, parts: Sequence[str]) -> None:
        await self.admit()
        request = parse_request(version, name, parts, self.iiif.offer)
        etag = request.etag(f"{RENDERER}, {self.services.render_limits.choices}")
        if self.is_fresh(etag):
            await self.send_not_modified(etag)
            return
        size = self.iiif.sizes.get(request.derived_name)
        if size is not None:
            # What this original cannot give is refused without a worker.
            request.plan(size)
        picture, modified = await self.draw(self.services.originals.open(request, self.admit_work), request)
        self.iiif.sizes.keep(request.derived_name, picture.original_size)
        canonical = canonical_path(version, request, picture.original_size)
        self.set_header(
            "Link",
            f'<{self.address(version, request)}/{canonical}>;rel="canonical", '
            f'<{info.profile_url(version)}>;rel="profile"',
        )
        await self.send_picture(picture, etag, modified)
