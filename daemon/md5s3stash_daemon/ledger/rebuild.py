"""Sources for records that Redis has lost: a LIST of the buckets, and an earlier export.

A LIST has digests and places. With `types`, a HEAD for each object adds the type. Buckets have neither names nor
dimensions: both come from the export, and dimensions also when the content is stashed again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any, BinaryIO

from md5s3stash.audit import Fault, FaultKind, fault_of, unreadable
from md5s3stash.digest import is_md5
from md5s3stash.errors import StoreError, StoreUnavailable
from md5s3stash.inspection import Proof, inspect
from md5s3stash.media import NO_DIMENSIONS
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.s3.listing import ListedObject, Lister
from md5s3stash.s3.store import S3ObjectStore
from md5s3stash.scheme import BucketBase, ObjectAddress, is_collection, split_name
from md5s3stash_daemon.ledger.reader import Mapped, is_size
from md5s3stash_daemon.ledger.restore import Restorer

# Names and URLs have a few thousand bytes, and JSON may write each as six.
MAX_LINE_BYTES = 256 * 1024
LINES_AT_ONCE = 1000

# The type that S3 returns for an object stored without one.
_NO_TYPE = "binary/octet-stream"

_POLICY = RetryPolicy(attempts=4)


@dataclass(slots=True)
class RebuildCounts:
    """The counts so far: `met` objects or lines read, `contents`, `names` and `ids` entries written, `known` objects or
    lines without news, `faults` those left out.
    """

    met: int = 0
    contents: int = 0
    names: int = 0
    known: int = 0
    faults: int = 0
    ids: int = 0

    def add(self, other: RebuildCounts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Reads buckets. `types` asks for the MIME type of each object without a recorded one; `heads` are the threads for
    that; `stopping` ends all buckets after their current page.
    """

    lister: Lister
    store: S3ObjectStore
    restorer: Restorer
    heads: ThreadPoolExecutor
    types: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)

    def rebuild(
        self, base: BucketBase, bucket: str, others: tuple[str, ...], counts: RebuildCounts
    ) -> Iterator[Fault | str]:
        """Records the objects of a bucket. Yields the faults of those it leaves out, and after each page its last md5.

        `others` are key prefixes that belong to other bases. Raises StoreError if the bucket cannot be listed.
        """
        for page in self.lister.pages(bucket, base.prefix):
            if self.stopping.is_set():
                return
            mine = [found for found in page if not (others and found.key.startswith(others))]
            # Recorded, a picture made of a content would pass for the content itself.
            mine = [found for found in mine if not base.is_derivative(found.key)]
            judged = list(self.heads.map(lambda found: self._fault(base, bucket, found), mine))
            faults = [fault for fault in judged if fault is not None]
            yield from faults
            good = [found.key for found, fault in zip(mine, judged, strict=True) if fault is None]
            contents = [Mapped("", split_name(key)[1], ObjectAddress(bucket, key).s3_url) for key in good]
            if self.types:
                contents = self._with_types(bucket, contents)
            restored = self.restorer.add(contents)
            counts.add(RebuildCounts(len(mine), restored.contents, 0, len(good) - restored.contents, len(faults)))
            if contents:
                yield contents[-1].md5

    def _fault(self, base: BucketBase, bucket: str, found: ListedObject) -> Fault | None:
        """Why an object is left out. If the ETag is another digest, KMS may encrypt the object: the HEAD shows it."""
        fault = fault_of(base, bucket, found)
        if fault is None or fault.kind is not FaultKind.WRONG_ETAG:
            return fault
        address = ObjectAddress(bucket, found.key)
        try:
            proof = inspect(self.store, address, split_name(found.key)[1], deep=False)
        except StoreError as error:
            return unreadable(address, error)
        return None if proof in (Proof.BY_SHA256, Proof.NONE) else fault

    def _with_types(self, bucket: str, contents: list[Mapped]) -> list[Mapped]:
        known = self.restorer.known([content.md5 for content in contents])

        def asked(content: Mapped) -> Mapped:
            return content if _has_type(known.get(content.md5)) else self._with_type(bucket, content)

        return list(self.heads.map(asked, contents))

    def _with_type(self, bucket: str, content: Mapped) -> Mapped:
        address = ObjectAddress(bucket, content.s3_url.removeprefix(f"s3://{bucket}/"))
        stored = retrying(lambda: self.store.head(address), _POLICY, only=(StoreUnavailable,))
        mime_type = stored.content_type if stored is not None else None
        if not mime_type or mime_type == _NO_TYPE:
            return content
        if mime_type.startswith("image/"):
            return replace(content, mime_type=mime_type)
        width, height = NO_DIMENSIONS
        return replace(content, mime_type=mime_type, width=width, height=height)


def _has_type(known: Mapped | None) -> bool:
    return known is not None and bool(known.mime_type)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a valid line of an export."""

    number: int
    reason: str


def import_export(file: BinaryIO, restorer: Restorer, counts: RebuildCounts) -> Iterator[BadLine]:
    """Records the lines of an export (`md5s3stashctl export --format jsonl`), a thousand at a time. Yields the bad
    lines. Raises OSError.
    """
    number = 0
    batch: list[Mapped] = []
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        counts.met += 1
        try:
            batch.append(_parsed(line))
        except ValueError as error:
            counts.faults += 1
            yield BadLine(number, str(error))
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
        if len(batch) == LINES_AT_ONCE:
            _import_batch(batch, restorer, counts)
            batch = []
    _import_batch(batch, restorer, counts)


def _import_batch(batch: list[Mapped], restorer: Restorer, counts: RebuildCounts) -> None:
    restored = restorer.add(batch)
    counts.contents += restored.contents
    counts.names += restored.names
    counts.ids += restored.ids
    counts.known += len(batch) - restored.names - restored.ids


def _parsed(line: bytes) -> Mapped:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        cut = "" if line.endswith(b"\n") else ": the export is cut off"
        raise ValueError(f"not valid JSON{cut}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    name, md5, record_id = record.get("name"), record.get("md5"), _text_or_empty(record.get("record"))
    if record_id and name is None:
        name = ""
    elif not isinstance(name, str) or not name or not _is_encodable(name):
        raise ValueError("the name is not a file name or URL")
    collection = _text_or_empty(record.get("collection"))
    if collection and not is_collection(collection):
        raise ValueError("the collection is not a collection")
    if not isinstance(md5, str) or not is_md5(md5):
        raise ValueError("the md5 is not an md5")
    width, height = record.get("width"), record.get("height")
    sized = is_size(width) and is_size(height)
    return Mapped(
        name,
        md5.lower(),
        _text_or_empty(record.get("s3_url")),
        _text_or_empty(record.get("mime_type")),
        width if sized else None,
        height if sized else None,
        collection,
        record_id,
    )


def _is_encodable(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) and _is_encodable(value) else ""
