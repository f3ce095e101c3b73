"""Under which address the world knows this server: the `id` of info.json, and the canonical links, begin with it.

It is never taken from a Host header. Any client can send one, and caches would then hand out its words to others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from md5s3stash_thumbnailer.server.client_address import unmapped

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL}){{0,126}}|\[[0-9a-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?", re.ASCII)
_MAX_HOST = 253
_MAX_PORT = 65535
_PORTS = {"http": 80, "https": 443}
# Possessive (`*+`): the header may be long, and a client may have written it.
_PAIR = re.compile(r'(\w+)\s*+=\s*+(?:"([^"]*)"|([^\s",;]*))')


def own_address(local: object) -> str:
    """The URL of the listening end of a connection, as `socket.getsockname` returns it."""
    if not isinstance(local, tuple):
        return "http://localhost"
    host = unmapped(str(local[0]).partition("%")[0])
    return f"http://{host}:{local[1]}" if host.version == 4 else f"http://[{host}]:{local[1]}"


def forwarded_address(headers: Mapping[str, str]) -> str | None:
    """The URL that a proxy says it was asked at: `Forwarded` (RFC 7239) or X-Forwarded-Host and -Proto.

    Of several values the last one counts, which is that of the nearest proxy. A proxy that sets one of the headers may
    pass on the other as a client sent it: if both are there and differ, neither counts.
    """
    found = [_from_forwarded(headers.get("Forwarded", "")), _from_x_forwarded(headers)]
    addresses = {address for address in found if address is not None}
    return addresses.pop() if len(addresses) == 1 else None


def _from_forwarded(header: str) -> str | None:
    pairs = (_PAIR.fullmatch(pair.strip()) for pair in header.rpartition(",")[2].split(";"))
    values = {pair[1].lower(): pair[2] or pair[3] or "" for pair in pairs if pair}
    return _url(values.get("proto", "http"), values.get("host", ""))


def _from_x_forwarded(headers: Mapping[str, str]) -> str | None:
    host, scheme = (headers.get(f"X-Forwarded-{name}", "").rpartition(",")[2].strip() for name in ("Host", "Proto"))
    return _url(scheme or "http", host)


def _url(scheme: str, host: str) -> str | None:
    scheme, found = scheme.lower(), _HOST.fullmatch(host.lower())
    if scheme not in _PORTS or not found or len(found[1]) > _MAX_HOST:
        return None
    port = int(found[2] or _PORTS[scheme])
    if not 0 < port <= _MAX_PORT:
        return None
    return f"{scheme}://{found[1]}" if port == _PORTS[scheme] else f"{scheme}://{found[1]}:{port}"
