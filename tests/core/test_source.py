"""Valid sources, and how local files are opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from md5s3stash.content import IN_MEMORY_BYTES
from md5s3stash.digest import digest_of
from md5s3stash.errors import SourceNotFound, SourceRefused, SourceTooLarge, SourceUnreadable
from md5s3stash.source import LocalFile, RemoteUrl, open_local, parse_source


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/tmp/a.jpg", "/tmp/a.jpg"),
        ("a b.jpg", "a b.jpg"),
        ("odd:name.jpg", "odd:name.jpg"),
        ("file:///tmp/a.jpg", "/tmp/a.jpg"),
        ("FILE:///tmp/a.jpg", "/tmp/a.jpg"),
        ("file:/tmp/a.jpg", "/tmp/a.jpg"),
        ("file://localhost/tmp/a.jpg", "/tmp/a.jpg"),
        ("file:///tmp/a%20b%3F.jpg", "/tmp/a b?.jpg"),
        ("file:///tmp/what?#1.jpg", "/tmp/what?#1.jpg"),
        ("file:///tmp/%ff", "/tmp/\udcff"),
    ],
)
def test_paths_and_file_urls_name_local_files(text: str, path: str) -> None:
    assert parse_source(text) == LocalFile(path)


def test_web_urls_are_remote() -> None:
    assert parse_source("https://example.org/a") == RemoteUrl("https://example.org/a")
    assert parse_source("HTTP://example.org/a") == RemoteUrl("HTTP://example.org/a")


@pytest.mark.parametrize(
    "text", ["", "a\0b", "file:///a%00b", "ftp://host/a", "gopher://host/", "s3://bucket/key", "file://host/share"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SourceRefused):
        parse_source(text)


@pytest.mark.parametrize("size", [0, 5, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1])
def test_a_file_is_opened_with_its_digest_and_the_type_its_name_declares(tmp_path: Path, size: int) -> None:
    path = tmp_path / "picture.JPG"
    path.write_bytes(os.urandom(size))

    with open_local(LocalFile(str(path))) as content:
        assert content.digest == digest_of(path.read_bytes())
        assert content.declared_type == "image/jpeg"


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe \n.txt")
    with open(path, "wb") as file:
        file.write(b"x")

    with open_local(LocalFile(os.fsdecode(path))) as content:
        assert content.data == b"x"


def test_what_is_no_readable_file_is_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, told in (("fifo", "a FIFO"), ("socket", "cannot be opened"), (".", "a directory")):
            with pytest.raises(SourceUnreadable, match=told):
                open_local(LocalFile(str(tmp_path / name)))
    with pytest.raises(SourceUnreadable, match="a device"):
        open_local(LocalFile("/dev/zero"))
    with pytest.raises(SourceNotFound):
        open_local(LocalFile(str(tmp_path / "missing")))
    with pytest.raises(SourceUnreadable, match="cannot be opened"):
        open_local(LocalFile(str(tmp_path / ("x" * 300))))


def test_a_file_above_the_bound_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(10 * 1024**4)

    with pytest.raises(SourceTooLarge):
        open_local(LocalFile(str(path)), max_bytes=1000)


def test_a_sig_is_not_taken_for_one_of_pgp_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "receipt.json.sig").write_text("-----BEGIN SSH SIGNATURE-----\n")
    with open_local(LocalFile(str(tmp_path / "receipt.json.sig"))) as content:
        assert content.declared_type is None
