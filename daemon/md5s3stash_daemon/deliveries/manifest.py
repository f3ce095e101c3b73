"""Reads the checksum manifests that md5sum and its relatives write, and judges each line as `md5sum -c` does.

Two forms, as in GNU coreutils: `HEX  NAME`, with `*` before the name of a file read in binary mode, and `MD5 (NAME) =
HEX`. A backslash before the line says that the name has escapes. Beyond coreutils: a byte order mark and Windows line
ends are removed, backslashes without escapes separate folders, and a name may not lead out of the folder of the
manifest.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from md5s3stash.console import printable

# Algorithm -> hex digits of a digest.
HEX_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}

_ALGORITHM = "(md5|sha-?1|sha-?224|sha-?256|sha-?384|sha-?512)"
_NAME = re.compile(
    rf".*\.{_ALGORITHM}(?:sums?)?(?:\.txt)?"
    rf"|{_ALGORITHM}[-_]?(?:sums?|checksums?)?(?:\.txt)?"
    rf"|(?:checksums?|hashes|(?:tag)?manifest)[-_.]{_ALGORITHM}(?:\.txt)?",
    re.IGNORECASE | re.DOTALL,
)

# A name has at most 4095 bytes, which escapes double; the rest is for digest, tag and blanks.
MAX_LINE_BYTES = 16 * 1024

# Enough to see what a manifest is.
HEAD_BYTES = 4096

_BOM = codecs.BOM_UTF8
_WHITE = b" \t"
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}
_ONLY_DIGEST = re.compile(rb"\s*[0-9a-fA-F]{32,128}\s*")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DRIVE = re.compile(r"[A-Za-z]:")

# What a problem shows of a line.
_SHOWN_CHARACTERS = 80


class Line(NamedTuple):
    """A line of a manifest. `name` is empty if the line is not well-formed. If it leads out of the folder, it is as the
    line has it, else without `./`, `//` and `..`. `written` is what the line has, if its folders are separated by
    backslashes, as on Windows: `md5sum` on Linux writes a backslash in a name as an escape.
    """

    number: int
    name: str
    digest: str = ""
    leads_out: bool = False
    written: str = ""


def algorithm_of(name: str) -> str | None:
    """The algorithm of a manifest with this name; None if it is not the name of a manifest."""
    matched = _NAME.fullmatch(name.rpartition("/")[2])
    if matched is None:
        return None
    return next(group for group in matched.groups() if group).lower().replace("-", "")


def is_only_digest(head: bytes) -> bool:
    """Whether a file that begins like this holds a digest and no name. It is not a manifest, to md5sum neither."""
    return len(head) < HEAD_BYTES and _ONLY_DIGEST.fullmatch(head.removeprefix(_BOM)) is not None


def problem_of(head: bytes, algorithm: str, lines: int, malformed: int) -> str:
    """Says which lines of a manifest cannot be read; empty if all can. `head` is the start of the manifest."""
    if lines == 0:
        return "it lists no file"
    if malformed == 0:
        return ""
    if malformed < lines:
        return f"{malformed:,} of its {lines:,} lines cannot be read"
    if head.startswith(_UTF_16) or b"\0" in head:
        return "it is not plain text, such as UTF-16 (which PowerShell writes): save it as UTF-8"
    first = next((line for line in head.removeprefix(_BOM).splitlines() if line and not line.startswith(b"#")), b"")
    shown = printable(os.fsdecode(first))[:_SHOWN_CHARACTERS]
    return f"no line of it has a digest and a name as {algorithm}sum writes them: the first is {shown}"


def read_manifest(file: BinaryIO, algorithm: str) -> Iterator[Line]:
    """Every line that is not a comment or blank, in order. Uses as much memory as one line."""
    reader = _Reader(algorithm)
    for number, raw in raw_lines(file):
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if raw and not raw.startswith(b"#"):
            yield reader.line(number, raw)


def raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines without their ends; a line that is too long comes cut, and so is not well-formed."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            # Its end is skipped, and a zero byte is in no proper line.
            raw = b"\0"
        yield number, raw.removesuffix(b"\n").removesuffix(b"\r")


class _Reader:
    """Parses line after line as `split_3` in coreutils' digest.c does."""

    def __init__(self, algorithm: str) -> None:
        self._digits = HEX_DIGITS[algorithm]
        # Nearly every line: no escape, and no part of the name begins with a dot or is empty.
        self._usual = re.compile(rb"([0-9a-f]{%d}) [ *]([^\\/.\0][^\\/\0]*(?:/[^\\/.\0][^\\/\0]*)*)" % self._digits)
        self._tag = algorithm.upper().encode()
        # "HEX NAME" with one blank, as some BSDs write it. As coreutils, mixed with the usual form in no file: a name
        # may begin with a blank.
        self._one_blank: bool | None = None

    def line(self, number: int, raw: bytes) -> Line:
        if not self._one_blank and (usual := self._usual.fullmatch(raw)):
            self._one_blank = False
            return Line(number, os.fsdecode(usual[2]), usual[1].decode("ascii"))
        split = None if b"\0" in raw else self._split(raw)
        if split is None:
            return Line(number, "")
        name, digest, written = os.fsdecode(split[0]), split[1].decode("ascii").lower(), ""
        if "\\" in name and not split[2]:
            name, written = name.replace("\\", "/"), name
        clean = None if written and _DRIVE.match(name) else inside(name)
        return Line(number, name if clean is None else clean, digest, leads_out=clean is None, written=written)

    def _split(self, raw: bytes) -> tuple[bytes, bytes, bool] | None:
        """Name, digest, and whether the name had escapes."""
        raw = raw.lstrip(_WHITE)
        escaped = raw.startswith(b"\\")
        raw = raw[escaped:]
        split = self._tagged(raw) if raw.startswith(self._tag) else self._plain(raw)
        if split is None or not _is_hex(split[1], self._digits):
            return None
        name = _unescaped(split[0]) if escaped else split[0]
        return (name, split[1], escaped) if name else None

    def _tagged(self, raw: bytes) -> tuple[bytes, bytes] | None:
        opening, _, rest = raw[len(self._tag) :].partition(b"(")
        name, bracket, digest = rest.rpartition(b")")
        digest = digest.lstrip(_WHITE)
        if opening not in (b"", b" ") or not bracket or not digest.startswith(b"="):
            return None
        return name, digest[1:].lstrip(_WHITE)

    def _plain(self, raw: bytes) -> tuple[bytes, bytes] | None:
        digest, blank, rest = raw[: self._digits], raw[self._digits : self._digits + 1], raw[self._digits + 1 :]
        if not blank or blank not in _WHITE or not rest:
            return None
        if len(rest) == 1 or rest[:1] not in (b" ", b"*"):
            if self._one_blank is False:
                return None
            self._one_blank = True
        elif not self._one_blank:
            self._one_blank = False
            rest = rest[1:]
        return rest, digest


def _is_hex(text: bytes, digits: int) -> bool:
    return len(text) == digits and not text.strip(b"0123456789abcdefABCDEF")


def _unescaped(name: bytes) -> bytes:
    """Empty if an escape is not valid."""
    if any(escape not in _ESCAPED for escape in _ESCAPE.findall(name)):
        return b""
    return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], name)


def inside(name: str) -> str | None:
    """The name without `./`, `//` and `..`; None if it leads out of its folder, or can only be a folder."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith("/") or name.rpartition("/")[2] in ("", ".", "..") or not parts:
        return None
    return "/".join(parts)
