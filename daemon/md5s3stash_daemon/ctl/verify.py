"""`md5s3stashctl verify`: audits every bucket of every base, several at a time."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.audit import Fault, nested_prefixes
from md5s3stash.digest import is_md5
from md5s3stash.errors import StashError, StoreError
from md5s3stash.s3.listing import Lister
from md5s3stash.s3.store import connect
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.settings import RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash_daemon.config.settings import ProvenanceSettings
from md5s3stash_daemon.ctl.connections import ledger_of, redis_of
from md5s3stash_daemon.fixity.bucket_audit import AuditCounts, Auditor
from md5s3stash_daemon.fixity.recorded_digests import recorded_digests
from md5s3stash_daemon.fixity.summary import number_of
from md5s3stash_daemon.ledger.confirmations import distrust
from md5s3stash_daemon.ledger.fixity_log import AND_LEDGER, BY_LIST, BY_READING, FixityLog

if TYPE_CHECKING:
    from redis import Redis


class AuditRecord:
    """Drops cached confirmations of contents whose objects are missing or wrong; logs the audit if there is a log."""

    def __init__(self, client: Redis, prefix: str, log: FixityLog | None) -> None:
        self._client = client
        self._prefix = prefix
        self._log = log

    def fault(self, fault: Fault) -> None:
        last = fault.address.key.rpartition("/")[2]
        md5 = last if is_md5(last) else ""
        with _complaining(fault.address.s3_url):
            if md5:
                distrust(self._client, self._prefix, md5, fault.address.s3_url, fault.kind)
            if self._log is not None:
                self._log.fault(fault.address.s3_url, md5, fault.kind.value, fault.reason)

    def begin(self, place: str) -> None:
        if self._log is not None:
            with _complaining(place):
                self._log.begun(place)

    def complete(self, place: str, counts: AuditCounts) -> None:
        objects, faults = number_of(counts.objects, "object"), number_of(counts.faults, "fault")
        summary = f"{objects}, {counts.not_checkable} not checkable, {faults}"
        if self._log is not None:
            with _complaining(place):
                self._log.checked(place, summary, counts.faults, counts.not_checkable)


@contextmanager
def _complaining(about: str) -> Iterator[None]:
    try:
        yield
    except StashError as error:
        console.complain(f"{about}: the cached confirmation could not be removed, or the result not logged: {error}")


def run(arguments: argparse.Namespace, settings: Settings) -> bool:
    """Runs `md5s3stashctl verify`; False if something is wrong. Raises StashError."""
    bases = settings[StashSettings].bases()
    endpoint = settings[S3Settings].endpoint
    ledger = ledger_of(settings) if arguments.ledger else None
    beside, record = settings[ProvenanceSettings].snapshot_bases(), None
    if settings[RedisSettings].url:
        how = (BY_READING if arguments.deep else BY_LIST) + (AND_LEDGER if ledger else "")
        log = FixityLog(*redis_of(settings), how) if settings[ProvenanceSettings].index else None
        record = AuditRecord(*redis_of(settings), log)
    # The ledger first: everything in it now is stored already.
    with recorded_digests(ledger, bases[0]) if ledger else nullcontext() as recorded:
        auditor = Auditor(Lister(endpoint), connect(endpoint), arguments.deep, recorded)
        return verify(auditor, bases, arguments.jobs, arguments.json, record, beside)


def verify(
    auditor: Auditor,
    bases: Sequence[BucketBase],
    jobs: int,
    as_json: bool,
    record: AuditRecord | None = None,
    beside: Sequence[BucketBase] = (),
) -> bool:
    """Prints each fault as it is found, and the totals; False if there was one or a bucket could not be read.

    `record` is called for each bucket and each fault. Objects of `beside` are not audited.
    """
    printing = threading.Lock()

    def audit(base: BucketBase, bucket: str) -> AuditCounts | None:
        """The counts of a bucket; None if it could not be read."""
        counts, place = AuditCounts(), ObjectAddress(bucket, base.prefix).s3_url
        if record is not None:
            with printing:
                record.begin(place)
        try:
            for fault in auditor.faults(base, bucket, nested_prefixes(base, [*bases, *beside]), counts):
                with printing:
                    _print_fault(fault, as_json)
                    if record is not None:
                        record.fault(fault)
        except StoreError as error:
            console.complain(str(error))
            return None
        if record is not None:
            with printing:
                record.complete(place, counts)
        return counts

    with ThreadPoolExecutor(jobs, thread_name_prefix="verify") as pool:
        try:
            work = [(bucket, pool.submit(audit, base, bucket)) for base in bases for bucket in base.buckets()]
            counts_of_each = [(bucket, future.result()) for bucket, future in work]
        except BaseException:
            # Standard output was closed, or Redis is unavailable.
            auditor.stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _sum_up(counts_of_each, as_json)


def _sum_up(counts_of_each: Sequence[tuple[str, AuditCounts | None]], as_json: bool) -> bool:
    total = AuditCounts()
    for bucket, counts in counts_of_each:
        if counts is None:
            continue
        total.add(counts)
        if counts.looks_encrypted:
            console.complain(
                f"s3://{bucket}: no ETag equals its key: if the bucket encrypts with KMS, LIST cannot check it "
                "(use --deep to read its objects)"
            )
    unread = sum(counts is None for _, counts in counts_of_each)
    _print_total(total, unread, as_json)
    return total.faults == 0 and unread == 0


def _print_fault(fault: Fault, as_json: bool) -> None:
    s3_url = fault.address.s3_url
    record = {"s3_url": s3_url, "kind": fault.kind.value, "fault": fault.reason}
    console.write(json.dumps(record) if as_json else console.printable(f"{s3_url}: {fault.reason}"))


def _print_total(total: AuditCounts, unread: int, as_json: bool) -> None:
    if as_json:
        console.write(json.dumps({**asdict(total), "unread_buckets": unread}))
        return
    objects, faults = number_of(total.objects, "object"), number_of(total.faults, "fault")
    parts = [objects, f"{console.size(total.size_bytes)} bytes", faults]
    if total.by_sha256:
        parts.append(f"{total.by_sha256} stored in several parts and checked by their SHA-256")
    if total.by_reading:
        parts.append(f"{total.by_reading} read")
    if total.not_checkable:
        parts.append(f"{total.not_checkable} not checkable by LIST (stored in several parts; --deep reads them)")
    if unread:
        parts.append(f"{number_of(unread, 'bucket')} not read")
    console.write(", ".join(parts))
