"""The arguments of `md5s3stash-migrate` as values; all errors are reported together."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.errors import SettingsError
from md5s3stash.retry import RetryPolicy
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.settings import Faults, S3Settings, load
from md5s3stash_migrate.costs import PRICE_PER_1000, PRICE_PER_GB, Prices
from md5s3stash_migrate.sides import parse_side, require_apart

if TYPE_CHECKING:
    from md5s3stash_migrate.s3_batch import Role

PROGRAM = "md5s3stash-migrate"

_EPILOG = """\
examples:
  md5s3stash-migrate --from multibucket:my-base --to simple:my-bucket/originals --dry-run
  md5s3stash-migrate --from multibucket:my-base --to simple:my-bucket/originals --report report.jsonl

Copies inside S3, never deletes and never overwrites. Running it again resumes after an interruption. Objects in a
collection are reported and not copied: a collection is copied as the base simple:BUCKET/PREFIX/COLLECTION.

exit status: 0 every object of the source is in the target, verified, and there were no faults; 1 there were faults,
which are listed; 2 the arguments or settings are wrong; 130 interrupted. With --dry-run or --batch-manifest, 0 means
no faults.

environment: S3_ENDPOINT and the AWS_... variables of boto3.
"""


@dataclass(frozen=True, slots=True)
class BatchJobOptions:
    """The options that --batch-create needs besides the manifests."""

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
    batch: BatchJobOptions | None
    prices: Prices


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(
        prog=PROGRAM, description="copies a stash from one set of buckets to another, inside S3", epilog=_EPILOG
    )
    side = "SCHEME:BASE"
    parser.add_argument(
        "--from", dest="source", required=True, metavar=side, help="source: multibucket:BASE or simple:BUCKET/PREFIX"
    )
    parser.add_argument(
        "--to", dest="target", required=True, metavar=side, help="target: multibucket:BASE or simple:BUCKET/PREFIX"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only count objects, and estimate the cost of the requests"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write failures and retries to FILE as JSON lines")
    parser.add_argument(
        "--jobs", type=_number(1, 256), default=64, metavar="N", help="run at most N copies at once (64)"
    )
    parser.add_argument(
        "--attempts", type=_number(1, 100), default=10, metavar="N", help="try a request at most N times (10)"
    )
    parser.add_argument(
        "--batch-manifest", type=Path, metavar="FILE", help="copy nothing; write the objects to copy to FILE"
    )
    parser.add_argument(
        "--batch-create", action="store_true", help="create S3 Batch Operations jobs from the manifests"
    )
    parser.add_argument("--batch-role", metavar="ARN", help="IAM role of these jobs")
    parser.add_argument("--batch-bucket", metavar="BUCKET/PREFIX", help="place for the manifests and the jobs' reports")
    parser.add_argument(
        "--price-per-1000",
        type=_price,
        default=PRICE_PER_1000,
        metavar="USD",
        help="price of 1000 COPY or LIST requests (0.005)",
    )
    parser.add_argument(
        "--price-per-gb",
        type=_price,
        default=PRICE_PER_GB,
        metavar="USD",
        help="price per GB copied (0; between regions ~0.02)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    parser.add_version()
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


def read_options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    """The arguments, checked. Raises SettingsError with a line for each error."""
    faults = Faults()
    with faults.noted():
        settings = load({"s3": S3Settings}, environ, arguments.config, others_allowed=True)
    with faults.noted():
        source = parse_side("--from", arguments.source)
    with faults.noted():
        target = parse_side("--to", arguments.target)
    with faults.noted():
        batch = _batch(arguments)
    faults.raise_any()
    require_apart(source, target)
    if arguments.batch_manifest:
        from md5s3stash_migrate.manifest import target_key_prefix

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


def _batch(arguments: argparse.Namespace) -> BatchJobOptions | None:
    if not arguments.batch_create:
        return None
    if not (arguments.batch_manifest and arguments.batch_role and arguments.batch_bucket):
        raise SettingsError("--batch-create needs --batch-manifest, --batch-role and --batch-bucket")
    from md5s3stash_migrate.s3_batch import Role

    base = parse_side("--batch-bucket", f"simple:{arguments.batch_bucket}").base
    bucket, slash, prefix = base.partition("/")
    return BatchJobOptions(Role.parse(arguments.batch_role), ObjectAddress(bucket, f"{prefix}{slash}"))
