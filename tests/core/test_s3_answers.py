"""For any answer of a store, callers get only our own errors; and their messages."""

from __future__ import annotations

import contextlib
import datetime
import gc
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from md5s3stash.errors import DigestMismatch, StashError, StoreRefused, StoreUnavailable
from md5s3stash.objectstore import PutOutcome
from md5s3stash.s3.client import new_client, new_session
from md5s3stash.s3.conditional_put import Guard, StoreGuards
from md5s3stash.s3.curl import Timeouts
from md5s3stash.s3.errors import MAX_MESSAGE_CHARACTERS, code_of, message_of, shown, store_error
from md5s3stash.s3.store import S3ObjectStore, connect, store_for
from md5s3stash.scheme import ObjectAddress
from tests.support.digest_s3 import DigestS3, Oddities, error_reply
from tests.support.origin import RawReply, Reply
from tests.support.stores import content_of

# All characters, including lone surrogates, NUL and direction marks.
TEXTS = st.text(st.characters(codec=None, exclude_categories=[]), max_size=200) | st.sampled_from(
    ["\ud800", "\x00", "\u202e", "\r\n", "9" * 4000, "-1", "1_0", "٣", "<" * 3000, "&" * 3000, "&#xd800;", '"' * 50]
)
QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# After some unreadable answers urllib3 leaves the connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets.add("bucket")
        yield server


@pytest.fixture(scope="module", params=["libcurl", "boto3"])
def store(request: pytest.FixtureRequest, server: DigestS3) -> Iterator[S3ObjectStore]:
    timeouts = Timeouts(connect_seconds=2, stall_seconds=2, small_request_seconds=4)
    if request.param == "libcurl":
        yield connect(server.endpoint, timeouts=timeouts, attempts=1)
    else:
        yield S3ObjectStore(new_client(server.endpoint, new_session(), timeouts, attempts=1))
        gc.collect()


def header_bytes(value: str) -> bytes:
    """A header value as sent: any bytes without line ends."""
    return value.encode("utf-8", "surrogatepass").replace(b"\r", b" ").replace(b"\n", b" ")


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ETag",
                "Retry-After",
                "Last-Modified",
                "Content-Type",
                "Content-Range",
                "x-amz-checksum-sha256",
                "x-amz-meta-sha256",
                "x-amz-meta-odd",
                "x-amz-server-side-encryption",
                "x-amz-expiration",
                "x-amz-missing-meta",
                "x-amz-mp-parts-count",
                "x-amz-delete-marker",
                "x-amz-bucket-region",
                "Location",
                "Date",
            ]
        ),
        TEXTS,
    ),
    max_size=6,
)
ERROR_BODIES = st.one_of(
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(TEXTS, TEXTS).map(
        lambda parts: (f"<Error><Code>{parts[0]}</Code><Message>{parts[1]}</Message></Error>").encode(
            "utf-8", "surrogatepass"
        )
    ),
    st.integers(1, 3000).map(lambda depth: b"<a>" * depth),
    st.just(b"<Error><Code>AccessDenied</Code>" + b"x" * 25_000),
    st.just(b'<!DOCTYPE a [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><Error><Code>&c;</Code></Error>'),
    st.binary(max_size=200),
)


