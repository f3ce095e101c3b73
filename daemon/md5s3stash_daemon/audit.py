"""Does a bucket hold what its keys promise? Judged from what a LIST tells of each object; pure.

A key is the md5 of the content, and so is the ETag of an object that was put in one request. Where S3 made the object
of several parts, its ETag is another digest: those are counted as not checkable. A bucket that encrypts with KMS has
ETags that look like md5s and are none, which a LIST does not tell either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from md5s3stash.digest import is_md5
from md5s3stash.s3_list import ListedObject
from md5s3stash.scheme import BucketBase, BucketScheme, ObjectAddress

EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


class Fault(NamedTuple):
    """An object that is not what its key says, and why."""

    address: ObjectAddress
    reason: str


@dataclass(slots=True)
class Tally:
    """What an audit has seen so far."""

    objects: int = 0
    size_bytes: int = 0
    faults: int = 0
    wrong_etags: int = 0
    not_checkable: int = 0

    def add(self, other: Tally) -> None:
        for name in ("objects", "size_bytes", "faults", "wrong_etags", "not_checkable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def looks_encrypted(self) -> bool:
        """No single ETag is its key: then it is rather the bucket's encryption than all of its objects."""
        return self.wrong_etags > 0 and self.wrong_etags == self.objects - self.not_checkable


def prefix_of(base: BucketBase) -> str:
    """What the keys of a base begin with."""
    return base.address(EMPTY_MD5).key.removesuffix(EMPTY_MD5)


def nested_prefixes(base: BucketBase, bases: Iterable[BucketBase]) -> tuple[str, ...]:
    """Where in the bucket of a base other bases have their objects: those are judged on their own."""
    mine = prefix_of(base)
    return tuple(
        prefix
        for other in bases
        if base.scheme is BucketScheme.SIMPLE and other.buckets() == base.buckets()
        if (prefix := prefix_of(other)) != mine and prefix.startswith(mine)
    )


def audit(
    base: BucketBase, bucket: str, objects: Iterable[ListedObject], others: tuple[str, ...], tally: Tally
) -> Iterator[Fault]:
    """The faults among the objects; each object is counted in the tally."""
    for found in objects:
        if others and found.key.startswith(others):
            continue
        tally.objects += 1
        tally.size_bytes += found.size_bytes
        tally.not_checkable += _is_of_parts(found)
        reason = _fault(base, bucket, found)
        if reason is not None:
            tally.faults += 1
            tally.wrong_etags += reason.startswith(_WRONG_ETAG)
            yield Fault(ObjectAddress(bucket, found.key), reason)


_WRONG_ETAG = "its ETag"


def _fault(base: BucketBase, bucket: str, found: ListedObject) -> str | None:
    md5 = found.key.removeprefix(prefix_of(base))
    if not is_md5(md5) or md5 != md5.lower():
        return "its key is not an md5 in lower-case hex"
    right_bucket = base.address(md5).bucket
    if right_bucket != bucket:
        return f"it belongs into the bucket {right_bucket}"
    if (found.size_bytes == 0) != (md5 == EMPTY_MD5):
        return f"it has {found.size_bytes} bytes, and its key is {'' if md5 == EMPTY_MD5 else 'not '}that of none"
    if not _is_of_parts(found) and found.etag != md5:
        return f"{_WRONG_ETAG} is {found.etag or 'missing'}"
    return None


def _is_of_parts(found: ListedObject) -> bool:
    return "-" in found.etag
