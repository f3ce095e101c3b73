"""`md5s3stashctl verify`: every bucket of every base, by LIST alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from md5s3stash.errors import StoreError
from md5s3stash.s3_list import Lister
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon import ctl_output as output
from md5s3stash_daemon.audit import Tally, audit, nested_prefixes, prefix_of


def verify(lister: Lister, bases: Sequence[BucketBase], as_json: bool) -> bool:
    """Prints each fault as it is found, and the count of all; whether there was none and every bucket was read."""
    total = Tally()
    unread = 0
    for base in bases:
        others = nested_prefixes(base, bases)
        for bucket in base.buckets():
            tally = Tally()
            try:
                for page in lister.pages(bucket, prefix_of(base)):
                    for fault in audit(base, bucket, page, others, tally):
                        _print_fault(fault.address.s3_url, fault.reason, as_json)
            except StoreError as error:
                output.complain(str(error))
                unread += 1
            total.add(tally)
            if tally.looks_encrypted:
                output.complain(
                    f"s3://{bucket}: no ETag is its key: a bucket that encrypts with KMS has such ETags, and LIST "
                    "cannot check it"
                )
    _print_total(total, unread, as_json)
    return total.faults == 0 and unread == 0


def _print_fault(s3_url: str, reason: str, as_json: bool) -> None:
    output.write(
        json.dumps({"s3_url": s3_url, "fault": reason}) if as_json else output.printable(f"{s3_url}: {reason}")
    )


def _print_total(total: Tally, unread: int, as_json: bool) -> None:
    if as_json:
        output.write(json.dumps({**asdict(total), "unread_buckets": unread}))
        return
    told = f"{total.objects} objects, {output.size(total.size_bytes)} bytes, {total.faults} faults"
    if total.not_checkable:
        told += f", {total.not_checkable} not checkable by LIST (stored in several parts)"
    if unread:
        told += f", {unread} buckets not read"
    output.write(told)