def raw(status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> RawReply:
    lines = [b"HTTP/1.1 %d Whatever" % status]
    lines += [name.encode() + b": " + header_bytes(value) for name, value in headers]
    lines.append(b"Content-Length: " + (str(len(body)).encode() if length is None else header_bytes(length)))
    lines.append(b"Connection: close")
    return RawReply([b"\r\n".join(lines) + b"\r\n\r\n" + body])


def answer_or_error(ask: Callable[[], object]) -> None:
    """Fails for any error that is not ours, and for messages that are too long."""
    words = ""
    with contextlib.suppress(StashError):
        try:
            ask()
        except StashError as error:
            words = str(error)
            raise
    assert len(words) < 2 * MAX_MESSAGE_CHARACTERS + 200


STATUSES = st.sampled_from([200, 206, 301, 307, 400, 403, 404, 409, 412, 416, 429, 500, 501, 503])


@QUICK
@given(status=STATUSES, headers=HEADERS, body=ERROR_BODIES, length=st.none() | TEXTS)
@example(status=200, headers=[("ETag", "x")], body=b"", length="9" * 4000)
@example(status=200, headers=[("ETag", "x")], body=b"", length="-1")
def test_answers_to_a_head_and_a_get_are_results_or_errors_of_ours(
    status: int, headers: list[tuple[str, str]], body: bytes, length: str | None, store: S3ObjectStore, server: DigestS3
) -> None:
    address = ObjectAddress("bucket", "0" * 32)
    for method, ask in (("HEAD", lambda: store.head(address)), ("GET", lambda: store.get(address, 1000))):
        server.always(method, raw(status, headers, body if method == "GET" else b"", length))
        answer_or_error(ask)
        server.works_again(method)


@QUICK
@given(status=STATUSES, headers=HEADERS, body=ERROR_BODIES)
def test_answers_to_a_put_are_results_or_errors_of_ours(
    status: int, headers: list[tuple[str, str]], body: bytes, store: S3ObjectStore, server: DigestS3
) -> None:
    content = content_of(b"content")
    address = ObjectAddress("bucket", content.digest.md5)
    server.objects.clear()
    server.always("PUT", raw(status, headers, body))
    answer_or_error(lambda: store.put(address, content, "text/plain"))
    server.works_again("PUT")


@given(TEXTS, TEXTS, st.integers(0, 999))
def test_words_of_a_store_are_one_bounded_printable_line(code: str, message: str, status: int) -> None:
    words = shown(message)

    assert len(words) <= MAX_MESSAGE_CHARACTERS
    assert words.isprintable()
    assert str(store_error("s3://b/k", status, code, message)).startswith("s3://b/k: the store answered")


@given(ERROR_BODIES)
def test_any_body_has_a_code_and_a_message_or_none(body: bytes) -> None:
    assert len(code_of(body)) <= 100
    assert len(message_of(body)) <= 8 * MAX_MESSAGE_CHARACTERS


def test_signatures_and_tokens_are_not_shown() -> None:
    words = shown("bad https://b/?X-Amz-Signature=abcdef&X-Amz-Security-Token=xyz, secret: hidden")

    assert not any(hidden in words for hidden in ("abcdef", "xyz", "hidden"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "QuotaExceeded", StoreRefused, "quota is used up"),
        (507, "XMinioStorageFull", StoreRefused, "disks are full"),
        (403, "AccessDenied", StoreRefused, "s3:PutObject"),
        (403, "", StoreRefused, "s3:PutObject"),
        (403, "SomethingElse", StoreRefused, "answered 403 SomethingElse"),
        (403, "RequestTimeTooSkewed", StoreUnavailable, "clock"),
        (403, "InvalidObjectState", StoreRefused, "archived"),
        (400, "BadDigest", DigestMismatch, "changed on the way"),
        (503, "SlowDown", StoreUnavailable, "503 SlowDown"),
    ],
)
def test_hint_fits_the_code(status: int, code: str, kind: type[StashError], hint: str) -> None:
    error = store_error("s3://bucket/key", status, code)

    assert type(error) is kind
    assert hint in str(error)
    assert ("s3:PutObject" in str(error)) == (hint == "s3:PutObject")


def test_message_of_the_store_is_shown(store: S3ObjectStore, server: DigestS3) -> None:
    content = content_of(b"shown")
    body = b"<Error><Code>QuotaExceeded</Code><Message>You have used\n 5 &lt; 4 TB</Message></Error>"
    server.script("PUT", Reply(403, body, {"Content-Type": "application/xml"}))

    with pytest.raises(StoreRefused, match='the store says "You have used 5 < 4 TB"'):
        store.put(ObjectAddress("bucket", content.digest.md5), content, "text/plain")


