"""May this URL be fetched? Decided by its form, and at connect time by every address that its host resolves to.

A box with an IAM role must not be tricked into reading its own metadata service or its neighbours (CWE-918). The text
of a URL is not enough to decide: a name may resolve to any address, a resolver may answer differently the second time,
and 2130706433 is 127.0.0.1. So the guard resolves once, checks the answer, and connects to that same answer.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote, urlsplit, urlunsplit

from md5s3stash.errors import SourceRefused, SourceUnavailable

Network = IPv4Network | IPv6Network
SocketOptions = Sequence[tuple[int, int, int | bytes]]

# The IANA special-purpose registries of 2025, spelt out: what `ipaddress.is_global` says changed between releases of
# 3.11 and 3.12. Blocks that are reachable but serve no web page (protocol assignments, old relays) are refused as
# well.
_REFUSED_V4 = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared address space of a carrier"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata service"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "reserved for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved for benchmarks"),
        ("198.51.100.0/24", "reserved for documentation"),
        ("203.0.113.0/24", "reserved for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_V6 = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "a local IPv4 translator"),
        ("2001::/23", "reserved for protocols, Teredo among them"),
        ("2001:db8::/32", "reserved for documentation"),
        ("2002::/16", "a 6to4 tunnel"),
        ("3fff::/20", "reserved for documentation"),
        ("fc00::/7", "private (unique local)"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)
# IANA gives out global unicast addresses from here alone; old and future forms (v4-compatible, site-local) lie outside.
_GLOBAL_V6 = IPv6Network("2000::/3")
# Two forms that really carry traffic to the IPv4 address in their last 32 bits: v4-mapped, and NAT64 with its well-
# known prefix, by which a host with IPv6 alone reaches public IPv4 origins.
_V4_INSIDE_V6 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

# A hostile name may have hundreds of addresses that do not answer; each costs one connect time-out.
_ADDRESSES_TRIED = 8

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Also within a value: it may be a URL.
_SECRET = re.compile(
    r"(?:signature|credential|token|secret|passw|pwd|sig|key|jwt|hmac|session|policy|\bhdn)[^=/]*=|\b(?:auth|pass)=",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NetGuard:
    """Refuses every address that is not public, except those in `allowed_networks`."""

    allowed_networks: tuple[Network, ...] = ()

    def refusal(self, address: str) -> str | None:
        """Why this IP address may not be connected to, in words; None where it may."""
        try:
            parsed = _reached(address)
        except ValueError:
            return f"{address} is not an IP address"
        if any(parsed in network for network in self.allowed_networks):
            return None
        table = _REFUSED_V4 if isinstance(parsed, IPv4Address) else _REFUSED_V6
        for network, kind in table:
            if parsed in network:
                return f"{address} is {kind}"
        if isinstance(parsed, IPv6Address) and parsed not in _GLOBAL_V6:
            return f"{address} is not global unicast"
        return None

    @staticmethod
    def check_url(url: str) -> None:
        """Raises SourceRefused unless the URL is http or https, names a host, and holds no credentials.

        It depends on no setting, so callers without a guard apply it too.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise SourceRefused("not a valid URL") from error
        if parts.scheme not in ("http", "https"):
            raise SourceRefused("only http and https URLs are fetched")
        if "@" in parts.netloc:
            raise SourceRefused("a URL must not hold a user name or password: give them with -u or --netrc")
        # Parsers disagree about a backslash or a blank in the host: the host we check may not be the host they connect
        # to.
        if not (host or "").strip(".") or port == 0 or _CONTROL.search(url) or re.search(r"[\\\s]", parts.netloc):
            raise SourceRefused("not a valid URL")

    def create_connection(
        self,
        host: str,
        port: int,
        timeout: float | None,
        source_address: tuple[str, int] | None = None,
        socket_options: SocketOptions | None = None,
    ) -> socket.socket:
        """A TCP connection to one of the addresses of `host`, all of which are allowed; `timeout` is for each address.

        Raises SourceRefused before the first packet, SourceUnavailable where the name does not resolve, and OSError
        where no address answers.
        """
        found = _resolve(host, port)
        for _, address in found:
            # One bad address among good ones refuses the name: the owner of its DNS decides which of them comes first.
            if (reason := self.refusal(address[0])) is not None:
                raise SourceRefused(
                    f"{host} is not fetched: {reason}; if this is intended, add its network to urls.allowed_networks"
                )
        failure = OSError(f"{host} has no address")
        for family, address in found[:_ADDRESSES_TRIED]:
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                for option in socket_options or ():
                    connection.setsockopt(*option)
                connection.settimeout(timeout)
                if source_address is not None:
                    connection.bind(source_address)
                connection.connect(address)
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure


def with_ascii_host(url: str) -> str:
    """The URL of that form whose host is as it is sent: an international name in its xn-- form. Raises SourceRefused
    for a name that has none.
    """
    if url.isascii() or (host := urlsplit(url).hostname) is None or host.isascii():
        return url
    # Few URLs need it, and the command starts sooner without it.
    import idna

    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    try:
        return urlunsplit(parts._replace(netloc=idna.encode(host, uts46=True).decode() + port))
    except idna.IDNAError as error:
        raise SourceRefused(f"{host!r} is not a host name") from error


def printable_url(url: str) -> str:
    """The URL for messages and logs: no user name, no password, no value of a parameter that grants access."""
    try:
        parts = urlsplit(url)
        query = "&".join(map(_without_secret, parts.query.split("&")))
        # A fragment is not sent, and some origins put a token there.
        shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=""))
    except ValueError:
        shown = re.sub(r"//[^/]*@", "//", url.partition("?")[0])
    return _CONTROL.sub("?", shown)


def _without_secret(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}=..." if equals and _SECRET.search(unquote(parameter)) else parameter


def _reached(address: str) -> IPv4Address | IPv6Address:
    """The address that packets would reach: an IPv4 address inside an IPv6 one counts as IPv4."""
    parsed = ip_address(address)
    if any(parsed in network for network in _V4_INSIDE_V6):
        return IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int] | tuple[str, int, int, int]]]:
    try:
        answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise SourceUnavailable(f"{host} does not resolve: {error.strerror}") from error
    except ValueError as error:  # a label that is empty or too long: IDNA says so with a UnicodeError
        raise SourceRefused(f"{host!r} is not a host name") from error
    return [(family, address) for family, _, _, _, address in answers]  # type: ignore[misc]
