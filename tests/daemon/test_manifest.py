"""Manifests are read as md5sum and its relatives read them; what they list never leads out of the delivery."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from md5s3stash_daemon.deliveries.manifest import (
    MAX_LINE_BYTES,
    Line,
    algorithm_of,
    inside,
    is_only_digest,
    problem_of,
    read_manifest,
)
from tests.support.mutated_deliveries import MUTATIONS, Delivery, mutated, verdict_of_coreutils

# The long form: MD5S3STASH_TEST_DELIVERIES=1000.
DELIVERIES = int(os.environ.get("MD5S3STASH_TEST_DELIVERIES", str(3 * len(MUTATIONS))))
MD5 = "900150983cd24fb0d6963f7d28e17f72"


def lines(data: bytes, algorithm: str = "md5") -> list[Line]:
    return list(read_manifest(io.BytesIO(data), algorithm))


def names(data: bytes, algorithm: str = "md5") -> list[str]:
    return [line.name for line in lines(data, algorithm)]


def our_verdict(delivery: Delivery, folder: Path) -> bool:
    proper = [line for line in lines(delivery.manifest, delivery.algorithm) if line.name != ""]
    found = {name: delivery.digest(data) for name, data in delivery.files.items()}
    return bool(proper) and all(not line.leads_out and found.get(line.name) == line.digest for line in proper)


def test_the_verdict_on_mutated_deliveries_is_that_of_md5sum_and_its_relatives(tmp_path: Path) -> None:
    verdicts = {}
    for seed in range(DELIVERIES):
        delivery = mutated(seed, ("md5", "sha1", "sha256", "sha512")[seed // len(MUTATIONS) % 4])
        folder, manifest = tmp_path / str(seed), tmp_path / f"{seed}.manifest"
        folder.mkdir()
        delivery.write(folder)
        manifest.write_bytes(delivery.manifest)
        verdicts[seed] = our_verdict(delivery, folder), verdict_of_coreutils(delivery, folder, manifest)

    assert {seed: both for seed, both in verdicts.items() if both[0] != both[1]} == {}
    assert {ours for ours, _ in verdicts.values()} == {True, False}


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("batch/checksums.md5", "md5"),
        ("photo.tif.md5", "md5"),
        ("a/MD5SUMS", "md5"),
        ("md5sums.txt", "md5"),
        ("SHA256SUMS", "sha256"),
        ("sha512sum.txt", "sha512"),
        ("x.SHA1", "sha1"),
        ("checksum-sha-256.txt", "sha256"),
        ("manifest-sha512.txt", "sha512"),
        ("tagmanifest-md5.txt", "md5"),
        ("photo.tif", None),
        ("md5", "md5"),
        (".md5", "md5"),
        ("x.md5/photo.tif", None),
        ("my-md5-notes.txt", None),
        ("checksums.txt", None),
    ],
)
def test_a_manifest_is_known_by_its_name(name: str, algorithm: str | None) -> None:
    assert algorithm_of(name) == algorithm


def test_one_blank_or_two_is_decided_by_the_first_line() -> None:
    assert names(f"{MD5} a\n{MD5}  b\n".encode()) == ["a", " b"]
    assert names(f"{MD5}  a\n{MD5} b\n".encode()) == ["a", ""]


def test_a_byte_order_mark_is_removed() -> None:
    assert lines(b"\xef\xbb\xbf" + MD5.encode() + b"  a\r\n") == [Line(1, "a", MD5)]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", ".", "a/", "a/.."])
def test_a_name_that_leads_out_of_the_folder_is_told_apart(name: str) -> None:
    assert lines(f"{MD5}  {name}\n".encode()) == [Line(1, name, MD5, leads_out=True)]


def test_a_zero_byte_or_a_line_without_end_is_not_a_proper_line() -> None:
    long = MD5.encode() + b"  " + b"x" * 3 * MAX_LINE_BYTES

    assert names(MD5.encode() + b"  a\0b\n" + long + b"\n" + MD5.encode() + b"  last") == ["", "", "last"]


def test_a_file_with_only_a_digest_is_not_a_manifest() -> None:
    assert is_only_digest(f"{MD5}\n".encode())
    assert is_only_digest(b"\xef\xbb\xbf" + hashlib.sha512().hexdigest().encode() + b"\r\n")
    assert not is_only_digest(b"")
    assert not is_only_digest(os.urandom(4096))
    assert not is_only_digest(f"{MD5}  a\n".encode())
    assert not is_only_digest(f"{MD5}\n{MD5}\n".encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it lists no file"),
        (b"# only a comment\n\n", "it lists no file"),
        (f"\ufeff{MD5}  a\r\n".encode("utf-16-le"), "it is not plain text, such as UTF-16"),
        (f"{MD5}  a\n".encode("utf-16-be"), "it is not plain text, such as UTF-16"),
        (b"\xff\xfe", "it is not plain text, such as UTF-16"),
        (f"name,md5\na.tif,{MD5}\n".encode(), "the first is name,md5"),
        (
            f"{hashlib.sha256().hexdigest()}  a\n".encode(),
            "no line of it has a digest and a name as md5sum writes them",
        ),
        (f"{MD5}  a\nnot a line\n".encode(), "1 of its 2 lines cannot be read"),
        (f"{MD5}  a\n".encode(), ""),
    ],
)
def test_what_cannot_be_read_of_a_manifest_is_said_in_words(data: bytes, words: str) -> None:
    found = lines(data)

    problem = problem_of(data[:4096], "md5", len(found), sum(not line.name for line in found))

    assert words in problem
    assert bool(problem) == bool(words)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (rf"{MD5} *Dir\sub\a.tif", Line(1, "Dir/sub/a.tif", MD5, written=r"Dir\sub\a.tif")),
        (rf"{MD5}  .\a.tif", Line(1, "a.tif", MD5, written=r".\a.tif")),
        (rf"MD5 (Dir\a.tif) = {MD5}", Line(1, "Dir/a.tif", MD5, written=r"Dir\a.tif")),
        (rf"{MD5}  ..\a.tif", Line(1, "../a.tif", MD5, leads_out=True, written=r"..\a.tif")),
        (rf"{MD5}  C:\scans\a.tif", Line(1, "C:/scans/a.tif", MD5, leads_out=True, written=r"C:\scans\a.tif")),
        (rf"{MD5}  \\server\a.tif", Line(1, "//server/a.tif", MD5, leads_out=True, written=r"\\server\a.tif")),
        # As md5sum on Linux writes it: the backslash is part of the name.
        (rf"\{MD5}  back\\slash", Line(1, r"back\slash", MD5)),
    ],
)
def test_backslashes_without_escapes_separate_folders(line: str, wanted: Line) -> None:
    assert lines(line.encode() + b"\r\n") == [wanted]


def test_dots_within_the_folder_are_resolved() -> None:
    assert [inside(name) for name in ("./a", "a//b", "a/./b", "a/../b")] == ["a", "a/b", "a/b", "b"]
