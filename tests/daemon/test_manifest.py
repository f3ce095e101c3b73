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
    looks_like_manifest,
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


def test_a_byte_order_mark_is_removed() -> None:
    assert lines(b"\xef\xbb\xbf" + MD5.encode() + b"  a\r\n") == [Line(1, "a", MD5)]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", ".", "a/", "a/.."])
def test_a_name_that_leads_out_of_the_folder_is_told_apart(name: str) -> None:
    assert lines(f"{MD5}  {name}\n".encode()) == [Line(1, name, MD5, leads_out=True)]


def test_a_zero_byte_or_a_line_without_end_is_not_a_proper_line() -> None:
    long = MD5.encode() + b"  " + b"x" * 3 * MAX_LINE_BYTES

    assert names(MD5.encode() + b"  a\0b\n" + long + b"\n" + MD5.encode() + b"  last") == ["", "", "last"]


def test_a_file_with_only_a_digest_is_not_a_manifest() -> None:
    assert not looks_like_manifest(io.BytesIO(f"{MD5}\n".encode()))
    assert not looks_like_manifest(io.BytesIO(os.urandom(100_000)))
    assert looks_like_manifest(io.BytesIO(f"# a comment\n{MD5}  a\n".encode()))
    assert looks_like_manifest(io.BytesIO(f"\\SHA256 (a\\nb) = {hashlib.sha256().hexdigest()}\n".encode()))


def test_dots_within_the_folder_are_resolved() -> None:
    assert [inside(name) for name in ("./a", "a//b", "a/./b", "a/../b")] == ["a", "a/b", "a/b", "b"]
