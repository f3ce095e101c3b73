"""The program `md5s3stashd`: parses its arguments."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from md5s3stash import console

PROGRAM = "md5s3stashd"

_EPILOG = """\
examples:
  BUCKET_BASE=my-bucket/originals REDIS_URL=redis://127.0.0.1:6379/0 SPOOL_DIR=/srv/spool md5s3stashd
  md5s3stashd --config /etc/md5s3stash/md5s3stash.toml --check-config

Runs until SIGTERM or SIGINT, then finishes work in progress. SIGHUP reads the settings again. The status page, /healthz
and /metrics are on http://127.0.0.1:9108.

exit status: 0 stopped on request, 1 the spool cannot be used or an unexpected error, 2 the arguments or settings are
wrong.

environment: BUCKET_BASE, REDIS_URL, SPOOL_DIR, S3_ENDPOINT, BUCKET_SCHEME, and MD5S3STASH_<SECTION>_<KEY> for every key
of the settings file; the AWS_... variables of boto3.

files: /etc/md5s3stash/md5s3stash.toml, the settings; /var/spool/md5s3stash, the spool.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until SIGTERM or SIGINT; returns the exit status."""
    # SIGHUP would kill the daemon. Blocked, it waits until `app` is ready for it; ignored, it has no effect after `app`
    # has removed its handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return console.run(PROGRAM, lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    # Here: its imports (boto3, redis, requests) take half a second, which --help does not need.
    from md5s3stash_daemon import app

    return app.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = console.Parser(prog=PROGRAM, description="stores files dropped into the spool in S3", epilog=_EPILOG)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (default: /etc/md5s3stash/md5s3stash.toml)"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print the current settings, or their errors, and exit"
    )
    parser.add_argument(
        "--loglevel",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="lowest level that is logged; overrides the setting log.level",
    )
    parser.add_version()
    return parser
