"""The addresses that the guard refuses; a refused address never gets a packet."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from md5s3stash.errors import SourceRefused, SourceUnavailable
from md5s3stash.netguard import NetGuard, printable_url

GUARD = NetGuard()
LOOPBACK_2 = NetGuard(allowed_networks=(ip_network("127.0.0.2/32"),))

REFUSED = [
    ("0.0.0.0", "unspecified"),
    ("10.1.2.3", "private"),
    ("100.64.0.1", "carrier"),
    ("100.127.255.255", "carrier"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.255", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.192", "protocols"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.0.1", "private"),
    ("198.19.255.255", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "not global unicast"),
    ("::8.8.8.8", "not global unicast"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:a9fe:a9fe", "link-local"),
    ("::ffff:0:127.0.0.1", "not global unicast"),
    ("64:ff9b::169.254.169.254", "link-local"),
    ("64:ff9b::10.0.0.1", "private"),
    ("64:ff9b:1::8.8.8.8", "translator"),
    ("64:ff9b:1:7f00:0:100::", "translator"),
    ("100::1", "not global unicast"),
    ("2001::1", "Teredo"),
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", "Teredo"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("2002:a9fe:a9fe::1", "6to4"),
    ("3fff::1", "documentation"),
    ("5f00::1", "not global unicast"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "not global unicast"),
    ("ff02::1", "multicast"),
    ("localhost", "not an IP address"),
    ("", "not an IP address"),
]

ALLOWED = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listens on 127.0.0.1 only; a new connection appears in its backlog at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def was_connected(listening: socket.socket) -> bool:
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True


@pytest.mark.parametrize(("address", "kind"), REFUSED)
def test_address_that_is_not_public_is_refused_with_its_kind(address: str, kind: str) -> None:
    refusal = GUARD.refusal(address)
    assert refusal is not None
    assert kind in refusal


@pytest.mark.parametrize("address", ALLOWED)
def test_public_address_is_allowed(address: str) -> None:
    assert GUARD.refusal(address) is None


def test_every_address_that_this_python_calls_special_is_refused() -> None:
    """Compares the table with the standard library, one address in every /16."""
    missed = [
        str(address)
        for address in (IPv4Address(number << 16) for number in range(0x10000))
        if (not address.is_global or address.is_multicast) and GUARD.refusal(str(address)) is None
    ]
    assert missed == []


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12::1"])
def test_allowed_network_is_open_in_every_spelling_of_its_addresses(address: str) -> None:
    guard = NetGuard(allowed_networks=(ip_network("10.0.0.0/8"), ip_network("fd12::/16")))
    assert guard.refusal(address) is None


@pytest.mark.parametrize("address", ["11.0.0.1", "127.0.0.1", "fd13::1", "::ffff:127.0.0.1"])
def test_allowed_network_opens_nothing_else(address: str) -> None:
    guard = NetGuard(allowed_networks=(ip_network("10.0.0.0/8"), ip_network("fd12::/16"), ip_network("::/96")))
    assert (guard.refusal(address) is None) == (address == "11.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "https://example.org:8443/a b?c=d#e",
        "HTTP://EXAMPLE.ORG/",
        "http://[2606:4700::1111]:80/",
        "http://example.org/a@b?u=x@y",
    ],
)
def test_ordinary_url_passes(url: str) -> None:
    NetGuard.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/",
        "gopher://127.0.0.1:6379/_x",
        "//example.org/",
        "example.org",
        "",
        "http://",
        "http://./",
        "http://..:80/",
        "http:///path",
        "http://:80/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:80:81/",
        "http://example.org:x/",
        "http://[::1/",
        "http://exa mple.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org/\r\nHost: other",
        "http://example.org/\x00",
        "https://user@example.org/",
        "https://user:hunter2@example.org/",
        "https://:hunter2@example.org/",
    ],
)
def test_url_of_another_form_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(SourceRefused) as caught:
        NetGuard.check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter2@example.org/a?b=c", "https://example.org/a?b=c"),
        ("https://u:hunter2@example.org:99999/", "https://example.org:99999/"),
        ("https://u:hunter2@[::1/", "https://[::1/"),
        (
            "http://h/?X-Amz-Signature=hunter2&x=1&AWSAccessKeyId=hunter2",
            "http://h/?X-Amz-Signature=...&x=1&AWSAccessKeyId=...",
        ),
        ("http://h/\x1b[31m", "http://h/?[31m"),
        ("http://h/a#access_token=hunter2", "http://h/a"),
        ("http://h/?%74oken=hunter2&x=1", "http://h/?%74oken=...&x=1"),
        ("http://h/?x=1;token=hunter2", "http://h/?x=..."),
        ("http://h/?to=https://g/?token=hunter2", "http://h/?to=..."),
        ("http://h/?to=https%3A%2F%2Fg%2F%3Ftoken%3Dhunter2", "http://h/?to=..."),
        ("http://h/?hdnea=exp=1~hmac=hunter2&Policy=hunter2&x=1", "http://h/?hdnea=...&Policy=...&x=1"),
        (
            "http://h/?auth=hunter2&pwd=hunter2&jwt=hunter2&session=hunter2",
            "http://h/?auth=...&pwd=...&jwt=...&session=...",
        ),
        ("http://h/?page=2&author=x&width=3", "http://h/?page=2&author=x&width=3"),
    ],
)
def test_printable_url_holds_no_credential_and_no_control_character(url: str, shown: str) -> None:
    assert printable_url(url) == shown


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
    ],
)
def test_no_spelling_of_loopback_gets_a_packet_unless_it_is_allowed(host: str, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(SourceRefused):
        GUARD.create_connection(host, port, timeout=5)
    assert not was_connected(listener)
    # The same spelling reaches it without the guard; otherwise the refusal above would prove little.
    opened = NetGuard(allowed_networks=(ip_network("127.0.0.0/8"), ip_network("0.0.0.0/32"), ip_network("::1/128")))
    opened.create_connection(host, port, timeout=5).close()
    assert was_connected(listener)


@pytest.mark.parametrize("host", ["localhost.", "127.0.0.1."])
def test_trailing_dot_does_not_lead_to_loopback(host: str, listener: socket.socket) -> None:
    # Some resolvers do not resolve these names.
    with pytest.raises((SourceRefused, SourceUnavailable)):
        GUARD.create_connection(host, listener.getsockname()[1], timeout=5)
    assert not was_connected(listener)


def test_name_with_one_refused_address_among_others_is_refused(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answer)
    with socket.create_server(("127.0.0.2", port)) as first:
        first.setblocking(False)
        with pytest.raises(SourceRefused, match=r"127\.0\.0\.1 is loopback.*urls\.allowed_networks"):
            LOOPBACK_2.create_connection("mixed.example", port, timeout=5)
        assert not was_connected(first)
    assert not was_connected(listener)


def test_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is allowed, later ones are 127.0.0.1."""
    port = listener.getsockname()[1]
    answers = ["127.0.0.2"]

    def rebinding(*_args: object, **_kwargs: object) -> list[object]:
        host = answers.pop() if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with (
        socket.create_server(("127.0.0.2", port)),
        LOOPBACK_2.create_connection("rebinding.example", port, timeout=5) as connection,
    ):
        assert ip_address(connection.getpeername()[0]) == ip_address("127.0.0.2")
    assert not was_connected(listener)


def test_next_address_is_tried_where_the_first_does_not_answer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listener.getsockname()[1]
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answer)
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.0/8"),))
    with guard.create_connection("two.example", port, timeout=5) as connection:
        assert connection.gettimeout() == 5
    assert was_connected(listener)


def test_nobody_listening_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.0/8"),))
    with pytest.raises(ConnectionRefusedError):
        guard.create_connection("127.0.0.1", port, timeout=5)


def test_name_that_does_not_resolve_may_resolve_later() -> None:
    with pytest.raises(SourceUnavailable, match="does not resolve"):
        GUARD.create_connection("no-such-host.invalid", 80, timeout=5)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_host_that_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(SourceRefused, match="not a host name"):
        GUARD.create_connection(host, 80, timeout=5)
