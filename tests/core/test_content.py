"""Digests, and content that does not change after it was hashed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from md5s3stash.content import IN_MEMORY_BYTES, ContentBuilder, content_of_file
from md5s3stash.digest import digest_of, is_md5
from md5s3stash.errors import SourceChanged
from md5s3stash.fingerprints import BLOCK_BYTES


def test_digests_are_those_of_the_standards() -> None:
    # RFC 1321 and FIPS 180-2 have these for "abc".
    digest = digest_of(b"abc")

    assert digest.md5 == "900150983cd24fb0d6963f7d28e17f72"
    assert digest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest.size_bytes == 3
    assert digest.md5_base64 == "kAFQmDzST7DWlj99KOF/cg=="
    assert digest.sha256_base64 == "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="


@pytest.mark.parametrize("more", [1, BLOCK_BYTES, BLOCK_BYTES + 5])
def test_a_large_file_has_the_digest_of_its_bytes_and_tells_its_progress(tmp_path: Path, more: int) -> None:
    path, data = tmp_path / "file", os.urandom(IN_MEMORY_BYTES + more)
    path.write_bytes(data)
    seen: list[int] = []

    with content_of_file(open(path, "rb"), progress=seen.append) as content:
        assert content.digest == digest_of(data)
    assert sum(seen) == len(data)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("text", "expected"), [("0" * 32, True), ("A" * 32, True), ("0" * 31, False), ("g" * 32, False)]
)
def test_an_md5_is_thirty_two_hex_digits(text: str, expected: bool) -> None:
    assert is_md5(text) is expected


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_built_contents_are_what_was_written_in_memory_and_on_disk(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    builder = ContentBuilder(str(tmp_path), memory_bytes=1000)
    for start in range(0, size, 300):
        builder.write(data[start : start + 300])

    with builder.finish("image/png") as content:
        assert (content.file is None) == (size <= 1000)
        assert content.digest == digest_of(data)
        assert content.declared_type == "image/png"
        with content.reader() as reader:
            assert reader.read() == data
        # Unlinked at once: a kill -9 leaves no temporary file behind.
        assert list(tmp_path.iterdir()) == []


def test_readers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(IN_MEMORY_BYTES + 1))
    with content_of_file(open(path, "rb")) as content, content.reader() as one, content.reader() as two:
        start = one.read(100)
        two.seek(50)
        assert two.read(50) == start[50:]
        assert one.read(1) == path.read_bytes()[100:101]


def test_a_small_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(IN_MEMORY_BYTES))

    class Disturbed(io.FileIO):
        """A file that another process appends to during the read."""

        def readinto(self, buffer: object, /) -> int | None:
            with open(path, "ab") as other:
                other.write(b"more")
            return super().readinto(buffer)  # type: ignore[arg-type]

    with pytest.raises(SourceChanged):
        content_of_file(io.BufferedReader(Disturbed(path)))


class Sparing(io.FileIO):
    """Returns fewer bytes than requested, as FUSE may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 3))


def test_a_file_that_comes_in_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ten bytes!")

    with content_of_file(Sparing(path)) as content:
        assert content.data == b"ten bytes!"


def test_a_large_file_that_keeps_growing_is_refused_and_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(IN_MEMORY_BYTES + 1))

    def append(_: int) -> None:
        with open(path, "ab") as other:
            other.write(bytes(2 * 1024 * 1024))

    with open(path, "rb") as file, pytest.raises(SourceChanged):
        content_of_file(file, progress=append)


def test_a_verified_pass_may_start_over_or_elsewhere_and_end_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(IN_MEMORY_BYTES + 1)
    path.write_bytes(data)
    with content_of_file(open(path, "rb")) as content, content.verifying_reader() as reader:
        # As HTTP clients: get the length, read to sign, rewind, read to send.
        assert reader.seek(0, os.SEEK_END) == len(data)
        assert reader.seek(0) == 0
        assert reader.read() == data
        reader.seek(BLOCK_BYTES - 5)
        assert reader.read(10) + reader.read(10) == data[BLOCK_BYTES - 5 : BLOCK_BYTES + 10]
        with content.verifying_reader(piece=range(BLOCK_BYTES - 1, 3 * BLOCK_BYTES + 1)) as piece:
            assert piece.read() == data[BLOCK_BYTES - 1 : 3 * BLOCK_BYTES + 1]
            assert piece.take(1) == b""


@pytest.mark.parametrize("at", [0, 2 * BLOCK_BYTES + 7, IN_MEMORY_BYTES])
def test_a_verified_pass_hands_out_no_byte_of_a_block_that_changed(tmp_path: Path, at: int) -> None:
    path, before = tmp_path / "file", os.urandom(IN_MEMORY_BYTES + 1)
    path.write_bytes(before)
    with content_of_file(open(path, "rb")) as content, content.verifying_reader() as reader:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([before[at] ^ 1]))
        handed_out: list[bytes] = []
        with pytest.raises(SourceChanged):
            handed_out.extend(iter(lambda: reader.read(65536), b""))
        assert b"".join(handed_out) == before[: at // BLOCK_BYTES * BLOCK_BYTES]


def test_a_file_system_that_reads_short_does_not_look_like_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data, whole = tmp_path / "file", os.urandom(IN_MEMORY_BYTES + 1), os.pread
    path.write_bytes(data)
    monkeypatch.setattr(os, "pread", lambda descriptor, count, at: whole(descriptor, min(count, 300_000), at))
    with content_of_file(open(path, "rb")) as content, content.verifying_reader() as reader:
        assert reader.read() == data


def test_a_downloaded_file_is_verified_like_any_other(tmp_path: Path) -> None:
    data = os.urandom(3 * BLOCK_BYTES + 3)
    builder = ContentBuilder(str(tmp_path), memory_bytes=1000)
    for start in range(0, len(data), 70_001):
        builder.write(data[start : start + 70_001])
    with builder.finish() as content:
        assert content.verifying_reader().read() == data
        assert content.file is not None
        writable = os.open(f"/proc/self/fd/{content.file.fileno()}", os.O_WRONLY)
        os.pwrite(writable, b"!", 2 * BLOCK_BYTES)
        os.close(writable)
        with pytest.raises(SourceChanged):
            content.verifying_reader().read()
