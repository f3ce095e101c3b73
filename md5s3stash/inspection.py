"""Checks objects that LIST cannot prove, multipart ones and those whose ETag is not an md5: by the stored SHA-256, or
by reading.

The stash stores the SHA-256 of the whole content with each object, in the request that also carries its md5 (see
docs/decisions/0004-put-guards.md): an object that has it was uploaded under both digests. Older objects lack it, and
only reading them shows what they are.
"""

from __future__ import annotations

from enum import StrEnum

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.s3.store import S3ObjectStore
from md5s3stash.scheme import ObjectAddress

_POLICY = RetryPolicy(attempts=4)


class Proof(StrEnum):
    """What an inspection found."""

    BY_SHA256 = "by its stored SHA-256"
    BY_READING = "by reading"
    NONE = "not checkable"
    WRONG = "wrong"
    GONE = "gone"


def inspect(store: S3ObjectStore, address: ObjectAddress, md5: str, *, deep: bool) -> Proof:
    """Whether the object is the content of this md5: one HEAD, or with `deep` one GET of it all.

    Raises StoreUnavailable and StoreRefused.
    """
    look = _read if deep else _look
    return retrying(lambda: look(store, address, md5), _POLICY, only=(StoreUnavailable,))


def _look(store: S3ObjectStore, address: ObjectAddress, md5: str) -> Proof:
    stored = store.head(address)
    if stored is None:
        return Proof.GONE
    if stored.md5 not in (None, md5):
        return Proof.WRONG
    return Proof.BY_SHA256 if stored.is_proof and stored.sha256 is not None else Proof.NONE


def _read(store: S3ObjectStore, address: ObjectAddress, md5: str) -> Proof:
    stored, digest = store.head(address), store.digest_at(address)
    if stored is None or digest is None:
        return Proof.GONE
    return Proof.BY_READING if digest.md5 == md5 and stored.sha256 in (None, digest.sha256) else Proof.WRONG
