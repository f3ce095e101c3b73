"""Does a bucket hold what its keys promise? Decided from the LIST entry of each object; pure.

A key is the md5 of the content, and so is the ETag of an object that was put in one request. The ETag of a multipart
object is another digest, and in a bucket that encrypts with KMS the ETags look like md5s but are not. LIST does not
show what such objects hold; `inspection` checks them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from md5s3stash.scheme import BucketBase, BucketScheme, KeyTemplate, ObjectAddress, split_name

if TYPE_CHECKING:
    from md5s3stash.errors import StoreError
    from md5s3stash.s3.listing import ListedObject

EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


class FaultKind(StrEnum):
    """What can be wrong with an object, by the names that reports use."""

    FOREIGN_KEY = "foreign-key"
    WRONG_SIZE = "wrong-size"
    WRONG_ETAG = "wrong-etag"
    WRONG_SHARD = "wrong-shard"
    WRONG_BYTES = "wrong-bytes"
    UNREADABLE = "unreadable"
    NOT_RECORDED = "not-recorded"
    NOT_STORED = "not-stored"


# The store itself shows that the right object is not there. A wrong ETag may only mean that the bucket is encrypted.
NOT_THERE = (FaultKind.WRONG_SIZE, FaultKind.WRONG_BYTES, FaultKind.NOT_STORED)


class Fault(NamedTuple):
    """An object that is not what its key says, and why."""

    address: ObjectAddress
    kind: FaultKind
    reason: str


def unreadable(address: ObjectAddress, error: StoreError) -> Fault:
    """The fault of an object that could not be read. Its reason does not repeat the URL."""
    return Fault(address, FaultKind.UNREADABLE, str(error).removeprefix(f"{address.s3_url}: "))


def fault_of(base: BucketBase, bucket: str, found: ListedObject) -> Fault | None:
    """The fault that LIST shows in an object of this bucket, if any. The shard is checked last: an object in the wrong
    shard may still have the right content.
    """

    def fault(kind: FaultKind, reason: str) -> Fault:
        return Fault(ObjectAddress(bucket, found.key), kind, reason)

    name = base.name_at(found.key)
    if name is None:
        return fault(FaultKind.FOREIGN_KEY, f"its key is not an md5 in lower-case hex{_after(base, found.key)}")
    _, md5 = split_name(name)
    if base.is_derivative(found.key):
        return _wrong_shard(base, bucket, found)
    if (found.size_bytes == 0) != (md5 == EMPTY_MD5):
        is_not = "is" if md5 == EMPTY_MD5 else "is not"
        return fault(
            FaultKind.WRONG_SIZE,
            f"the object has {found.size_bytes} bytes, but its key {is_not} the md5 of empty content",
        )
    if not is_of_parts(found.etag) and found.etag != md5:
        return fault(FaultKind.WRONG_ETAG, f"its ETag is {found.etag or 'missing'}")
    return _wrong_shard(base, bucket, found)


def _after(base: BucketBase, key: str) -> str:
    if base.keys is KeyTemplate.COLLECTION:
        return " after a collection"
    name = replace(base, keys=KeyTemplate.COLLECTION).name_at(key)
    return f", but one after {split_name(name)[0]}/: a collection, or another bucket base" if name else ""


def _wrong_shard(base: BucketBase, bucket: str, found: ListedObject) -> Fault | None:
    right_bucket = base.address(split_name(found.key)[1]).bucket
    if right_bucket == bucket:
        return None
    reason = f"it belongs in the bucket {right_bucket}"
    return Fault(ObjectAddress(bucket, found.key), FaultKind.WRONG_SHARD, reason)


def is_of_parts(etag: str) -> bool:
    """Whether it is the ETag of an object that was made of several parts: `{md5 of md5s}-{number of parts}`."""
    return "-" in etag


def nested_prefixes(base: BucketBase, bases: Iterable[BucketBase]) -> tuple[str, ...]:
    """The prefixes of other bases inside this base: their objects are audited separately."""
    mine = base.prefix
    return tuple(
        prefix
        for other in bases
        if base.scheme is BucketScheme.SIMPLE and other.buckets() == base.buckets()
        if (prefix := other.prefix) != mine and prefix.startswith(mine)
    )
