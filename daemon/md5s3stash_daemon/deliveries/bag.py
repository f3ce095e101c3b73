"""BagIt bags (RFC 8493, and the drafts 0.93 to 0.97): how their manifests are written, and what else makes one valid.

A bag is a delivery whose folder has a `bagit.txt`. The manifests decide about each file, as in any delivery; the rest
is judged at the end. Where versions and texts differ, `bagit.py --validate` of the Library of Congress decides, but
for one thing: tag manifests count in every version.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO, Protocol

from md5s3stash_daemon.deliveries.fetch import FETCH, MAX_FETCH_BYTES, read_fetch
from md5s3stash_daemon.deliveries.journal import Journal
from md5s3stash_daemon.deliveries.manifest import Line, inside, raw_lines
from md5s3stash_daemon.deliveries.records import State

DECLARATION = "bagit.txt"
_INFO = ("bag-info.txt", "package-info.txt")

# Tag files are short texts.
MAX_TAG_BYTES = 1024 * 1024

# Problems of one kind.
_SHOWN = 1000

_MANIFEST = re.compile(r"(tag)?manifest-[a-z0-9]+\.txt")
_PAYLOAD = "data/"
# Upper case alone, as bagit.py.
_ENCODED = re.compile(r"%0([AD])")
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")
_OXUM = re.compile(r"([0-9]+)\.([0-9]+)")


def is_bag_manifest(name: str) -> bool:
    """Whether a manifest of this name has the lines of a bag."""
    return _MANIFEST.fullmatch(name.rpartition("/")[2]) is not None


def read_bag_manifest(file: BinaryIO) -> Iterator[Line]:
    """Every line that is not a comment or blank: a digest, white space, perhaps `*`, and a name, in which `%0A` and
    `%0D` stand for line ends. What stands for a digest is kept as it is: no file has a wrong one.
    """
    for number, raw in raw_lines(file):
        text = os.fsdecode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).strip()
        if not text or text.startswith("#"):
            continue
        digest, _, name = text.replace("\t", " ", 1).partition(" ") if "\0" not in text else ("", "", "")
        name = name.lstrip().lstrip("*")
        if not name:
            yield Line(number, "")
            continue
        name = _ENCODED.sub(lambda found: "\n" if found[1] == "A" else "\r", os.path.normpath(name))
        clean = None if name.startswith("~") else inside(name)
        yield Line(number, name if clean is None else clean, digest.lower(), leads_out=clean is None)


@dataclass(frozen=True, slots=True)
class Bag:
    """What the tag files of a bag say, and what is wrong with it beyond its files."""

    version: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Contents(Protocol):
    def read(self, md5: str, max_bytes: int) -> bytes | None: ...


def bag_of(journal: Journal, number: int, contents: _Contents) -> Bag | None:
    """The delivery as a bag; None if it has no `bagit.txt`. Raises StoreError."""
    if journal.file(number, DECLARATION) is None:
        return None
    tag_files, problems = {}, []
    for name in (DECLARATION, *_INFO, FETCH):
        row = journal.file(number, name)
        if row is None or row.state is State.MISSING:
            continue
        max_bytes = MAX_FETCH_BYTES if name == FETCH else MAX_TAG_BYTES
        data = None
        if not row.md5:
            problems.append(f"{name} is not stored, so it was not read")
        elif (row.size_bytes or 0) > max_bytes:
            problems.append(f"{name} has {row.size_bytes:,} bytes, more than {max_bytes:,}, so it was not read")
        elif (data := contents.read(row.md5, max_bytes)) is None:
            problems.append(f"{name} is gone from S3, so it was not read")
        if data is not None:
            tag_files[name] = data
    if DECLARATION not in tag_files:
        return Bag(problems=tuple(problems or [f"{DECLARATION} did not come"]))
    bag = judged_bag(journal, number, tag_files)
    return replace(bag, problems=(*problems, *bag.problems))


def parse_tags(data: bytes) -> tuple[dict[str, str], list[str]]:
    """`Name: value` lines, of which an indented one continues the value; of several with one name, the first. And the
    lines that are not of this form.
    """
    found: list[tuple[str, str]] = []
    wrong = []
    for line in data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if line[:1].isspace() and line.strip() and found:
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}"
        elif colon:
            found.append((name.strip(), value.strip()))
        elif line.strip():
            wrong.append(line.strip())
    return dict(reversed(found)), wrong


def judged_bag(journal: Journal, number: int, tag_files: Mapping[str, bytes]) -> Bag:
    """The bag with these tag files, by name. Its files are in the journal."""
    declaration = tag_files[DECLARATION]
    tags, wrong = parse_tags(declaration)
    version = tags.get("BagIt-Version", "")
    encoding = tags.get("Tag-File-Character-Encoding", "")
    problems = [f"bagit.txt has the line {line!r}" for line in wrong]
    if declaration.startswith(codecs.BOM_UTF8):
        problems.append("bagit.txt begins with a byte order mark")
    matched = _VERSION.fullmatch(version)
    numbers = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not (0, 93) <= numbers < (2, 0):
        problems.append(f"bagit.txt has the version {version!r}, not one from 0.93 to 1.0")
    if not _is_known(encoding):
        problems.append(f"bagit.txt has the unknown encoding {encoding!r}")
    manifests = journal.manifests(number)
    if not any(manifest.name.startswith("manifest-") for manifest in manifests):
        problems.append("it has no payload manifest")
    info_name = _INFO[numbers < (0, 96)]
    info, wrong = parse_tags(tag_files.get(info_name, b""))
    problems += _some(f"{info_name} has the line {line!r}" for line in wrong)
    problems += _payload_problems(journal, number, info.get("Payload-Oxum"))
    problems += _some(_fetch_problems(journal, number, tag_files.get(FETCH, b"")))
    if numbers >= (1, 0):
        problems += _some(f"a manifest lists {name!r} more than once" for name in journal.listed_twice(number))
    return Bag(version, info, tuple(problems))


def _fetch_problems(journal: Journal, number: int, data: bytes) -> Iterator[str]:
    """What is wrong with lines of `fetch.txt`, and which files are missing because their URL is not fetched."""
    for line in read_fetch(data):
        if isinstance(line, str):
            yield line
        elif not line.is_fetched and (row := journal.file(number, line.name)) and row.state is State.MISSING:
            yield f"{line.name!r} is missing: fetch.txt has it at {line.url!r}, and only http and https are fetched"


def _some(problems: Iterator[str]) -> list[str]:
    """The first of one kind, and how many more there are."""
    shown = list(itertools.islice(problems, _SHOWN))
    more = sum(1 for _ in problems)
    return [*shown, f"and {more:,} more like this"] if more else shown


def _is_known(encoding: str) -> bool:
    try:
        return bool(codecs.lookup(encoding))
    except LookupError:
        return False


def _payload_problems(journal: Journal, number: int, oxum: str | None) -> list[str]:
    unlisted = (row.name for row in journal.files(number, (State.UNLISTED,)) if row.name.startswith(_PAYLOAD))
    problems = _some(f"{name!r} is in the payload, but in no manifest" for name in unlisted)
    if oxum is None:
        return problems
    matched = _OXUM.fullmatch(oxum)
    if matched is None:
        return [*problems, f"Payload-Oxum is {oxum!r}, not BYTES.FILES"]
    count = size_bytes = 0
    sizes_known = True
    for row in journal.files(number, (State.RIGHT, State.EARLIER, State.UNLISTED)):
        if row.name.startswith(_PAYLOAD):
            count += 1
            sizes_known &= row.size_bytes is not None
            size_bytes += row.size_bytes or 0
    if sizes_known and (int(matched[1]), int(matched[2])) != (size_bytes, count):
        problems.append(f"Payload-Oxum is {oxum}, but {count} files with {size_bytes} bytes are here and not wrong")
    return problems