# -- guards that a store lacks ----------------------------------------------------------------------------------------


def put(store: S3ObjectStore, data: bytes) -> PutOutcome:
    content = content_of(data)
    return store.put(ObjectAddress("bucket", content.digest.md5), content, "text/plain")


def test_what_a_store_lacks_is_found_out_once_and_its_put_follows_a_look() -> None:
    refused = {"if-none-match": (501, "NotImplemented"), "x-amz-sdk-checksum-": (400, "InvalidArgument")}
    with DigestS3(Oddities(refused=refused)) as server:
        server.buckets.add("bucket")
        store = connect(server.endpoint)
        put(store, b"first")
        asked = len(server.requests)

        put(store, b"second")

        assert server.methods()[asked:] == ["HEAD", "PUT"]
        assert [words.partition(": ")[0] for words in store.weaker_promises()] == ["s3://bucket"] * 2
        assert server.requests[-1].headers["content-md5"] == content_of(b"second").digest.md5_base64


def test_refusal_that_no_header_explains_is_told_as_it_came() -> None:
    with DigestS3() as server:
        server.buckets.add("bucket")
        server.always("PUT", error_reply(400, "InvalidArgument"))
        store = connect(server.endpoint)

        with pytest.raises(StoreRefused, match="400 InvalidArgument"):
            put(store, b"first")

        assert store.weaker_promises() == []


def test_store_that_refuses_the_look_and_the_condition_gets_nothing() -> None:
    with DigestS3(Oddities(refused={"if-none-match": (501, "NotImplemented")})) as server:
        server.buckets.add("bucket")
        server.always("HEAD", Reply(403))

        with pytest.raises(StoreRefused, match="s3:ListBucket"):
            put(connect(server.endpoint), b"first")

        assert server.objects == {}


def test_guards_are_left_out_one_by_one_the_condition_last() -> None:
    guards = StoreGuards()
    both = frozenset(Guard)
    assert list(guards.left_out("b")) == [set(), {Guard.CHECKSUM}, {Guard.CONDITION}, both]

    guards.lacks("b", frozenset({Guard.CONDITION}))

    assert list(guards.left_out("b")) == [{Guard.CONDITION}, both]
    assert next(guards.left_out("other")) == set()


# -- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DigestS3, Path]]:
    """A store with a certificate of its own authority, and that authority."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class TlsS3(DigestS3):
        def accepted(self, connection):  # type: ignore[no-untyped-def]
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    with TlsS3() as server:
        server.buckets.add("bucket")
        server.endpoint = server.endpoint.replace("http:", "https:")
        yield server, certificate


@pytest.mark.parametrize("way", ["libcurl", "boto3"])
@pytest.mark.parametrize("told_by", ["AWS_CA_BUNDLE", "the config file", "nobody"])
def test_certificates_of_the_aws_settings_are_trusted(
    way: str, told_by: str, tls_server: tuple[DigestS3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = tls_server
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if told_by == "AWS_CA_BUNDLE":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    elif told_by == "the config file":
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {certificate}\n")
    store = connect(server.endpoint, attempts=1) if way == "libcurl" else store_for(None, server.endpoint)
    data = f"{way} {told_by} {datetime.datetime.now()}".encode()
    if told_by == "nobody":
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            put(store, data)
    else:
        assert put(store, data) is PutOutcome.STORED


def test_a_web_page_in_the_place_of_a_head_is_no_other_content(server: DigestS3, store: S3ObjectStore) -> None:
    content = content_of(b"what a login page of the network must not fail")
    server.script(
        "HEAD", *[RawReply([b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\n"])] * 2
    )

    with pytest.raises(StoreUnavailable, match="not S3"):
        store.head(ObjectAddress("bucket", content.digest.md5))
