"""What to do with an object of the source, decided from both LISTs; pure."""

from __future__ import annotations

from enum import StrEnum

from md5s3stash.objectstore import StoredObject
from md5s3stash_migrate.listing import Stored


class Step(StrEnum):
    """`COMPARE`: LIST cannot show whether the two are the same; a HEAD of each may."""

    COPY = "copy"
    PRESENT = "present"
    COMPARE = "compare"


class Comparison(StrEnum):
    """The result of two HEADs."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


def step_for(source: Stored, standing: Stored | None) -> Step:
    """The source's ETag is its md5, unless it is a multipart object. A copy of it in one request has the md5 as its
    ETag, a copy in the same parts has the same ETag.
    """
    if standing is None:
        return Step.COPY
    if standing.size_bytes == source.size_bytes and standing.etag in (source.md5, source.etag):
        return Step.PRESENT
    return Step.COMPARE


def compare(md5: str, here: StoredObject, there: StoredObject) -> Comparison:
    """Whether the target's object has the source's content, from a HEAD of each."""
    if there.size_bytes != here.size_bytes:
        return Comparison.DIFFERENT
    if there.md5 is not None:
        return Comparison.SAME if there.md5 == md5 else Comparison.DIFFERENT
    if here.sha256 is None or there.sha256 is None:
        return Comparison.UNKNOWN
    return Comparison.SAME if here.sha256 == there.sha256 else Comparison.DIFFERENT
