"""`md5s3stashctl rebuild`: the ledger from the buckets, or from an export, with progress and a count of all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from md5s3stash.audit import Fault, nested_prefixes
from md5s3stash.errors import StashError, StoreError
from md5s3stash.progress import Pause, Standing, standing_display
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ledger.rebuild import Rebuilder, Tally, import_export
from md5s3stash_daemon.ledger.restore import Restorer
from md5s3stash_daemon.runtime import console as output

# HEAD requests at once, of all buckets together.
HEADS = 16

# Whoever gives a picture by mistake does not want to hear of each of its lines.
MAX_BAD_LINES = 100


def rebuild(rebuilder: Rebuilder, bases: Sequence[BucketBase], jobs: int, dry_run: bool, as_json: bool) -> bool:
    """Records what is in the buckets of the first base, the one that the hash_cache is about; whether all was read and
    nothing left out.
    """
    base = bases[0]
    done = dict.fromkeys(base.buckets(), 0.0)
    tallies = {bucket: Tally() for bucket in base.buckets()}

    def standing() -> Standing:
        total = _total(tallies.values())
        return Standing(total.met, sum(done.values()) / len(done), f"{total.contents:,} recorded")

    def read(bucket: str, paused: Pause) -> bool:
        """Whether all of the bucket was read."""
        try:
            for told in rebuilder.rebuild(base, bucket, nested_prefixes(base, bases), tallies[bucket]):
                if isinstance(told, Fault):
                    with paused():
                        output.complain(f"{told.address.s3_url}: not recorded: {told.reason}")
                else:
                    # Digests are spread evenly, and a LIST is in their order.
                    done[bucket] = int(told[:8], 16) / 16**8
        except StoreError as error:
            with paused():
                output.complain(str(error))
            return False
        done[bucket] = 1.0
        return True

    with (
        ThreadPoolExecutor(jobs, thread_name_prefix="rebuild") as pool,
        standing_display(standing, sys.stderr) as paused,
    ):
        try:
            unread = sum(not complete for complete in list(pool.map(lambda bucket: read(bucket, paused), tallies)))
        except BaseException:
            # Redis is gone, or somebody has had enough.
            rebuilder.stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    total = _total(tallies.values())
    _sum_up(total, "objects", dry_run, as_json, unread)
    return total.faults == 0 and unread == 0


def rebuild_from_export(path: Path, restorer: Restorer, dry_run: bool, as_json: bool) -> bool:
    """Records what stands in an export; whether all of it did. Raises OSError, StashError."""
    tally = Tally()
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size

        def standing() -> Standing:
            return Standing(
                tally.met, file.tell() / size_bytes if size_bytes else 0.0, f"{tally.names:,} names recorded"
            )

        with standing_display(standing, sys.stderr) as paused:
            for bad in import_export(file, restorer, tally):
                with paused():
                    output.complain(f"{path}, line {bad.number}: {bad.reason}")
                if tally.faults == MAX_BAD_LINES:
                    raise StashError(f"{path}: {MAX_BAD_LINES} lines are wrong: is it an export in the format jsonl?")
    _sum_up(tally, "lines", dry_run, as_json)
    return tally.faults == 0


def _total(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _sum_up(tally: Tally, what: str, dry_run: bool, as_json: bool, unread: int = 0) -> None:
    if as_json:
        counts = asdict(tally)
        output.write(json.dumps({what: counts.pop("met"), **counts, "unread_buckets": unread}))
        return
    verb = "to be recorded" if dry_run else "recorded"
    told = [f"{tally.met} {what}", f"{tally.contents} contents {verb}"]
    told += [f"{tally.names} names {verb}"] if what == "lines" else []
    told += [f"{tally.known} known already", f"{tally.faults} left out"]
    told += [f"{unread} buckets not read"] if unread else []
    output.write(", ".join(told))
