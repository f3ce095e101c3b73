"""The program `md5s3stash-migrate`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from md5s3stash.cli import INTERRUPTED, escaped
from md5s3stash.errors import SettingsError, StashError
from md5s3stash.logs import set_up_logging
from md5s3stash.progress import Pause, standing_display
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3 import SINGLE_PUT_MAX_BYTES, connect, new_session
from md5s3stash.s3_list import Lister
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.settings import Faults, S3Settings, load
from md5s3stash_migrate.costs import PRICE_PER_1000, PRICE_PER_GB, Prices, estimate
from md5s3stash_migrate.listing import Listing, Stored
from md5s3stash_migrate.manifest import Manifests, target_key_prefix
from md5s3stash_migrate.migration import Migration, Tools
from md5s3stash_migrate.report import Entry, Kind, Report
from md5s3stash_migrate.s3_batch import BatchJobs, Role
from md5s3stash_migrate.s3_copy import Copier
from md5s3stash_migrate.s3_parts import PartLimits
from md5s3stash_migrate.sides import parse_side, require_apart
from md5s3stash_migrate.tally import Count

PROGRAM = "md5s3stash-migrate"

# LISTs under way at once; each bucket has at most one.
_LIST_JOBS = 16

_EPILOG = """\
examples:
  md5s3stash-migrate --from multibucket:my-base --to simple:my-bucket/originals --dry-run
  md5s3stash-migrate --from multibucket:my-base --to simple:my-bucket/originals --report report.jsonl

Copies inside S3, never deletes and never overwrites. Stopped and started again it goes on where it was. Exit status:
0 every object of the source is in the target, verified, and nothing was wrong; 1 something was, by name; 2 the
arguments or settings are wrong; 130 interrupted. With --dry-run or --batch-manifest, 0 says that nothing was wrong.

