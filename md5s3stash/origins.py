"""The User-Agent, and rules for single origins: request headers and older ciphers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from md5s3stash.errors import SettingsError, SourceRefused
from md5s3stash.netguard import NetGuard, with_ascii_host
from md5s3stash.passwords import check_permissions
from md5s3stash.settings import Faults
from md5s3stash.version import distribution_version

# Scheme, host and port. Headers set for one origin are never sent to another.
Origin = tuple[str, str | None, int | None]

# Wikimedia and others ask for the name of the program, its page and a contact, and refuse clients without them.
PROJECT_PAGE = "https://github.com/tingletech/md5s3stash"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_MAX_FILE_BYTES = 1024 * 1024

# Headers that frame the request, or decide which bytes come back.
_OURS = frozenset(
    ("accept-encoding", "connection", "content-length", "expect", "host", "if-match", "if-modified-since",
     "if-none-match", "if-range", "if-unmodified-since", "proxy-authorization", "range", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OriginRules:
    """`contact` is the e-mail address or web page of the operator. `headers` hold secrets. `old_cipher_hosts` may use
    the ciphers of `transport.OLD_CIPHERS` too.
    """

    contact: str | None = None
    headers: Mapping[Origin, Mapping[str, str]] = field(default_factory=dict, repr=False)
    old_cipher_hosts: frozenset[str] = frozenset()

    def headers_for(self, url: str) -> dict[str, str]:
        """The headers for the origin of this URL: User-Agent, and those set for this origin alone."""
        set_here = self.headers.get(origin_of(url), {}) if self.headers else {}
        return {"User-Agent": user_agent(self.contact), **set_here}


@functools.cache
def user_agent(contact: str | None) -> str:
    """The program, its page, and `contact`."""
    comment = "; ".join((f"+{PROJECT_PAGE}", *([contact] if contact else [])))
    return f"md5s3stash/{distribution_version()} ({comment})"


def origin_of(url: str) -> Origin:
    """The origin of a URL that was checked."""
    parts = urlsplit(with_ascii_host(url))
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def read_headers(file: str | None) -> Mapping[Origin, Mapping[str, str]]:
    """The request headers of a file, `https://HOST NAME: VALUE` a line; none without a file.

    Raises SettingsError with a line for each error. No line quotes the file, because it holds API keys.
    """
    if file is None:
        return {}
    found: dict[Origin, dict[str, str]] = {}
    faults = Faults()
    for number, line in _lines_of(file):
        with faults.noted():
            try:
                origin, name, value = _parsed(line)
            except ValueError as error:
                raise SettingsError(f"{file}: line {number}: {error}") from None
            found.setdefault(origin, {})[name] = value
    faults.raise_any()
    return found


def _lines_of(file: str) -> Iterator[tuple[int, str]]:
    """The lines that are neither blank nor a comment, with their numbers."""
    try:
        check_permissions(file, file)
        with open(file, encoding="latin-1", newline="") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"fetch.headers_file: {file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(text) > _MAX_FILE_BYTES:
        raise SettingsError(f"{file}: has more than {_MAX_FILE_BYTES} bytes")
    for number, line in enumerate(text.split("\n"), 1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _parsed(line: str) -> tuple[Origin, str, str]:
    if not line.isascii():
        raise ValueError("not ASCII: a host is written in its xn-- form")
    url, header = (*line.split(maxsplit=1), "")[:2]
    try:
        NetGuard.check_url(url)
        parts = urlsplit(url)
    except (SourceRefused, ValueError):
        parts = None
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("the line must have the form https://HOST NAME: VALUE")
    name, colon, value = header.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError("after the host there must be a header, NAME: VALUE")
    if name.lower() in _OURS:
        raise ValueError(f"{name} cannot be set in this file")
    return origin_of(url), name, value
