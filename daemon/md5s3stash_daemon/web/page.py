"""The status page: for people, beside /healthz and /metrics for programs. Changes nothing.

This module turns a request into an answer; `model` collects the content, and the folder `assets` has the template. The
page is complete without JavaScript; the script only fetches it again and replaces what has changed.

File names, URLs and reasons are hostile input: any producer may choose them. The template escapes every value, `_shown`
makes characters visible that would reorder or hide text, and the Content-Security-Policy only lets our own two files
run.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from md5s3stash.cache import connect_redis
from md5s3stash.console import cut_middle, duration, printable
from md5s3stash.scheme import BucketBase, BucketScheme
from md5s3stash.settings import RedisSettings, Settings, StashSettings
from md5s3stash.version import running_version
from md5s3stash_daemon.config.settings import (
    DeliverySettings,
    FixitySettings,
    HttpSettings,
    ProvenanceSettings,
    SpoolSettings,
)
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import MAX_COUNTED, Metrics
from md5s3stash_daemon.spool.entry import INCOMING, STATES
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import WORDS
from md5s3stash_daemon.web.display_names import clock_time, iso_time, retry_command, shell_word
from md5s3stash_daemon.web.model import Gatherer, View
from md5s3stash_daemon.web.plot import PLOT_HEIGHT, SPARK_HEIGHT, bars, spark
from md5s3stash_daemon.web.search import Found, search

# If Redis hangs, the page must not: it then shows the rest.
_REDIS_SECONDS = 2.0

# Types that the thumbnail server shows, as the daemon calls them.
_PICTURES = frozenset(
    (
        *(f"image/{kind}" for kind in ("avif", "bmp", "gif", "jp2", "jpeg", "png", "tiff", "webp")),
        *("application/epub+zip", "application/pdf", "image/heic", "image/heif", "image/svg+xml"),
        "image/vnd.adobe.photoshop",
    )
)
# What libmagic calls the videos and sounds that the thumbnail server makes a picture of.
STILLS = frozenset(
    [f"video/{kind}" for kind in ("3gpp", "mp4", "mpeg", "quicktime", "webm", "x-m4v", "x-matroska", "x-msvideo")]
    # From libmagic 5.46 on.
    + ["video/MP2T"]
    + [f"audio/{kind}" for kind in ("flac", "mpeg", "ogg", "x-aiff", "x-hx-aac-adts", "x-m4a", "x-wav")]
)

_MEANINGS = {
    "incoming": "dropped, not claimed yet",
    "active": "being stashed",
    "deferred": "waiting for a retry",
    "hold": "held, waiting for you",
    "failed": "failed, waiting for you",
}

_STATIC = {
    "/status.css": "text/css; charset=utf-8",
    "/status.js": "text/javascript; charset=utf-8",
    "/favicon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: HTTPStatus
    content_type: str
    body: bytes


class StatusPage:
    """Answers for the paths of the page. Safe to share between threads."""

    def __init__(self, settings: Settings, health: Health, metrics: Metrics) -> None:
        redis, http = settings[RedisSettings], settings[HttpSettings]
        spool = Spool(settings[SpoolSettings].dir, Ignored(settings[SpoolSettings].ignore))
        assert redis.url is not None, "checked when the settings were read"
        client = connect_redis(redis.url, min(redis.timeout_seconds, _REDIS_SECONDS))
        self._ledger = LedgerReader(client, redis.prefix, settings[StashSettings].bases()[0])
        self._index = settings[ProvenanceSettings].index
        self._gatherer = Gatherer(
            spool,
            self._ledger,
            health,
            metrics,
            settings[FixitySettings].period_days,
            compares=settings[DeliverySettings].still_seconds > 0,
        )
        self._hosts = frozenset({"localhost", *http.hosts})
        self._page = _environment(http.thumbnails_url, http.thumbnail_icons).get_template("page.html")
        self._static = {
            path: Answer(HTTPStatus.OK, content_type, files(__package__).joinpath("assets", path[1:]).read_bytes())
            for path, content_type in _STATIC.items()
        }
        self._facts = {
            "bases": [_place(base) for base in settings[StashSettings].bases()],
            "incoming": spool.path_of(INCOMING),
            "host": socket.gethostname(),
        }
        self.headers = _security_headers(http.thumbnails_url)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """To be entered while the page is served."""
        with self._gatherer.watching():
            yield

    def answer(self, path: str, query: str, host: str | None) -> Answer | None:
        """The answer for a path; None if it does not exist."""
        if path != "/" and path not in self._static:
            return None
        if not self._is_ours(host):
            return _refused(
                HTTPStatus.FORBIDDEN, "This page is not served under this host name: see http.hosts in the settings."
            )
        if path in self._static:
            return self._static[path]
        try:
            wanted = parse_qs(query, max_num_fields=10, errors="surrogateescape").get("q", [""])[0]
        except ValueError:
            return _refused(HTTPStatus.BAD_REQUEST, "The query is not valid.")
        found = search(self._ledger, wanted, index=self._index) if wanted.strip() else None
        return Answer(HTTPStatus.OK, "text/html; charset=utf-8", self._rendered(self._gatherer.view(), found))

    def _rendered(self, view: View, found: Found | None) -> bytes:
        page = self._page.render(view=view, states=_states(view), plot=bars(view.minutes), found=found, **self._facts)
        # Half a surrogate pair that got past `_shown` must not break the page.
        return page.encode("utf-8", "replace")

    def _is_ours(self, host: str | None) -> bool:
        """Whether the browser asked for one of our host names. Another site's name may resolve to this address too (DNS
        rebinding), and that site's pages could then read ours. An IP address is safe.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.rstrip(".") in self._hosts or _is_address(name)


