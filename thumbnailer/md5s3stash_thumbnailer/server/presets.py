"""Presets: sizes with a name. `/p/{name}/{md5}` is what `/{mode}/{width}x{height}/{md5}?...` would be.

A site that names its sizes can change them in one place, and a server that serves nothing else cannot be made to draw
other ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import tornado.web

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer._pilbox import Image, PilboxError
from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.part import QUERY_NAMES
from md5s3stash_thumbnailer.request import OPTION_OF_QUERY_NAME, Bounds, parse_request
from md5s3stash_thumbnailer.server.answers import message_of
from md5s3stash_thumbnailer.server.handlers import BaseThumbnailHandler

# pilbox's code for an invalid part of the URL.
_URL = 5
_PRESET = re.compile(r"(?P<name>[a-z0-9][a-z0-9_-]{0,30})=(?P<mode>\w+)/(?P<w>\d+)x(?P<h>\d+)(?:\?(?P<query>.*))?")


@dataclass(frozen=True, slots=True)
class Preset:
    """`query` has pilbox's names in the query and their values."""

    name: str
    mode: str
    width: str
    height: str
    query: Mapping[str, str]


def parse_presets(texts: Sequence[str], defaults: Mapping[str, str], bounds: Bounds) -> dict[str, Preset]:
    """The presets of texts such as `card=clip/500x500?q=80`, in order. Raises SettingsError."""
    presets = {}
    for text in texts:
        found = _PRESET.fullmatch(text)
        if found is None:
            raise SettingsError(f"presets must be such as card=clip/500x500?q=80, not {text!r}")
        preset = Preset(found["name"], found["mode"], found["w"], found["h"], dict(parse_qsl(found["query"] or "")))
        _require_sound(preset, text, defaults, bounds)
        presets[preset.name] = preset
    if len(presets) < len(texts):
        raise SettingsError("presets: a name is given twice")
    return presets


def _require_sound(preset: Preset, text: str, defaults: Mapping[str, str], bounds: Bounds) -> None:
    unknown = preset.query.keys() - OPTION_OF_QUERY_NAME.keys()
    try:
        if unknown:
            raise SettingsError(f"{sorted(unknown)[0]!r} is not an option of thumbnails")
        request = parse_request(preset.mode, preset.width, preset.height, "0" * 32, preset.query, defaults, bounds)
        Image.validate_options(dict(request.options))
    except (RequestRefused, SettingsError) as error:
        raise SettingsError(f"presets: {text!r}: {error}") from error
    except PilboxError as error:
        raise SettingsError(f"presets: {text!r}: {message_of(error)}") from error


class PresetHandler(BaseThumbnailHandler):
    """`GET|HEAD /p/{name}/{md5}`. The query can only have a part and a signature; anything else has no effect."""

    def initialize(self, presets: Mapping[str, Preset], only_presets: bool) -> None:  # type: ignore[override]
        super().initialize()
        self._only_presets = only_presets
        self._presets = presets

    async def get(self, name: str, md5: str) -> None:
        self._preset = self._presets.get(name) or next(iter(self._presets.values()))
        if name not in self._presets:
            # Checks the signature: without one, the client does not learn which presets there are.
            self._parse(self._preset.mode, self._preset.width, self._preset.height, "0" * 32)
            raise unknown_preset(self._presets)
        await self.answer(self._answer(self._preset.mode, self._preset.width, self._preset.height, md5))

    head = get

    def query(self) -> Mapping[str, str]:
        part = {name: self.get_query_argument(name, "") for name in QUERY_NAMES}
        if self._only_presets and not part["t"].isdecimal() and part["t"]:
            raise RequestRefused("Invalid t: whole seconds from the beginning", _URL)
        return {**part, **self._preset.query}


def unknown_preset(presets: Mapping[str, Preset]) -> tornado.web.HTTPError:
    """The error for a preset that there is not."""
    return tornado.web.HTTPError(404, f"No such preset: the presets are {', '.join(presets)}")


def paths_of(presets: Mapping[str, Preset]) -> str:
    """The paths of a server that serves nothing else, in words."""
    named = f": {', '.join(presets)}" if presets else ""
    return f"this server shows pictures in its presets only, at /p/{{preset}}/{{md5}}{named}"


def preset_routes(presets: Mapping[str, Preset], content: str, *, only_presets: bool) -> list[Any]:
    """For tornado; `content` is the pattern of what names a content in a path."""
    arguments = {"presets": presets, "only_presets": only_presets}
    return [(rf"/p/([^/]+)/{content}", PresetHandler, arguments)] if presets else []
