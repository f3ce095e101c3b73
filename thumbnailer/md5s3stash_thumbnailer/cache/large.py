"""Reads parts of originals that are too large to be fetched. The md5 of a part says nothing of the whole. So what S3
says of the object stands for it (decision 49).

The ETag, which S3 has computed from what it was sent, must be the md5. Where it is not an md5 (an object that was sent
in parts, or is encrypted with KMS), the object must have the SHA-256 with which this program marks what it has hashed.
Each part is asked for with `If-Match`, so that all are of one object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from md5s3stash.errors import DigestMismatch, SourceTooLarge
from md5s3stash.objectstore import ObjectPart
from md5s3stash.scheme import BucketBase, ObjectAddress, split_name
from md5s3stash_thumbnailer.errors import FetchTimedOut, OriginalNotFound
from md5s3stash_thumbnailer.stills.containers import HEAD_BYTES, VIDEO, kind_of
from md5s3stash_thumbnailer.stills.parts import Parts


class PartReader(Protocol):
    """What is needed of a store (`s3/reader.py`)."""

    def read_part(
        self, address: ObjectAddress, first: int, last: int, etag: str = "", check: Callable[[], None] = ...
    ) -> ObjectPart | None: ...


@dataclass(frozen=True, slots=True)
class LargeOriginals:
    """Those of one stash. `seconds` is how long all parts of one may take."""

    store: PartReader
    base: BucketBase
    seconds: float

    def is_one(self, md5: str, shown: Collection[str]) -> bool:
        """Whether the original is a video, and videos are among the kinds that are shown."""
        head = self.store.read_part(self.base.address_of(md5), 0, HEAD_BYTES - 1) if VIDEO in shown else None
        return head is not None and kind_of(head.data) == VIDEO

    def open(self, md5: str) -> tuple[Parts, float]:
        """The parts, of which none has been read, and the date of the original. Raises OriginalNotFound, DigestMismatch
        if the object is another one, SourceTooLarge if nothing says that it is this one, or a StoreError.
        """
        address = self.base.address_of(md5)
        head = self.store.read_part(address, 0, HEAD_BYTES - 1)
        if head is None:
            raise OriginalNotFound(f"Nothing is stashed under {md5}")
        if not self.base.is_derivative(address.key):
            _require(split_name(md5)[1], head, address)

        left = self.seconds

        def read(first: int, last: int) -> bytes:
            nonlocal left
            # What ffmpeg takes between two parts does not count.
            deadline = time.monotonic() + left

            def check() -> None:
                if time.monotonic() > deadline:
                    raise FetchTimedOut("S3 sent the parts of the original too slowly")

            part = self.store.read_part(address, first, last, head.etag, check)
            left = deadline - time.monotonic()
            if part is None:
                raise OriginalNotFound(f"Nothing is stashed under {md5}")
            return part.data

        return Parts(read, head.stored.size_bytes), head.stored.last_modified or time.time()


def _require(md5: str, head: ObjectPart, address: ObjectAddress) -> None:
    if head.stored.md5 not in (None, md5):
        raise DigestMismatch(f"{address.s3_url} holds bytes with the md5 {head.stored.md5}; nothing was shown")
    if not head.etag or (head.stored.md5 is None and head.stored.sha256 is None):
        raise SourceTooLarge(f"{address.s3_url} is too large to be fetched, and has no digest that S3 knows")
