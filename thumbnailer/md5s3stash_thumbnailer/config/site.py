"""The options for a site that leaves addresses of thumbnails to the server: named sizes, look-ups in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado.options import define, options

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.request import Bounds

if TYPE_CHECKING:
    from md5s3stash_thumbnailer.lookup.known import LookupSettings
    from md5s3stash_thumbnailer.server.presets import Preset

log = logging.getLogger(__name__)

define(
    "icons",
    type=bool,
    default=False,
    help="show a file that is neither a picture nor of a kind that is shown as an icon with the name of its type, for "
    "minutes and with the header X-Icon, instead of answering 415",
)
define(
    "presets",
    multiple=True,
    help="sizes with a name, for /p/{name}/{md5}, such as card=clip/500x500?q=80, separated by commas; default: none",
)
define("presets_only", type=bool, default=False, help="serve pictures in the sizes of presets alone, and no IIIF")
define(
    "queue_hosts",
    multiple=True,
    help="hosts whose URLs /by-url puts into the queue if nothing is stashed for them, separated by commas",
)
define("queue_url", default="", help="URL of the SQS queue for unknown URLs of queue_hosts; default: none")
define(
    "unknown_icons",
    type=bool,
    default=False,
    help="answer look-ups of what is not stashed with an icon of the kind of file, instead of the placeholder",
)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """`lookup` is None without a ledger. With `is_signed`, requests need a signature."""

    presets: Mapping[str, Preset]
    only_presets: bool
    lookup: LookupSettings | None
    icons: bool
    is_signed: bool


def site_settings(
    environment: Mapping[str, str], defaults: Mapping[str, str], bounds: Bounds, secret: str | None
) -> SiteSettings:
    """From the options, and REDIS_URL. `secret` is the option that demands signatures, if there is one. Raises
    SettingsError.
    """
    # It imports the server, which --help does not need.
    from md5s3stash_thumbnailer.server.presets import parse_presets

    if options.presets_only and not options.presets:
        raise SettingsError("presets_only needs presets")
    presets = parse_presets(options.presets, defaults, bounds)
    lookup = _lookup(environment, secret)
    return SiteSettings(presets, options.presets_only, lookup, options.unknown_icons, bool(secret))


def _lookup(environment: Mapping[str, str], secret: str | None) -> LookupSettings | None:
    if not environment.get("REDIS_URL") and not options.queue_url:
        return None
    from md5s3stash_thumbnailer.lookup.known import lookup_settings

    settings = lookup_settings(environment, options.queue_url, options.queue_hosts)
    if secret:
        # Anyone would learn from a redirect which address to ask for, and could not sign it.
        log.warning("event=lookup_off reason='%s is set, and redirects have no signature'", secret)
        return None
    return settings
