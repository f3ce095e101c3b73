"""Whose request is it? The address of the connection, or what a proxy that is trusted says of it.

Each proxy adds the address that asked it to the end of X-Forwarded-For (or Forwarded, RFC 7239), and anybody may send a
list that is made up. So the list is read from its end, for as long as the one who wrote the entry is trusted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# "192.0.2.1", "192.0.2.1:47011", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:47011", and Forwarded's quotes.
_NODE = re.compile(r'"?(?:\[(?P<bracketed>[^\]]*)\](?::\d+)?|(?P<v4>[^:]*)(?::\d+)?|(?P<v6>.*))"?')
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;\s]*)', re.IGNORECASE)
# What one subscriber has of IPv6, and can choose from.
_IPV6_PREFIX = 64


def unmapped(text: str) -> Address:
    """A socket for both families gives IPv4 addresses the form of IPv6. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_trusted(peer: str, proxies: Sequence[Network]) -> bool:
    """Whether the other end of a connection is one of the proxies."""
    address = _address(peer)
    return address is not None and _is_in(address, proxies)


def client_of(peer: str, headers: Mapping[str, str], trusted: Sequence[Network]) -> str:
    """Names the client: its IPv4 address, or its network of IPv6. Empty where nothing tells clients apart: a trusted
    proxy does not say for whom it asks, or a program on this box asks, which may be a proxy, too.
    """
    address = _address(peer)
    for node in _from_the_end(headers):
        if address is None or not _is_in(address, trusted):
            break
        address = _address(node)
    # A Unix socket shows as an address of zeros.
    if address is None or address.is_loopback or address.is_unspecified or _is_in(address, trusted):
        return ""
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))


def _from_the_end(headers: Mapping[str, str]) -> Iterator[str]:
    # tornado joins the lines of one header by commas. Proxies that know only the one pass the other on as it came, and
    # nearly all of them know this one.
    if forwarded_for := headers.get("X-Forwarded-For", ""):
        yield from reversed(forwarded_for.split(","))
    else:
        for element in reversed(headers.get("Forwarded", "").split(",")):
            found = _FOR.search(element)
            yield found[1] if found else ""


def _address(node: str) -> Address | None:
    parts = _NODE.fullmatch(node.strip())
    try:
        return unmapped((parts["bracketed"] or parts["v4"] or parts["v6"] or "") if parts else "")
    except ValueError:
        return None


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
