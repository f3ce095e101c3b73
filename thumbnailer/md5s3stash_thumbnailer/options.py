"""Parses the command line and the environment into one checked `Settings`.

Options are pilbox's and tornado's and a few of our own. pilbox's `workers` is the number of render processes behind the
server process. `implicit_base_url`, `ca_certs`, `validate_cert`, `user_agent` and the proxy options are for pilbox's
fetching from URLs, which this server never does: they are accepted without effect. `content_type_from_image` is always
on.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tornado.options
from tornado.options import define, options

from md5s3stash.errors import SettingsError
from md5s3stash.processors import usable_processors
from md5s3stash.scheme import parse_name
from md5s3stash_thumbnailer._pilbox import PILBOX, Image, ImageHandler, PilboxError
from md5s3stash_thumbnailer.config.flags import refuse_unclear_flags
from md5s3stash_thumbnailer.config.formats import auto_formats
from md5s3stash_thumbnailer.config.place import Stash
from md5s3stash_thumbnailer.config.site import SiteSettings, site_settings
from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.request import MODES, OPTION_OF_QUERY_NAME, Bounds, parse_options

if TYPE_CHECKING:
    from md5s3stash_thumbnailer.cache.originals import FetchLimits
    from md5s3stash_thumbnailer.render.pipeline import RenderLimits
    from md5s3stash_thumbnailer.workers.pool import PoolLimits

log = logging.getLogger(__name__)

_MIB = 1024 * 1024

PROGRAM = "md5s3stash-thumbnailer"

DESCRIPTION = "serves thumbnails of stashed pictures at /{mode}/{width}x{height}/{md5}"

EPILOG = f"""\
examples:
  BUCKET_BASE=my-bucket/originals md5s3stash-thumbnailer --port=8888 --cache-dir=/var/cache/thumbnailer
  curl -o small.jpg http://127.0.0.1:8888/clip/300x300/3e25960a79dbc69b674cd4ec67a72c62

Runs until SIGTERM or SIGINT, and then finishes the requests in progress. A value follows an equals sign: --port=8888;
a switch may have one too: --webp=false. Names may be written with underscores instead of dashes. --config=FILE reads
a file of lines such as port = 8888.

exit status: 0 stopped on request, 1 the port is in use, 2 the options or settings are wrong.

environment: BUCKET_BASE, BUCKET_SCHEME, KEY_TEMPLATE, DERIVATIVE_PREFIXES, S3_ENDPOINT: where the originals are; the
AWS_... variables of boto3; CACHE_DIRECTORY, if --cache-dir is not given; REDIS_URL and MD5S3STASH_REDIS_PREFIX, for
/by-url and /thumb/{{id}}.

