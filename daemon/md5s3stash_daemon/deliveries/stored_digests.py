"""Reads stored contents: the digests of one that came before its manifest, and the tag files of a bag."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Mapping, Sequence

from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase


class StoredContents:
    """Safe to share between threads."""

    def __init__(self, store: ObjectStore, bases: Sequence[BucketBase]) -> None:
        self._store = store
        self._bases = bases

    def digests(self, md5: str, algorithms: Collection[str]) -> Mapping[str, str] | None:
        """These digests of the object at this md5: one HEAD if SHA-256 is enough, else one GET of all its bytes. None
        if the object is gone. Raises StoreError.
        """
        address = self._bases[0].address(md5)
        if set(algorithms) <= {"sha256"}:
            stored = self._store.head(address)
            if stored is None:
                return None
            if stored.is_proof and stored.sha256 is not None:
                return {"sha256": stored.sha256}
        hashers = _Hashers(algorithms)
        return None if self._store.download(address, hashers, sys.maxsize) is None else hashers.digests()

    def in_collection(self, collection: str) -> StoredContents:
        """The contents of one collection; empty for those in none."""
        return StoredContents(self._store, [base.in_collection(collection) for base in self._bases])

    def place(self, md5: str) -> str:
        """The s3 URL of the content, in the first bucket base."""
        return self._bases[0].address(md5).s3_url

    def read(self, md5: str, max_bytes: int) -> bytes | None:
        """The content; None if the object is gone. Raises StoreError, and SourceTooLarge."""
        return self._store.get(self._bases[0].address(md5), max_bytes)


class _Hashers:
    def __init__(self, algorithms: Collection[str]) -> None:
        # With md5: an object that is not what its key says must not count.
        self._by_name = {name: hashlib.new(name, usedforsecurity=False) for name in {"md5", *algorithms}}

    def write(self, data: bytes) -> None:
        for hasher in self._by_name.values():
            hasher.update(data)

    def digests(self) -> Mapping[str, str]:
        return {name: hasher.hexdigest() for name, hasher in self._by_name.items()}
