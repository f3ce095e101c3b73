"""Both sides of a migration as two streams in the order of their md5s, each merged from up to 36 concurrent lists.

However many objects there are, memory holds one page of each list, and the next one is being requested.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from md5s3stash.audit import Fault, FaultKind, fault_of
from md5s3stash.digest import is_md5
from md5s3stash.errors import StoreError
from md5s3stash.s3.listing import Lister, Page, ahead
from md5s3stash.scheme import BucketBase, ObjectAddress

OnFault = Callable[[Fault], None]
OnUnread = Callable[[str, StoreError], None]

_md5_of = attrgetter("md5")


class Stored(NamedTuple):
    """An object whose key is an md5, from LIST."""

    md5: str
    size_bytes: int
    etag: str
    address: ObjectAddress


class Listing:
    """Lists through one pool of threads; `pages` counts the LIST requests that were answered."""

    def __init__(self, lister: Lister, executor: Executor) -> None:
        self._lister = lister
        self._executor = executor
        self.pages = 0

    def of_source(
        self, base: BucketBase, others: tuple[str, ...], on_fault: OnFault, on_unread: OnUnread
    ) -> Iterator[Stored]:
        """The objects whose content matches their key, as far as LIST shows; the others go to `on_fault`.

        An object in the wrong shard goes to both: its content is right. A bucket that cannot be listed goes to
        `on_unread`, and the other buckets are still read. `others` are key prefixes to skip.
        """

        def objects(bucket: str, pages: Iterator[Page]) -> Iterator[Stored]:
            try:
                for page in pages:
                    self.pages += 1
                    yield from _good_objects(base, bucket, page, others, on_fault)
            except StoreError as error:
                on_unread(bucket, error)

        return self._merged(base, objects)

    def of_target(self, base: BucketBase) -> Iterator[Stored]:
        """The objects that are where the scheme looks for them. Raises StoreError."""

        def objects(bucket: str, pages: Iterator[Page]) -> Iterator[Stored]:
            prefix = base.prefix
            for page in pages:
                self.pages += 1
                for found in page:
                    md5, address = found.key.removeprefix(prefix), ObjectAddress(bucket, found.key)
                    if is_md5(md5) and base.address(md5) == address:
                        yield Stored(md5, found.size_bytes, found.etag, address)

        return self._merged(base, objects)

    def _merged(self, base: BucketBase, objects: Callable[[str, Iterator[Page]], Iterator[Stored]]) -> Iterator[Stored]:
        # All lists are started before the first is read.
        lists = [(bucket, ahead(self._lister.pages(bucket, base.prefix), self._executor)) for bucket in base.buckets()]
        return heapq.merge(*(objects(bucket, pages) for bucket, pages in lists), key=_md5_of)


def join(
    source: Iterator[Stored], target: Iterator[Stored], base: BucketBase
) -> Iterator[tuple[Stored, Stored | None]]:
    """Each md5 of the source once, with the target's object of that md5. `base` is the source's: of an object in
    several shards the one in the right place is taken.
    """
    standing = next(target, None)
    for md5, same in groupby(source, key=_md5_of):
        right_place = base.address(md5)
        while standing is not None and standing.md5 < md5:
            standing = next(target, None)
        found = standing if standing is not None and standing.md5 == md5 else None
        yield min(same, key=lambda each: each.address != right_place), found


def _good_objects(
    base: BucketBase, bucket: str, page: Page, others: tuple[str, ...], on_fault: OnFault
) -> Iterator[Stored]:
    prefix = base.prefix
    for found in page:
        if others and found.key.startswith(others):
            continue
        fault = fault_of(base, bucket, found)
        if fault is not None:
            on_fault(fault)
        if fault is None or fault.kind is FaultKind.WRONG_SHARD:
            address = ObjectAddress(bucket, found.key)
            yield Stored(found.key.removeprefix(prefix), found.size_bytes, found.etag, address)
