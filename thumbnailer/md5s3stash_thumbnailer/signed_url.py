"""URLs of thumbnails that are valid until a time, for one picture in one size: HMAC-SHA256 over path and query.

    sign("https://thumbs.example.org/clip/300x300/MD5?q=80", key, expires=1900000000)
    "https://thumbs.example.org/clip/300x300/MD5?q=80&expires=1900000000&signature=<64 hexadecimal digits>"

The signature covers `{path}?{parameters}`: as they are in the request, undecoded, sorted, without `signature`. Sorted,
because some caches sort a query. It does not cover scheme and host, which change behind a proxy.

Imports nothing from the server, so that a web application can use it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

_URL = re.compile(r"(?P<origin>(?:https?://[^/?#]+)?)(?P<path>/[!-~]*)", re.IGNORECASE)
_EXPIRES = re.compile(r"[0-9]{1,12}")


class SignatureRefused(ValueError):
    """The URL has no valid signature, or an expired one."""


def sign(url: str, key: str, expires: int) -> str:
    """The URL, or path and query, with its signature; `expires` is in seconds of the Unix epoch. Raises ValueError."""
    parts = _URL.fullmatch(url)
    if parts is None or "#" in url:
        raise ValueError(f"not an http URL or a path in ASCII without a fragment: {url!r}")
    if not key:
        raise ValueError("the key is empty")
    target = parts["path"]
    if _values(target, "expires") or _values(target, "signature"):
        raise ValueError(f"the URL is signed already: {url!r}")
    if not _EXPIRES.fullmatch(str(expires)):
        raise ValueError(f"not a time in seconds of the Unix epoch: {expires!r}")
    target = f"{target}{'&' if '?' in target else '?'}expires={expires}"
    return f"{parts['origin']}{target}&signature={_signature(target, key)}"


def is_signed(target: str) -> bool:
    """Whether a request target claims to be signed this way."""
    return bool(_values(target, "signature"))


def check(target: str, keys: Sequence[str], now: float) -> int:
    """When a request target expires, in seconds of the Unix epoch. Raises SignatureRefused."""
    signatures, times = _values(target, "signature"), _values(target, "expires")
    if len(signatures) != 1 or len(times) != 1 or not _EXPIRES.fullmatch(times[0]):
        raise SignatureRefused("Invalid signature: one expires=SECONDS and one signature=HEX are needed")
    # Bytes, because compare_digest refuses text that is not ASCII.
    given = signatures[0].encode("utf-8", "surrogatepass")
    if not any(hmac.compare_digest(given, _signature(target, key).encode()) for key in keys):
        raise SignatureRefused("Invalid signature")
    expires = int(times[0])
    if now >= expires:
        raise SignatureRefused("The signature has expired")
    return expires


def _signature(target: str, key: str) -> str:
    path, _, query = target.partition("?")
    signed = "&".join(sorted(pair for pair in query.split("&") if not pair.startswith("signature=")))
    message = f"{path}?{signed}".encode("utf-8", "surrogatepass")
    return hmac.new(key.encode("utf-8", "surrogatepass"), message, hashlib.sha256).hexdigest()


def _values(target: str, name: str) -> list[str]:
    pairs = target.partition("?")[2].split("&")
    return [pair.removeprefix(f"{name}=") for pair in pairs if pair.startswith(f"{name}=")]