environment: S3_ENDPOINT and the AWS_... variables of boto3.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What --batch-create needs besides the manifests."""

    role: Role
    place: ObjectAddress


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked."""

    source: BucketBase
    target: BucketBase
    endpoint: str | None
    dry_run: bool
    jobs: int
    policy: RetryPolicy
    report: Path | None
    manifest: Path | None
    batch: Batch | None
    prices: Prices


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; the exit status."""
    try:
        return _run(_options(_build_parser().parse_args(argv)))
    except StashError as error:
        for line in str(error).splitlines():
            _complain(line)
        return error.exit_code
    except OSError as error:
        _complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted: what is copied is copied, the next run goes on from here")
        # The ordinary end would wait for each copy that is under way.
        os._exit(INTERRUPTED)


class _Parser(argparse.ArgumentParser):
    """Tells a fault of the arguments in one line, as all others are told."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} ({PROGRAM} --help tells more)")


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="copies a stash from one set of buckets to another, inside S3",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    side = "SCHEME:BASE"
    parser.add_argument("--from", dest="source", required=True, metavar=side, help="multibucket:BASE or simple:BUCKET")
    parser.add_argument("--to", dest="target", required=True, metavar=side, help="as --from; a key prefix may follow")
    parser.add_argument("--dry-run", action="store_true", help="only count, and estimate what the requests cost")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what is wrong or retried there, JSON lines")
    parser.add_argument("--jobs", type=_number(1, 256), default=64, metavar="N", help="copies at once, at most (64)")
    parser.add_argument("--attempts", type=_number(1, 100), default=10, metavar="N", help="tries for a request (10)")
    parser.add_argument("--batch-manifest", type=Path, metavar="FILE", help="copy nothing, write what is to be copied")
    parser.add_argument("--batch-create", action="store_true", help="create S3 Batch Operations jobs of the manifests")
    parser.add_argument("--batch-role", metavar="ARN", help="the role that these jobs work as")
    parser.add_argument("--batch-bucket", metavar="BUCKET/PREFIX", help="where manifests and the jobs' reports go")
    parser.add_argument(
        "--price-per-1000", type=_price, default=PRICE_PER_1000, metavar="USD", help="COPY and LIST requests (0.005)"
    )
    parser.add_argument(
        "--price-per-gb", type=_price, default=PRICE_PER_GB, metavar="USD", help="moved; 0 within a region, else ~0.02"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    return parser


def _number(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and minimum <= int(text) <= maximum):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price from 0 to 1000")
    return price


def _options(arguments: argparse.Namespace) -> Options:
    """Raises SettingsError with a line for each fault."""
    faults = Faults()
    with faults.noted():
        settings = load({"s3": S3Settings}, os.environ, arguments.config, others_allowed=True)
    with faults.noted():
        source = parse_side("--from", arguments.source)
    with faults.noted():
        target = parse_side("--to", arguments.target)
    with faults.noted():
        batch = _batch(arguments)
    faults.tell()
    require_apart(source, target)
    if arguments.batch_manifest:
        target_key_prefix(source, target)
    return Options(
        source=source,
        target=target,
        endpoint=settings[S3Settings].endpoint,
        dry_run=arguments.dry_run,
        jobs=arguments.jobs,
        policy=RetryPolicy(attempts=arguments.attempts),
        report=arguments.report,
        manifest=arguments.batch_manifest,
        batch=batch,
        prices=Prices(arguments.price_per_1000, arguments.price_per_gb),
    )


def _batch(arguments: argparse.Namespace) -> Batch | None:
    if not arguments.batch_create:
        return None
    if not (arguments.batch_manifest and arguments.batch_role and arguments.batch_bucket):
        raise SettingsError("--batch-create needs --batch-manifest, --batch-role and --batch-bucket")
    base = parse_side("--batch-bucket", f"simple:{arguments.batch_bucket}").base
    bucket, slash, prefix = base.partition("/")
    return Batch(Role.parse(arguments.batch_role), ObjectAddress(bucket, f"{prefix}{slash}"))


def _run(options: Options) -> int:
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
            with standing_display(migration.standing, sys.stderr) as paused:
                pause.append(paused)
                well = _work(options, migration, listing)
                pause.clear()
        finally:
            _print_summary(migration, report)
            report.end({**migration.tally.as_json(), "kinds": dict(report.counts), "complete": well})
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
            # One to begin with, one for each part, one to complete; the first stands for the copy itself.
            part_requests += 1 + -(-source.size_bytes // parts.part_bytes)

    well = migration.survey(count)
    _print(f"would need {estimate(migration.tally.to_copy, part_requests, listing.pages, options.prices)}")
    return well


def _write_manifests(options: Options, migration: Migration) -> bool:
    assert options.manifest is not None
    with Manifests(options.manifest, options.source, options.target) as manifests:
        well = migration.survey(manifests.add)
    for manifest in manifests.all():
        _print(f"{manifest.path}: {manifest.objects:,} objects of {manifest.source_bucket}")
    if manifests.too_large:
        _print(f"{manifests.too_large:,} objects above 5 GB are in no manifest: {PROGRAM} copies them")
    if options.batch is not None and not options.dry_run:
        jobs = BatchJobs(options.endpoint, options.batch.role, options.batch.place)
        key_prefix = target_key_prefix(options.source, options.target)
        for manifest in manifests.all():
            _print(f"{manifest.path}: job {jobs.create(manifest, key_prefix)} waits for confirmation")
    return well


@contextlib.contextmanager
def _report_stream(path: Path | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    with open(path, "w", encoding="ascii") as stream:
        yield stream


def _print_summary(migration: Migration, report: Report) -> None:
    tally = migration.tally
    for name, count in (
        ("source", tally.source),
        ("to copy", tally.to_copy),
        ("copied", tally.copied),
        ("already there", tally.present),
        ("verified", tally.verified),
    ):
        _print(f"{name:14}{_told(count)}")
    for kind, number in sorted(report.counts.items()):
        _print(f"{kind:14}{number:,}{' (succeeded in the end)' if kind == Kind.RETRIED else ''}")


def _told(count: Count) -> str:
    return f"{count.objects:,} objects, {count.size_bytes:,} bytes"


def _show(entry: Entry, pause: Sequence[Pause]) -> None:
    with pause[0]() if pause else contextlib.nullcontext():
        _complain(f"{entry.kind}: {entry.s3_url}: {entry.reason}")


def _print(line: str) -> None:
    print(line, flush=True)


def _complain(message: str) -> None:
    # Where nobody listens for errors, the exit status has to do.
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(os.fsencode(f"{PROGRAM}: {escaped(message)}\n"))
        sys.stderr.buffer.flush()
