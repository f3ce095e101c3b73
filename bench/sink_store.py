"""The sink's state: the digest and size of each object, without its bytes. A bucket can also show any number of made-up
objects, generated when a LIST asks for them.
"""

from __future__ import annotations

import base64
import bisect
import functools
import hashlib
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

LISTED_AT_ONCE = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_MADE_UP_BYTES = 20_000
_LONG_AGO = 1_400_000_000
_ALL_DIGESTS = 1 << 128


class Stored(NamedTuple):
    """An object. `attributes` are header lines that a HEAD returns."""

    etag: str
    size: int
    modified: int
    attributes: bytes


class Listed(NamedTuple):
    """An object as a LIST shows it."""

    key: str
    etag: str
    size: int
    modified: int


@dataclass
class Upload:
    """A multipart upload in progress: part number -> md5 and size."""

    attributes: bytes
    parts: dict[int, tuple[bytes, int]] = field(default_factory=dict)

    def finished(self) -> Stored:
        """The object, with S3's ETag for parts."""
        parts = [self.parts[number] for number in sorted(self.parts)]
        whole = hashlib.md5(b"".join(md5 for md5, _ in parts), usedforsecurity=False).hexdigest()
        return Stored(f"{whole}-{len(parts)}", sum(size for _, size in parts), int(time.time()), self.attributes)


class Bucket:
    """Keys as in the request line, and their objects."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        # Made-up objects in a LIST. Their keys are evenly spread md5s.
        self.made_up = 0
        self._sorted: list[str] = []

    def listed(self, after: str, prefix: str, count: int) -> list[Listed]:
        """The first objects after the key `after`, in the order of a LIST."""
        names = self._names()
        at = max(bisect.bisect_right(names, after), bisect.bisect_left(names, prefix))
        found = [Listed(name, *self.objects[name][:3]) for name in names[at : at + count]]
        if self.made_up:
            numbers = range(self.made_up)
            first = max(
                bisect.bisect_right(numbers, after, key=self._made_up_key),
                bisect.bisect_left(numbers, prefix, key=self._made_up_key),
            )
            made_up = map(self._made_up_key, numbers[first : first + count])
            found = sorted([*found, *(Listed(key, key, _MADE_UP_BYTES, _LONG_AGO) for key in made_up)])[:count]
        return [entry for entry in found if entry.key.startswith(prefix)]

    def _names(self) -> list[str]:
        # Objects are never deleted, so an unchanged number means unchanged keys.
        if len(self._sorted) != len(self.objects):
            self._sorted = sorted(self.objects)
        return self._sorted

    def _made_up_key(self, number: int) -> str:
        return f"{_ALL_DIGESTS // self.made_up * number:032x}"


@dataclass
class Store:
    """All buckets, which are created on first use, and the requests per method."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def bucket(self, name: str) -> Bucket:
        found = self.buckets.get(name)
        if found is None:
            found = self.buckets[name] = Bucket()
        return found

    def begin(self, attributes: bytes) -> str:
        """The id of a new multipart upload."""
        upload_id = f"upload-{next(self._numbers)}"
        self.uploads[upload_id] = Upload(attributes)
        return upload_id


def list_page(name: str, bucket: Bucket, prefix: str, after: str) -> bytes:
    """The answer to a LIST of either version; keys are the tokens and markers. It ignores delimiters: a
    stash is flat.
    """
    found = bucket.listed(after, prefix, LISTED_AT_ONCE + 1)
    page, more = found[:LISTED_AT_ONCE], len(found) > LISTED_AT_ONCE
    entries = "".join(
        f"<Contents><Key>{unquote(entry.key)}</Key><LastModified>{iso(entry.modified)}</LastModified>"
        f"<ETag>&quot;{entry.etag}&quot;</ETag><Size>{entry.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for entry in page
    )
    last = page[-1].key if more else ""
    tokens = f"<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<ListBucketResult xmlns="{NAMESPACE}"><Name>{name}</Name><Prefix>{prefix}</Prefix>'
        f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{LISTED_AT_ONCE}</MaxKeys>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{tokens}{entries}</ListBucketResult>"
    ).encode()


def matches(stated_base64: str, digest: bytes) -> bool:
    """Whether a digest equals the one in a header; false if the header is not base64."""
    try:
        return base64.b64decode(stated_base64, validate=True) == digest
    except ValueError:
        return False


@functools.cache
def iso(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))
