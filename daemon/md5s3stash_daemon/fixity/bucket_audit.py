"""Audits one bucket: each object by LIST, by a closer check if LIST proves nothing, and all against the ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from md5s3stash.audit import Fault, FaultKind, fault_of, is_of_parts, unreadable
from md5s3stash.errors import StoreError
from md5s3stash.inspection import Proof, inspect
from md5s3stash.s3.listing import ListedObject, Lister
from md5s3stash.s3.store import S3ObjectStore
from md5s3stash.scheme import BucketBase, ObjectAddress, split_name
from md5s3stash_daemon.fixity.recorded_digests import AnyChecklist, RecordedDigests

_LEDGER_REASONS = {FaultKind.NOT_RECORDED: "stored but not recorded", FaultKind.NOT_STORED: "recorded but not stored"}


@dataclass(slots=True)
class AuditCounts:
    """The counts of an audit so far."""

    objects: int = 0
    size_bytes: int = 0
    faults: int = 0
    wrong_etags: int = 0
    by_sha256: int = 0
    by_reading: int = 0
    not_checkable: int = 0

    def add(self, other: AuditCounts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def looks_encrypted(self) -> bool:
        """Whether no ETag equals its key: then the bucket is probably encrypted, and not every object wrong."""
        without_md5 = self.by_sha256 + self.not_checkable
        return self.wrong_etags > 0 and self.wrong_etags == self.objects - without_md5


@dataclass(frozen=True, slots=True)
class Auditor:
    """Audits buckets. `deep` reads each object that LIST cannot prove; `recorded`, if given, is compared with the
    buckets; `stopping` ends all buckets after their current page.
    """

    lister: Lister
    store: S3ObjectStore
    deep: bool = False
    recorded: RecordedDigests | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def faults(self, base: BucketBase, bucket: str, others: tuple[str, ...], counts: AuditCounts) -> Iterator[Fault]:
        """The faults of a bucket, as they are found; updates `counts`.

        `others` are key prefixes that belong to other bases. Raises StoreError if the bucket cannot be listed.
        """
        checklist = self.recorded.of_bucket(base, bucket) if self.recorded else None
        for fault in self._all_faults(base, bucket, others, checklist, counts):
            counts.faults += 1
            counts.wrong_etags += fault.kind is FaultKind.WRONG_ETAG
            yield fault

    def _all_faults(
        self,
        base: BucketBase,
        bucket: str,
        others: tuple[str, ...],
        checklist: AnyChecklist | None,
        counts: AuditCounts,
    ) -> Iterator[Fault]:
        for page in self.lister.pages(bucket, base.prefix):
            if self.stopping.is_set():
                return
            for found in page:
                if others and found.key.startswith(others):
                    continue
                counts.objects += 1
                counts.size_bytes += found.size_bytes
                fault = self._proven(base, fault_of(base, bucket, found), bucket, found, counts)
                if fault is not None:
                    yield fault
                if checklist is not None and _is_in_place(fault):
                    name, is_derivative = found.key.removeprefix(base.prefix), base.is_derivative(found.key)
                    yield from _of_ledger(base, checklist.stored(name, may_be_unknown=is_derivative))
        if checklist is not None:
            yield from _of_ledger(base, checklist.end())

    def _proven(
        self, base: BucketBase, fault: Fault | None, bucket: str, found: ListedObject, counts: AuditCounts
    ) -> Fault | None:
        """The fault that remains after a closer check, if one is needed."""
        if fault is None and (base.is_derivative(found.key) or not is_of_parts(found.etag)):
            return None
        if fault is not None and not (self.deep and fault.kind is FaultKind.WRONG_ETAG):
            return fault
        address = ObjectAddress(bucket, found.key)
        try:
            proof = inspect(self.store, address, split_name(found.key)[1], deep=self.deep)
        except StoreError as error:
            return unreadable(address, error)
        counts.by_sha256 += proof is Proof.BY_SHA256
        counts.by_reading += proof is Proof.BY_READING
        counts.not_checkable += proof is Proof.NONE
        if proof is Proof.WRONG:
            return Fault(address, FaultKind.WRONG_BYTES, "the md5 of its bytes is not its key")
        return None


def _is_in_place(fault: Fault | None) -> bool:
    return fault is None or fault.kind not in (FaultKind.FOREIGN_KEY, FaultKind.WRONG_SHARD)


def _of_ledger(base: BucketBase, differences: Iterator[tuple[str, FaultKind]]) -> Iterator[Fault]:
    return (Fault(base.address_of(name), kind, _LEDGER_REASONS[kind]) for name, kind in differences)
