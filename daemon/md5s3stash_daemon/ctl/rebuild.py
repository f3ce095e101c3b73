"""`md5s3stashctl rebuild`: restores the ledger from the buckets or an export; prints progress and totals."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from md5s3stash import console
from md5s3stash.audit import Fault, nested_prefixes
from md5s3stash.errors import StashError, StoreError
from md5s3stash.progress import Pause, ProgressState, state_display
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ledger.rebuild import RebuildCounts, Rebuilder, import_export
from md5s3stash_daemon.ledger.restore import Restorer

# HEAD requests at once, for all buckets together.
HEADS = 16

# Stop here: the file is probably not an export at all.
MAX_BAD_LINES = 100


def rebuild(rebuilder: Rebuilder, bases: Sequence[BucketBase], jobs: int, dry_run: bool, as_json: bool) -> bool:
    """Records the objects in the buckets of the first base, the only one in the hash_cache, but not those of the
    others; False if a bucket could not be read or an object was left out.
    """
    base = bases[0]
    done = dict.fromkeys(base.buckets(), 0.0)
    counts_of_each = {bucket: RebuildCounts() for bucket in base.buckets()}

    def state() -> ProgressState:
        total = _total(counts_of_each.values())
        return ProgressState(total.met, sum(done.values()) / len(done), f"{total.contents:,} recorded")

    def read(bucket: str, paused: Pause) -> bool:
        """False if the bucket could not be read to its end."""
        try:
            for result in rebuilder.rebuild(base, bucket, nested_prefixes(base, bases), counts_of_each[bucket]):
                if isinstance(result, Fault):
                    with paused():
                        console.complain(f"{result.address.s3_url}: not recorded: {result.reason}")
                else:
                    # Digests are evenly distributed, and a LIST is in their order.
                    done[bucket] = int(result[:8], 16) / 16**8
        except StoreError as error:
            with paused():
                console.complain(str(error))
            return False
        done[bucket] = 1.0
        return True

    with ThreadPoolExecutor(jobs, thread_name_prefix="rebuild") as pool, state_display(state, sys.stderr) as paused:
        try:
            unread = sum(
                not complete for complete in list(pool.map(lambda bucket: read(bucket, paused), counts_of_each))
            )
        except BaseException:
            # Redis is unavailable, or the user interrupted.
            rebuilder.stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    total = _total(counts_of_each.values())
    sum_up(total, "objects", dry_run, as_json, unread)
    return total.faults == 0 and unread == 0


def rebuild_from_export(path: Path, restorer: Restorer, dry_run: bool, as_json: bool) -> bool:
    """Records the lines of an export; False if one was left out. Raises OSError, StashError."""
    counts = RebuildCounts()
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size

        def state() -> ProgressState:
            return ProgressState(
                counts.met, file.tell() / size_bytes if size_bytes else 0.0, f"{counts.names:,} names recorded"
            )

        with state_display(state, sys.stderr) as paused:
            for bad in import_export(file, restorer, counts):
                with paused():
                    console.complain(f"{path}, line {bad.number}: {bad.reason}")
                if counts.faults == MAX_BAD_LINES:
                    raise StashError(f"{path}: {MAX_BAD_LINES} lines are not valid: is it an export as jsonl?")
    sum_up(counts, "lines", dry_run, as_json)
    return counts.faults == 0


def _total(counts_of_each: Iterable[RebuildCounts]) -> RebuildCounts:
    total = RebuildCounts()
    for counts in counts_of_each:
        total.add(counts)
    return total


def sum_up(counts: RebuildCounts, what: str, dry_run: bool, as_json: bool, unread: int = 0) -> None:
    """Prints the totals; `what` was met: objects, lines or names."""
    if as_json:
        figures = asdict(counts)
        console.write(json.dumps({what: figures.pop("met"), **figures, "unread_buckets": unread}))
        return
    verb = "to be recorded" if dry_run else "recorded"
    parts = [f"{counts.met} {what}", f"{counts.contents} contents {verb}"]
    parts += [f"{counts.names} names {verb}"] if what != "objects" else []
    parts += [f"{counts.ids} ids {verb}"] if counts.ids else []
    parts += [f"{counts.known} known already", f"{counts.faults} left out"]
    parts += [f"{unread} buckets not read"] if unread else []
    console.write(", ".join(parts))