@dataclass(frozen=True, slots=True)
class _State:
    name: str
    meaning: str
    files: int | None
    is_full: bool
    oldest: float | None
    line: str
    area: str


def _states(view: View) -> list[_State]:
    shown = []
    for state in STATES:
        depth = view.depths.get(state)
        course = spark([minute.depths.get(state) for minute in view.minutes])
        files_there = None if depth is None else depth.files
        is_full = files_there is not None and files_there >= MAX_COUNTED
        oldest = None if depth is None else depth.oldest
        shown.append(_State(state, _MEANINGS[state], files_there, is_full, oldest, course.line, course.area))
    return shown


def _place(base: BucketBase) -> str:
    return f"s3://{base.base}" if base.scheme is BucketScheme.SIMPLE else f"s3://{{0-9a-z}}.{base.base}"


@functools.cache
def _environment(thumbnails_url: str | None, shows_icons: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("md5s3stash_daemon.web", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        # The other files are not reloaded either: an upgrade under a running daemon must not change half of its page.
        auto_reload=False,
    )
    environment.filters |= {
        "thousands": lambda number: f"{number:,}",
        "duration": duration,
        "clock": clock_time,
        "iso": iso_time,
        "retry": retry_command,
        "word": shell_word,
        "short": lambda text: cut_middle(printable(text), 72),
        "key": lambda path: hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest(),
        "query": lambda text: "/?" + urlencode({"q": text}, errors="surrogateescape"),
        "thumbnail": lambda place, size: f"{thumbnails_url}/clip/{size}/{place}",
        "viewer": lambda place, name: f"{thumbnails_url}/view/{place}#{_name_query(name)}",
    }
    environment.globals |= {
        "has_thumbnail": lambda mime_type: thumbnails_url is not None and mime_type in _PICTURES | STILLS,
        "has_icons": thumbnails_url is not None and shows_icons,
        "has_thumbnails": thumbnails_url is not None,
        "plot_height": PLOT_HEIGHT,
        "spark_height": SPARK_HEIGHT,
        "version": running_version(),
        "waiting_words": WORDS,
    }
    return environment


def _shown(value: Any) -> Any:
    """Makes every value on the page printable: on one line, with every character visible."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _name_query(name: str) -> str:
    """For the viewer. Behind a `#` it is not sent to the thumbnail server, nor to a cache in front."""
    return urlencode({"name": cut_middle(printable(name), 200)})


def _security_headers(thumbnails_url: str | None) -> Sequence[tuple[str, str]]:
    pictures = "'self'"
    if thumbnails_url is not None:
        parts = urlsplit(thumbnails_url)
        pictures += f" {parts.scheme}://{parts.netloc}"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        f"img-src {pictures}; base-uri 'none'; frame-ancestors 'none'"
    )
    return (
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(status: HTTPStatus, reason: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{reason}\n".encode())