pilbox is installed with a command of its own, because it asks for releases of 2018: pip install --no-deps {PILBOX}
"""

define("address", default="", help="address to listen on; empty: all addresses")
define("auto_formats", multiple=True, help="formats for clients that accept them: avif, webp or best; default: none")
define("cache_dir", default="", help="directory for originals; default: CACHE_DIRECTORY, else a temporary one")
define("cache_bytes", type=int, default=1024 * _MIB, help="most bytes of originals and copies of them in cache_dir")
define(
    "client_share",
    type=float,
    default=0.25,
    help="largest part of this server that one client of IIIF may use in the long run, 0 to 1; 0: no bound",
)
define(
    "iiif",
    type=bool,
    default=True,
    help="serve the IIIF Image API at /iiif/3/{md5} and /iiif/2/{md5}, and the viewer at /view/{md5}",
)
define(
    "iiif_rights",
    default="",
    help="URI of the license or rights statement of all pictures, for info.json: of creativecommons.org or "
    "rightsstatements.org; default: none",
)
define("kinds", default="all", help="files to show beside pictures: all, none, or names such as pdf between commas")
define("max_original_bytes", type=int, default=256 * _MIB, help="largest original, in bytes")
define("max_original_pixels", type=int, default=100_000_000, help="largest original to decode as a whole, in pixels")
define(
    "max_queue", type=int, default=128, help="most requests that wait for an original, and most that wait for a worker"
)
define("max_shown_pixels", type=int, default=1_000_000_000, help="largest original to show at all, in pixels")
define(
    "placeholder",
    default="",
    help="md5 of the picture to show, with status 404, if nothing is stashed under the md5 asked for",
)
define(
    "public_url",
    default="",
    help="address under which clients reach the server, such as https://images.example.org, for the links of IIIF; "
    "default: what a trusted proxy says, else the address that the request came in at",
)
define(
    "pyramid_pixels",
    type=int,
    default=2_000_000,
    help="cut regions of larger originals, in pixels, from a pyramid in the cache; 0: only of those that are too large "
    "to be decoded as a whole",
)
define("pyramid_timeout", type=float, default=300, help="timeout in seconds for making a pyramid")
define("queue_timeout", type=float, default=10, help="longest wait for a worker, in seconds")
define(
    "reduced_side",
    type=int,
    default=1024,
    help="longest side, in pixels, of the reduced copy of a large original that thumbnails are cut from; 0: none",
)
define("render_timeout", type=float, default=30, help="rendering timeout in seconds")
define("stop_timeout", type=float, default=30, help="seconds to let running requests finish on SIGTERM or SIGINT")
define(
    "trusted_proxies",
    multiple=True,
    help="addresses or networks of the proxies whose Forwarded or X-Forwarded-For, -Host and -Proto headers give the "
    "client and the public address, separated by commas; default: none",
)
define(
    "url_keys",
    multiple=True,
    help="secret keys of signed URLs, separated by commas: every request needs a signature that one of them made; "
    "write them into the file of --config, where other users do not see them; default: no signature is needed",
)
define(
    "truncated",
    type=bool,
    default=False,
    help="show a damaged picture as far as it can be decoded, for minutes and with the header X-Truncated, "
    "instead of answering 415",
)
define("version", type=bool, default=False, help="show the version and exit")
define("webp", type=bool, default=False, help="the same as webp in auto_formats")
define(
    "worker_memory", type=int, default=1024 * _MIB, help="most bytes of memory that a worker may use for one picture"
)

for _name in ("max-resize-width", "max-resize-height"):
    # pilbox's 15,000 would let one request ask for 900 MB. Its option stays; tornado has no public way to give an
    # option another default that --help shows as well.
    options._options[_name].default = 4096
options._options["quality"].help = "default quality of JPEG and WebP, 0-100 or keep; 90"  # pilbox's says 1-99

refuse_unclear_flags(options)

_AT_LEAST_ONE = (
    *("max_operations", "max_original_bytes", "max_original_pixels", "max_queue", "max_requests"),
    *("max_resize_height", "max_resize_width"),
)
_SECONDS = ("pyramid_timeout", "queue_timeout", "render_timeout", "stop_timeout", "timeout")
# With less a worker could not even draw ordinary thumbnails.
_LEAST_WORKER_MEMORY = 64 * _MIB
# Keys that people make up are shorter, and can be guessed.
_LEAST_KEY_CHARACTERS = 16
# A copy takes three or four bytes per pixel, also on disk.
_LEAST_REDUCED, _LARGEST_REDUCED = 256, 4096
_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
# All that may stand there (Presentation API 3.0, rights).
_RIGHTS = re.compile(
    r"https?://(?:creativecommons\.org/(?:licenses|publicdomain)|rightsstatements\.org/vocab)/[\w./-]+"
)


@dataclass(frozen=True, slots=True)
class IiifSettings:
    """The URL of the server has no slash at its end. `client_share` is the part of the server that a client may use."""

    public_url: str
    rights: str
    client_share: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server runs with. `defaults` are pilbox's options; `proxies` know the client and the public URL; `iiif`
    is None if it is off.
    """

    stash: Stash
    address: str
    port: int
    workers: int
    cache_directory: Path
    cache_bytes: int
    bounds: Bounds
    defaults: Mapping[str, str]
    fetch_limits: FetchLimits
    render_limits: RenderLimits
    pool_limits: PoolLimits
    stop_timeout_seconds: float
    placeholder: str
    auto_formats: tuple[str, ...]
    url_keys: tuple[str, ...]
    proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    iiif: IiifSettings | None
    missing: Mapping[str, str]  # the name of a kind, or `faces`, and what it lacks
    site: SiteSettings


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError for the first wrong value. `arguments` begin with the name of the program."""
    _parse(arguments)
    _check()
    # These import Pillow's plugins and the server, which --help does not need.
    from md5s3stash_thumbnailer.cache.originals import FetchLimits
    from md5s3stash_thumbnailer.render import faces, kinds
    from md5s3stash_thumbnailer.render.pipeline import RenderLimits
    from md5s3stash_thumbnailer.workers.pool import PoolLimits

    shown, missing = kinds.chosen(options.kinds)
    missing |= faces.missing()
    stash = Stash.from_environment(environment)
    placeholder = parse_name(options.placeholder) or ""
    if placeholder:
        # Raises SettingsError if it is in a collection and keys have none.
        stash.base.address_of(placeholder)
    bounds = Bounds(options.max_resize_width, options.max_resize_height, options.max_operations)
    defaults = _defaults(bounds)
    return Settings(
        stash=stash,
        address=options.address,
        port=options.port,
        workers=options.workers or usable_processors(),
        cache_directory=_cache_directory(environment),
        cache_bytes=options.cache_bytes,
        bounds=bounds,
        defaults=defaults,
        fetch_limits=FetchLimits(options.max_original_bytes, options.timeout, options.max_requests, options.max_queue),
        render_limits=RenderLimits(
            *(options.max_original_pixels, bounds.max_pixels, options.reduced_side),
            *(options.max_shown_pixels, options.pyramid_pixels, options.truncated),
            kinds=shown,
            icons=options.icons,
        ),
        pool_limits=PoolLimits(
            *(options.render_timeout, options.pyramid_timeout),
            *(options.worker_memory, options.max_queue, options.queue_timeout),
        ),
        stop_timeout_seconds=options.stop_timeout,
        placeholder=placeholder,
        auto_formats=auto_formats([*options.auto_formats, *(["webp"] if options.webp else [])]),
        url_keys=tuple(options.url_keys),
        proxies=_proxies(),
        iiif=_iiif(),
        missing=missing,
        site=site_settings(environment, defaults, bounds, secret=_secret()),
    )


def _parse(arguments: Sequence[str]) -> None:
    # A render worker imports this module, too.
    from md5s3stash import console

    program, *given = arguments
    if {"--help", "-h"} & set(given):
        help_text = io.StringIO()
        options.print_help(help_text)
        console.write(f"{help_text.getvalue()}{EPILOG}")
        raise SystemExit(0)
    if {"--version", "-version"} & set(given):
        console.write(console.version_line(PROGRAM))
        raise SystemExit(0)
    for argument in given:
        # One by one, because tornado's errors do not name the argument.
        _parse_one(program, argument)
    try:
        options.run_parse_callbacks()
    except AttributeError as error:
        raise SettingsError(f"logging: {options.logging!r} must be one of debug, info, warning, error, none") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"the log options: {error}") from error


def _parse_one(program: str, argument: str) -> None:
    name = argument.partition("=")[0]
    if not name.startswith("-") or name.lstrip("-") not in options:
        # tornado would print its whole help first.
        raise SettingsError(f"unknown option {name!r} (see {PROGRAM} --help)")
    try:
        tornado.options.parse_command_line([program, argument], final=False)
    except SettingsError:
        raise
    except Exception as error:
        # The file of --config is Python code, which may raise any error.
        raise SettingsError(f"{name}: {' '.join(str(error).split())} (see {PROGRAM} --help)") from error


def _check() -> None:
    for name, option in options._options.items():
        # The file of --config can say None.
        if option.value() is None and option.default is not None:
            raise SettingsError(f"{name} must have a value, not None")
    for name in _AT_LEAST_ONE:
        _require(getattr(options, name) >= 1, name, "must be at least 1")
    for name in _SECONDS:
        seconds = getattr(options, name)
        _require(math.isfinite(seconds) and seconds > 0, name, "must be a number of seconds above 0")
    _require(0 <= options.port <= 65535, "port", "must be between 0 and 65535")
    for name in ("max_shown_pixels", "pyramid_pixels"):
        _require(getattr(options, name) >= 0, name, "must be 0 or more")
    reduced_is_sound = options.reduced_side == 0 or _LEAST_REDUCED <= options.reduced_side <= _LARGEST_REDUCED
    _require(reduced_is_sound, "reduced_side", f"must be 0 or between {_LEAST_REDUCED} and {_LARGEST_REDUCED}")
    _require(0 <= options.client_share <= 1, "client_share", "must be between 0 and 1")
    _require(options.workers >= 0, "workers", "must be 0 (one per core) or more")
    _require(options.worker_memory >= _LEAST_WORKER_MEMORY, "worker_memory", f"must be at least {_LEAST_WORKER_MEMORY}")
    _require(
        options.cache_bytes >= options.max_original_bytes,
        "cache_bytes",
        f"must hold the largest original, max_original_bytes={options.max_original_bytes}",
    )
    is_sound = not options.placeholder or parse_name(options.placeholder)
    _require(is_sound, "placeholder", "must be 32 hexadecimal digits, or these after a collection and a slash")
    if any(len(key) < _LEAST_KEY_CHARACTERS for key in options.url_keys):
        # Without the value, which is a secret.
        raise SettingsError(f"url_keys must each have {_LEAST_KEY_CHARACTERS} characters or more")
    _require(options.mode is None or options.mode in MODES, "mode", f"must be one of {', '.join(sorted(MODES))}")
    unknown = set(options.allowed_operations) - set(ImageHandler.OPERATIONS)
    _require(not unknown, "allowed_operations", f"must be of {', '.join(ImageHandler.OPERATIONS)}")
    allowed = set(options.allowed_operations or ImageHandler.OPERATIONS)
    _require(
        set((options.operation or "resize").split(",")) <= allowed,
        "operation" if options.operation else "allowed_operations",
        "must include the default operation",
    )


def _iiif() -> IiifSettings | None:
    _require(
        not options.public_url or _PUBLIC_URL.fullmatch(options.public_url),
        "public_url",
        "must be an http or https URL",
    )
    _require(
        not options.iiif_rights or _RIGHTS.fullmatch(options.iiif_rights),
        "iiif_rights",
        "must be a URI of creativecommons.org or rightsstatements.org",
    )
    if not options.iiif or options.presets_only:
        return None
    secret = _secret()
    if secret:
        # Viewers cannot sign, and without a signature they would get what thumbnails demand one for.
        log.warning("event=iiif_off reason='%s is set, and requests of IIIF have no signature'", secret)
        return None
    return IiifSettings(options.public_url.rstrip("/"), options.iiif_rights, options.client_share)


def _proxies() -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in options.trusted_proxies)
    except ValueError as error:
        raise SettingsError(f"trusted_proxies must be addresses or networks: {error}") from error


def _secret() -> str | None:
    """The option that demands a signature of each request, if there is one."""
    return next((name for name in ("url_keys", "client_key", "client_name") if getattr(options, name)), None)


def _require(holds: object, name: str, rule: str) -> None:
    if not holds:
        value = getattr(options, name)
        raise SettingsError(f"{name} {rule}, not {','.join(value) if isinstance(value, list) else value}")


def _defaults(bounds: Bounds) -> dict[str, str]:
    """The server's values of pilbox's options, checked at the start so that a wrong one does not fail all requests."""
    from md5s3stash_thumbnailer.render.faces import require_detector
    from md5s3stash_thumbnailer.server.answers import message_of

    values = {name: getattr(options, name, None) for name in OPTION_OF_QUERY_NAME.values()}
    defaults = {name: str(value) for name, value in values.items() if value is not None}
    try:
        parse_options({}, defaults, bounds)
        Image.validate_options(defaults)
    except RequestRefused as error:
        raise SettingsError(str(error)) from error
    except PilboxError as error:
        raise SettingsError(message_of(error)) from error
    if defaults.get("position") == "face":
        require_detector()
    return defaults


def _cache_directory(environment: Mapping[str, str]) -> Path:
    # systemd's name for the directory of CacheDirectory=.
    given = options.cache_dir or environment.get("CACHE_DIRECTORY")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"md5s3stash-thumbnailer-{os.geteuid()}"
