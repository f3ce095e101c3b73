"""URLs that point to the daemon's own machine or network: refused with a reason, without any connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site
from tests.support.origin import Origin, Reply
from tests.support.url_lists import failed_list, wait_for_report

# PORT is replaced by an origin's port.
DIRECT = [
    # The metadata service of a cloud, in all spellings.
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://2852039166/latest/meta-data/",
    "http://0251.0376.0251.0376/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://0xa9.0xfe.0xa9.0xfe/latest/meta-data/",
    "http://169.254.43518/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
    "http://[64:ff9b::a9fe:a9fe]/latest/meta-data/",
    "http://169.254.169.254./latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    # This machine.
    "http://127.0.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://0x7f.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://0.0.0.0:PORT/",
    "http://0:PORT/",
    "http://[::]:PORT/",
    "http://[::1]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST.:PORT/",
    "http://10.0.0.1:PORT/",
    "http://192.168.0.1:PORT/",
    "http://172.16.0.1:PORT/",
    "http://100.64.0.1:PORT/",
    # Tricks with the text before the host.
    "http://example.com@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.com/",
    "http://example.com:80@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@example.com/",
    "http://127.0.0.1:PORT?@example.com/",
    "http://[::1%25lo]:PORT/",
    "http://127.0.0.1%00.example.com:PORT/",
    # Names that this test's resolver knows.
    "http://mixed.test:PORT/",
    "http://private.test:PORT/",
    # Other schemes, and text that some parsers take for a path.
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "/etc/passwd",
    "../../../etc/passwd",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_GET%20/",
    "dict://127.0.0.1:PORT/stat",
    "ldap://127.0.0.1:PORT/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "http://unix:/var/run/docker.sock:/info",
    "//127.0.0.1:PORT/",
    "jar:http://127.0.0.1:PORT/!/",
    "data:text/plain,x",
    "s3://bucket/key",
]

# A foreign name server may return any address, and another one the next time. 127.0.0.9 represents a public origin: the
# settings allow it.
RESOLVER = """
import itertools, socket, sys
real, asked = socket.getaddrinfo, itertools.count()
def answer(address, port):
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
def getaddrinfo(host, port, *arguments, **options):
    if host == "mixed.test":
        return [answer("127.0.0.9", port), answer("127.0.0.1", port)]
    if host == "private.test":
        return [answer("127.0.0.1", port)]
    if host == "rebinding.test":
        return [answer("127.0.0.9" if next(asked) == 0 else "127.0.0.1", port)]
    return real(host, port, *arguments, **options)
socket.getaddrinfo = getaddrinfo
from md5s3stash_daemon.main import main
sys.exit(main())
"""

OUTSIDE = {
    "MD5S3STASH_URLS_ALLOWED_NETWORKS": "127.0.0.9/32",
    "MD5S3STASH_URLS_HOST_DELAY_SECONDS": "0",
    "MD5S3STASH_URLS_ATTEMPTS": "2",
    "MD5S3STASH_SPOOL_MIN_FREE_BYTES": "0",
}


@pytest.fixture
def victim() -> Iterator[Origin]:
    with Origin(host="127.0.0.1") as origin:
        yield origin


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def resolved_daemon(site: Site) -> Daemon:
    return Daemon(site, OUTSIDE, command=("-c", RESOLVER))


def test_each_hostile_url_is_refused_with_a_reason_and_no_connection(site: Site, victim: Origin) -> None:
    urls = [url.replace("PORT", str(victim.port)) for url in DIRECT]
    with resolved_daemon(site):
        site.drop("hostile.urls", "\n".join(urls).encode())
        rows = wait_for_report(site, "hostile.urls", seconds=60)

    assert [row["url"] for row in rows] == [url.replace("\\", "\\\\") for url in urls]
    assert [row["url"] for row in rows if row["outcome"] != "failed" or not row["reason"]] == []
    # It was refused, and not unreachable. Only a name that does not resolve is another error.
    tried = [row["url"] for row in rows if "tried" in row["reason"] and "does not resolve" not in row["reason"]]
    assert tried == []
    assert victim.connections == 0
    failed = failed_list(site, "hostile.urls").splitlines()
    assert failed[1::2] == urls
    assert all(comment.startswith("# line ") for comment in failed[::2])
    assert site.names() == {}
    assert site.objects() == {}


def test_a_redirect_to_a_hostile_url_is_refused_on_each_hop(site: Site, victim: Origin) -> None:
    targets = [
        victim.url("/"),
        victim.url("/", "[::1]"),
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "gopher://x/",
    ]
    targets += [
        f"http://private.test:{victim.port}/",
        f"//127.0.0.1:{victim.port}/",
        f"http://2130706433:{victim.port}/",
    ]
    with Origin(host="127.0.0.9") as public, resolved_daemon(site):
        urls = []
        for number, target in enumerate(targets):
            last = public.answer(f"/last{number}", Reply(302, headers={"Location": target}))
            urls.append(public.answer(f"/first{number}", Reply(307, headers={"Location": last})))
        site.drop("redirects.urls", "\n".join(urls).encode())
        rows = wait_for_report(site, "redirects.urls")
        assert len(public.requests) == 2 * len(targets)

    assert [row["outcome"] for row in rows] == ["failed"] * len(targets)
    assert [row["reason"] for row in rows if "redirected to" not in row["reason"] or "tried" in row["reason"]] == []
    assert victim.connections == 0


def test_a_name_that_resolves_to_another_address_the_second_time_is_judged_again(site: Site, victim: Origin) -> None:
    """The first answer is allowed, but its host is down; the second is this machine."""
    with resolved_daemon(site):
        site.drop("rebinding.urls", f"http://rebinding.test:{victim.port}/".encode())
        [row] = wait_for_report(site, "rebinding.urls")

    assert row["outcome"] == "failed"
    assert "127.0.0.1 is loopback" in row["reason"]
    assert victim.connections == 0


def test_without_the_refusal_the_victim_would_have_been_reached(site: Site, victim: Origin) -> None:
    """Otherwise the tests above could pass because the victim does not answer."""
    url = victim.answer("/", Reply(body=b"secret"))
    with Daemon(site, {**OUTSIDE, "MD5S3STASH_URLS_ALLOWED_NETWORKS": "127.0.0.0/8"}):
        site.drop("allowed.urls", url.encode())
        [row] = wait_for_report(site, "allowed.urls")

    assert row["outcome"] == "stashed"
    assert victim.connections == 1


@pytest.mark.parametrize("value", ["10.0.0.0/33", "example.com", "10.0.0.1/8"])
def test_an_allowed_network_that_is_none_is_told_at_the_start(site: Site, value: str) -> None:
    with Daemon(site, {"MD5S3STASH_URLS_ALLOWED_NETWORKS": value}) as daemon:
        assert daemon.process.wait(20) == 2

    [line] = daemon.output().splitlines()
    assert "MD5S3STASH_URLS_ALLOWED_NETWORKS: networks such as" in line
