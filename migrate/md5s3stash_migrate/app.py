"""Runs `md5s3stash-migrate` after its options are read: wiring and output."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from md5s3stash import console
from md5s3stash.logs import set_up_logging
from md5s3stash.progress import Pause, state_display
from md5s3stash.s3.client import new_session
from md5s3stash.s3.listing import Lister
from md5s3stash.s3.multipart import SINGLE_PUT_MAX_BYTES
from md5s3stash.s3.store import connect
from md5s3stash_migrate.costs import estimate
from md5s3stash_migrate.counts import Count
from md5s3stash_migrate.listing import Listing, Stored
from md5s3stash_migrate.manifest import Manifests, target_key_prefix
from md5s3stash_migrate.migration import Migration, Tools
from md5s3stash_migrate.options import PROGRAM, Options
from md5s3stash_migrate.report import Entry, Kind, Report
from md5s3stash_migrate.s3_batch import BatchJobs
from md5s3stash_migrate.s3_copy import Copier
from md5s3stash_migrate.s3_parts import PartLimits

# LISTs in progress at once; each bucket has at most one.
_LIST_JOBS = 16


def run(options: Options) -> int:
    """Runs the migration and returns the exit status. Raises StashError or OSError."""
    set_up_logging(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        lists = ThreadPoolExecutor(_LIST_JOBS, thread_name_prefix="list")
        stack.callback(lists.shutdown, wait=False, cancel_futures=True)
        stream = stack.enter_context(_report_stream(options.report))
        pause: list[Pause] = []
        report = Report(stream, lambda entry: _show(entry, pause))
        listing = Listing(Lister(options.endpoint), lists)
        session = new_session()
        store, copier = connect(options.endpoint, session), Copier(options.endpoint, session)
        tools = Tools(listing, store, copier, report, options.policy, options.jobs)
        migration = Migration(options.source, options.target, tools)
        well = False
        try:
            with state_display(migration.state, sys.stderr) as paused:
                pause.append(paused)
                well = _work(options, migration, listing)
                pause.clear()
        finally:
            _print_summary(migration, report)
            report.end({**migration.counts.as_json(), "kinds": dict(report.counts), "complete": well})
    return 0 if well else 1


def _work(options: Options, migration: Migration, listing: Listing) -> bool:
    if options.manifest is not None:
        return _write_manifests(options, migration)
    if options.dry_run:
        return _survey(options, migration, listing)
    return migration.run()


def _survey(options: Options, migration: Migration, listing: Listing) -> bool:
    part_requests = 0
    parts = PartLimits()

    def count(source: Stored) -> None:
        nonlocal part_requests
        if source.size_bytes > SINGLE_PUT_MAX_BYTES:
            # One to begin, one for each part, one to complete; the first is counted as the copy itself.
            part_requests += 1 + -(-source.size_bytes // parts.part_bytes)

    well = migration.survey(count)
    console.write(f"would need {estimate(migration.counts.to_copy, part_requests, listing.pages, options.prices)}")
    return well


def _write_manifests(options: Options, migration: Migration) -> bool:
    assert options.manifest is not None
    with Manifests(options.manifest, options.source, options.target) as manifests:
        well = migration.survey(manifests.add)
    for manifest in manifests.all():
        console.write(f"{manifest.path}: {manifest.objects:,} objects of {manifest.source_bucket}")
    if manifests.too_large:
        console.write(f"{manifests.too_large:,} objects above 5 GB are in no manifest: {PROGRAM} copies them")
    if options.batch is not None and not options.dry_run:
        jobs = BatchJobs(options.endpoint, options.batch.role, options.batch.place)
        key_prefix = target_key_prefix(options.source, options.target)
        for manifest in manifests.all():
            console.write(f"{manifest.path}: job {jobs.create(manifest, key_prefix)} waits for confirmation")
    return well


@contextlib.contextmanager
def _report_stream(path: Path | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    with open(path, "w", encoding="ascii") as stream:
        yield stream


def _print_summary(migration: Migration, report: Report) -> None:
    counts = migration.counts
    for name, count in (
        ("source", counts.source),
        ("to copy", counts.to_copy),
        ("copied", counts.copied),
        ("already there", counts.present),
        ("verified", counts.verified),
    ):
        console.write(f"{name:14}{_amounts(count)}")
    for kind, number in sorted(report.counts.items()):
        console.write(f"{kind:14}{number:,}{' (succeeded in the end)' if kind == Kind.RETRIED else ''}")


def _amounts(count: Count) -> str:
    return f"{count.objects:,} objects, {count.size_bytes:,} bytes"


def _show(entry: Entry, pause: Sequence[Pause]) -> None:
    with pause[0]() if pause else contextlib.nullcontext():
        console.complain(f"{entry.kind}: {entry.s3_url}: {entry.reason}")
