"""The User-Agent, and settings for single origins: request headers, and older ciphers."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from md5s3stash.batch import origin_rules
from md5s3stash.errors import SettingsError, SourceError, SourceUnavailable
from md5s3stash.fetch import Fetched, Fetcher, FetchLimits
from md5s3stash.headers import Validators
from md5s3stash.origins import PROJECT_PAGE, OriginRules, origin_of, read_headers
from md5s3stash.retry import RetryPolicy
from md5s3stash.settings import CORE_SECTIONS, FetchSettings, load
from tests.support.origin import Authority, Origin, Reply

ONCE = RetryPolicy(attempts=1)
LIMITS = FetchLimits(connect_timeout_seconds=20, read_timeout_seconds=20)
KEY = "k3y-of-the-museum"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    authority = Authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    return authority


@pytest.fixture
def secure(authority: Authority) -> Iterator[Origin]:
    with Origin("localhost", tls=authority.server_context("localhost")) as origin:
        yield origin


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def headers_file(directory: Path, text: str) -> str:
    path = directory / "headers"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def fetch(url: str, rules: OriginRules, validators: Validators | None = None) -> Fetched:
    with Fetcher(LIMITS, retry=ONCE, rules=rules) as fetcher:
        fetched = fetcher.fetch(url, validators=validators)
    assert isinstance(fetched, Fetched)
    fetched.content.close()
    return fetched


def settings_of(**values: object) -> FetchSettings:
    flags = {f"fetch.{key}": value for key, value in values.items()}
    return load({"fetch": CORE_SECTIONS["fetch"]}, {}, None, flags)[FetchSettings]


# --- User-Agent


@pytest.mark.parametrize("contact", [None, "images@museum.example", "https://museum.example/harvest"])
def test_every_request_names_the_program_its_page_and_a_contact(contact: str | None, origin: Origin) -> None:
    origin.answer("/b", Reply(body=b"x"))
    fetch(origin.answer("/a", Reply(302, headers={"Location": "/b"})), origin_rules(settings_of(contact=contact)))

    (name,) = {request.headers["user-agent"] for request in origin.requests}
    assert name.startswith("md5s3stash/")
    assert name.endswith(f" (+{PROJECT_PAGE}; {contact})" if contact else f" (+{PROJECT_PAGE})")


@pytest.mark.parametrize("contact", ["a\nX: y", "a)b", "a(b", "caf\u00e9", "a\\b", "x" * 201, "\x7f"])
def test_contact_that_no_user_agent_can_hold_is_a_wrong_setting(contact: str) -> None:
    with pytest.raises(SettingsError, match=r"fetch\.contact"):
        settings_of(contact=contact)


# --- request headers


def test_headers_of_a_file_go_to_their_origin_and_to_no_other(
    secure: Origin, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Origin("localhost", tls=authority.server_context("localhost")) as other, Origin("localhost") as plain:
        text = (
            f"# keys\n\n{secure.url('/')} X-Api-Key:  {KEY}  \nhttps://LOCALHOST:{secure.port} user-agent: Museum/1\n"
        )
        rules = origin_rules(settings_of(headers_file=headers_file(tmp_path, text)))
        plain.answer("/d", Reply(302, headers={"Location": secure.url("/e")}))
        other.answer("/c", Reply(302, headers={"Location": plain.url("/d")}))
        secure.answer("/b", Reply(302, headers={"Location": other.url("/c")}))
        secure.answer("/e", Reply(body=b"x"))
        fetch(secure.answer("/a", Reply(302, headers={"Location": "/b"})), rules, Validators('"v1"'))

        assert [request.target for request in secure.requests] == ["/a", "/b", "/e"]
        assert {request.headers.get("x-api-key") for request in secure.requests} == {KEY}
        assert {request.headers["user-agent"] for request in secure.requests} == {"Museum/1"}
        assert {request.headers["if-none-match"] for request in secure.requests} == {'"v1"'}
        for request in other.requests + plain.requests:
            assert KEY not in str(request.headers)
            assert request.headers["user-agent"].startswith("md5s3stash/")
    assert len(other.requests) == len(plain.requests) == 1
    assert KEY not in caplog.text
    assert KEY not in repr(rules)


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://b\u00fccher.example/a", True),
        ("https://BU\u0308CHER.example:443/a", True),
        ("https://xn--bcher-kva.example/a", True),
        ("https://b\u00fccher.example:444/a", False),
        ("http://b\u00fccher.example/a", False),
        ("https://bucher.example/a", False),
        ("https://fa\u00df.example/", False),
    ],
)
def test_headers_go_to_a_host_beyond_ascii_under_both_of_its_names(url: str, is_sent: bool, tmp_path: Path) -> None:
    text = f"https://xn--bcher-kva.example X-Api-Key: {KEY}\nhttps://fass.example X-Api-Key: {KEY}\n"
    rules = OriginRules(headers=read_headers(headers_file(tmp_path, text)))
    assert ("X-Api-Key" in rules.headers_for(url)) is is_sent


@pytest.mark.parametrize("answer", [Reply(403), Reply(302, headers={"Location": "http://[::1"}), Reply(500)])
def test_headers_are_in_no_error(answer: Reply, secure: Origin, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = secure.answer("/a", answer)
    with pytest.raises(SourceError) as caught:
        fetch(url, OriginRules(headers={origin_of(url): {"X-Api-Key": KEY}}))
    assert secure.requests[0].headers["x-api-key"] == KEY
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        f"localhost X-Api-Key: {KEY}", f"https://localhost/path X-Api-Key: {KEY}", f"https://localhost {KEY}",
        f"https://localhost?{KEY} X: y", f"https://u:{KEY}@localhost X: y", f"ftp://localhost X: {KEY}",
        f"https://localhost Host: {KEY}", f"https://localhost Content-length: {KEY}", f"https://localhost X {KEY}: y",
        f"https://localhost If-None-Match: {KEY}", f"https://localhost X: {KEY}\x7f", "https://localhost X:",
        f"https://b\u00fccher.example X: {KEY}", f"https://localhost X: \xe9{KEY}",
        f"https://localhost Accept-Encoding: {KEY}", f"https://[::1 X: {KEY}", f"https://localhost X: {KEY}\r\x01",
    ],
)  # fmt: skip
def test_line_of_the_file_that_is_wrong_is_named_by_its_number_and_never_quoted(line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 3: ") as caught:
        read_headers(headers_file(tmp_path, f"# keys\nhttps://a.example X: y\n{line}\n"))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff", b"#" * (1024 * 1024 + 1)])
def test_file_that_cannot_be_read_is_a_wrong_setting(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "headers"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=str(path)):
        read_headers(str(path))


def test_file_that_others_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = headers_file(tmp_path, f"https://a.example X: {KEY}\n")
    Path(path).chmod(0o644)
    assert read_headers(path) == {("https", "a.example", 443): {"X": KEY}}
    assert "open to other users" in caplog.text


# --- ciphers


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server side of TLS 1.2, with an RSA key and a trusted authority."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", key_type=trustme.KeyType.RSA).configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES256-SHA256", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA"])
def test_server_with_old_ciphers_is_reached_where_a_setting_names_it(cipher: str, old: ssl.SSLContext) -> None:
    old.set_ciphers(cipher)
    with Origin("localhost", tls=old) as origin:
        url = origin.answer("/a", Reply(body=b"x"))
        # Debian's Python offers OpenSSL's default ciphers instead of Python's.
        if cipher not in {known["name"] for known in ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()}:
            with pytest.raises(SourceUnavailable, match=r"fetch\.old_cipher_hosts"):
                fetch(url, OriginRules(old_cipher_hosts=frozenset({"museum.example"})))

        fetch(url, origin_rules(settings_of(old_cipher_hosts="museum.example, LOCALHOST")))


@pytest.mark.parametrize("broken", ["NULL-SHA256:@SECLEVEL=0", "ADH-AES128-SHA256:@SECLEVEL=0"])
def test_broken_cipher_is_never_used(broken: str, old: ssl.SSLContext) -> None:
    old.set_ciphers(broken)
    with Origin("localhost", tls=old) as origin, pytest.raises(SourceUnavailable):
        fetch(origin.answer("/a", Reply(body=b"x")), OriginRules(old_cipher_hosts=frozenset({"localhost"})))


def test_old_versions_of_tls_are_never_used(old: ssl.SSLContext) -> None:
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with Origin("localhost", tls=old) as origin, pytest.raises(SourceUnavailable):
        fetch(origin.answer("/a", Reply(body=b"x")), OriginRules(old_cipher_hosts=frozenset({"localhost"})))


def test_certificate_is_judged_for_old_ciphers_too(
    old: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.set_ciphers("AES128-SHA")
    rules = OriginRules(old_cipher_hosts=frozenset({"localhost", "127.0.0.1"}))
    with Origin("localhost", tls=old) as origin:
        origin.answer("/a", Reply(body=b"x"))
        with pytest.raises(SourceError, match="certificate"):
            fetch(origin.url("/a", host="127.0.0.1"), rules)
        other = trustme.CA()
        other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
        with pytest.raises(SourceError, match="certificate"):
            fetch(origin.url("/a"), rules)


@pytest.mark.parametrize("name", ["https://museum.example", "museum.example:443", "a/b", "*", "a b"])
def test_host_that_is_not_a_name_is_a_wrong_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=r"fetch\.old_cipher_hosts"):
        settings_of(old_cipher_hosts=name)
