"""HTTP: `/by-url?url=…` and `/thumb/{id}` answer with a redirect to the immutable address of the picture."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import tornado.web

from md5s3stash.errors import RedisUnavailable
from md5s3stash_thumbnailer.errors import OriginalNotFound, Overloaded
from md5s3stash_thumbnailer.lookup.icons import MIME_TYPE, icon
from md5s3stash_thumbnailer.lookup.known import Known
from md5s3stash_thumbnailer.server.handlers import BaseThumbnailHandler
from md5s3stash_thumbnailer.server.presets import Preset, unknown_preset
from md5s3stash_thumbnailer.threads import RequestThreads

# The URL may have another content tomorrow; its picture may be stashed in a minute.
_REDIRECT_CACHE_CONTROL = "public, max-age=300"
_UNKNOWN_CACHE_CONTROL = "public, max-age=60"
_DEFAULT_SIZE = {"mode": "clip", "w": "500", "h": "500"}
_THREADS = 4


def lookup_routes(known: Known, presets: Mapping[str, Preset], *, only_presets: bool, icons: bool) -> list[Any]:
    """For tornado; before the thumbnails, because an id may look like a size. With `icons` unknown ones get an icon."""
    arguments = {
        "known": known,
        "presets": presets,
        "only_presets": only_presets,
        "icons": icons,
        "threads": RequestThreads(_THREADS, "lookup"),
    }
    return [(r"/by-url", ByUrlHandler, arguments), (r"/thumb/(.+)", ByIdHandler, arguments)]


class LookupHandler(BaseThumbnailHandler):
    """The size is `preset`, or pilbox's `mode`, `w` and `h`, and its other options; all are in the address."""

    def initialize(  # type: ignore[override]
        self, known: Known, presets: Mapping[str, Preset], only_presets: bool, icons: bool, threads: RequestThreads
    ) -> None:
        super().initialize()
        self._known = known
        self._presets = presets
        self._only_presets = only_presets
        self._icons = icons
        self._threads = threads

    async def redirect_to(self, find: Callable[[], str | None], url: str = "") -> None:
        """Finds in a thread, since Redis may be slow. `url` is what is looked up, if it is one."""
        # Before Redis is asked: a wrong size is 400 whatever the URL.
        self._address("0" * 32)
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._threads, find)
        except RedisUnavailable as error:
            raise Overloaded("The ledger cannot be read at the moment") from error
        if content is None:
            await self._answer_unknown(url)
            return
        self.set_status(http.HTTPStatus.FOUND)
        # Relative, so that it is right behind every proxy.
        self.set_header("Location", "../" * (self.request.path.count("/") - 1) + self._address(content))
        self.set_header("Cache-Control", _REDIRECT_CACHE_CONTROL)
        await self.send()

    async def _answer_unknown(self, url: str) -> None:
        missing = OriginalNotFound("Nothing is stashed for this URL or record")
        if not self.services.placeholder and not self._icons:
            raise missing
        mode, width, height = self._size()
        if not self._icons:
            thumbnail = self._parse(mode, width, height, self.services.placeholder)
            await self._answer_with_placeholder(thumbnail, missing)
            return
        # Browsers show the body of a 404 too.
        self.set_status(http.HTTPStatus.NOT_FOUND)
        self.set_header("Cache-Control", _UNKNOWN_CACHE_CONTROL)
        self.set_header("Content-Type", MIME_TYPE)
        await self.send(icon(url, int(width), int(height)))

    def _size(self) -> tuple[str, str, str]:
        preset = self._preset()
        if preset is not None:
            return preset.mode, preset.width, preset.height
        mode, width, height = (self.get_query_argument(name, "") or value for name, value in _DEFAULT_SIZE.items())
        return mode, width, height

    def _preset(self) -> Preset | None:
        name = self.get_query_argument("preset", "") or (next(iter(self._presets)) if self._only_presets else "")
        if name and name not in self._presets:
            raise unknown_preset(self._presets)
        return self._presets[name] if name else None

    def _address(self, content: str) -> str:
        preset = self._preset()
        if preset is not None:
            return f"p/{preset.name}/{content}"
        mode, width, height = self._size()
        self._parse(mode, width, height, content)
        query = urlencode({name: value for name, value in self.query().items() if value})
        return f"{mode}/{width}x{height}/{content}{'?' if query else ''}{query}"


class ByUrlHandler(LookupHandler):
    """`GET|HEAD /by-url?url=…`."""

    async def get(self) -> None:
        url = self.get_query_argument("url", "")
        if not url:
            raise tornado.web.HTTPError(400, "No URL: /by-url?url=https%3A%2F%2F...")
        await self.answer(self.redirect_to(lambda: self._found(url), url))

    head = get

    def _found(self, url: str) -> str | None:
        content = self._known.by_url(url)
        if content is None:
            self._known.ask_for(url)
        return content


class ByIdHandler(LookupHandler):
    """`GET|HEAD /thumb/{id}`: the id of a record, as a message of the queue gave it."""

    async def get(self, record_id: str) -> None:
        await self.answer(self.redirect_to(lambda: self._known.by_id(record_id)))

    head = get
