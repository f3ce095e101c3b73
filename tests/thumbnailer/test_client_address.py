"""The client of a request is the last address that a trusted proxy has not made up."""

from __future__ import annotations

import ipaddress

import pytest

from md5s3stash_thumbnailer.server.client_address import client_of

TRUSTED = [ipaddress.ip_network(network) for network in ("127.0.0.1", "10.0.0.0/8", "::1/128")]


def by(peer: str, **headers: str) -> str:
    return client_of(peer, {name.replace("_", "-"): value for name, value in headers.items()}, TRUSTED)


def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_says() -> None:
    assert by("192.0.2.1") == "192.0.2.1"
    assert by("192.0.2.1", X_Forwarded_For="198.51.100.7") == "192.0.2.1"
    assert by("192.0.2.1", Forwarded="for=198.51.100.7") == "192.0.2.1"


def test_the_last_address_that_is_not_a_proxy_counts_and_not_what_the_client_wrote_before_it() -> None:
    assert by("10.0.0.1", X_Forwarded_For="198.51.100.7") == "198.51.100.7"
    assert by("10.0.0.1", X_Forwarded_For="203.0.113.9, 198.51.100.7, 10.2.3.4,127.0.0.1") == "198.51.100.7"
    assert by("10.0.0.1", X_Forwarded_For="10.9.9.9, 198.51.100.7") == "198.51.100.7"
    assert (
        by("10.0.0.1", Forwarded='for=203.0.113.9, for="198.51.100.7:4711";proto=https, for=10.2.3.4') == "198.51.100.7"
    )


def test_x_forwarded_for_counts_where_both_are_given() -> None:
    assert by("10.0.0.1", X_Forwarded_For="198.51.100.7", Forwarded="for=203.0.113.9") == "198.51.100.7"


@pytest.mark.parametrize("said", ["", "unknown", "198.51.100", "10.1.1.1", "_hidden", "[", "198.51.100.7, "])
def test_a_proxy_that_does_not_say_for_whom_it_asks_names_no_client(said: str) -> None:
    assert by("10.0.0.1", X_Forwarded_For=said) == ""
    assert by("10.0.0.1", Forwarded=f"for={said}" if said else "proto=https") == ""


@pytest.mark.parametrize("peer", ["127.0.0.2", "::ffff:127.0.0.2"])
def test_a_program_of_this_box_names_no_client(peer: str) -> None:
    assert by(peer) == by(peer, X_Forwarded_For="198.51.100.7") == ""


def test_no_client_can_be_made_up_behind_an_entry_that_is_not_an_address() -> None:
    assert by("10.0.0.1", X_Forwarded_For="198.51.100.7, unknown") == ""


@pytest.mark.parametrize(
    "node", ["198.51.100.7:80", "::ffff:198.51.100.7", "[::ffff:198.51.100.7]:80", " 198.51.100.7 "]
)
def test_an_address_is_read_in_every_form_that_proxies_write(node: str) -> None:
    assert by("::ffff:10.0.0.1", X_Forwarded_For=node) == "198.51.100.7"


def test_a_network_of_ipv6_is_one_client() -> None:
    assert by("2001:db8:1:2:3:4:5:6") == by("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert by("::1", Forwarded='For="[2001:db8:1:2::9]:4711"') == "2001:db8:1:2::/64"
    assert by("2001:db8:1:3::9") != by("2001:db8:1:2::9")


def test_a_peer_without_an_address_names_no_client() -> None:
    assert by("") == ""
