"""The command `md5s3stash`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from md5s3stash.errors import SettingsError, StashError

if TYPE_CHECKING:
    from md5s3stash.batch import Outcome
    from md5s3stash.settings import Settings

USAGE = 2
INTERRUPTED = 130

_EPILOG = """\
examples:
  md5s3stash -b my-bucket/prefix photo.tif https://example.org/picture.jpg
  find /data -name '*.tif' | md5s3stash -b my-bucket --jobs 8 --json -

Prints one line a source: url, md5, s3_url and MIME type, with tabs between them. Errors go to standard error.
Exit status: 0 all were stashed, 1 some failed, 2 the arguments or settings are wrong.

environment: BUCKET_BASE, BUCKET_SCHEME, S3_ENDPOINT, REDIS_URL (mappings are looked up and recorded there), the AWS_...
variables of boto3, and MD5S3STASH_PASSWORD for -u. Settings are also read from /etc/md5s3stash/md5s3stash.toml.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except SettingsError as error:
        return _usage(str(error))
    except StashError as error:
        print(f"md5s3stash: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (head, say) has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("md5s3stash: interrupted; what was printed is stashed", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The seed's options, and ours."""
    parser = argparse.ArgumentParser(
        prog="md5s3stash",
        description="content addressable storage in AWS S3",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "url", nargs="+", help="URL or path of source file to stash; - reads them from standard input, one a line"
    )
    parser.add_argument("-b", "--bucket_base", nargs="?", help="this must be a unique name in all of AWS S3")
    parser.add_argument(
        "-s",
        "--bucket_scheme",
        nargs="?",
        choices=["simple", "multibucket", "multivalue"],
        help="simple (the default): one bucket; multibucket: 36 buckets, by digest (multivalue is an old name of it)",
    )
    parser.add_argument("-t", "--tempdir", help="if your files might be large, make sure this is on a big disk")
    parser.add_argument(
        "-w", "--warnings", action="store_true", help="show python `DeprecationWarning`s suppressed by default"
    )
    parser.add_argument("--loglevel", default="ERROR", help="DEBUG, INFO, WARNING, ERROR (the default) or CRITICAL")
    parser.add_argument("-u", "--username", help="username for downloads requiring BasicAuth")
    parser.add_argument(
        "-p",
        "--password",
        help="password for downloads requiring BasicAuth; others on this machine can see it in the process list, so "
        "better set MD5S3STASH_PASSWORD or keep it in a netrc file",
    )
    parser.add_argument(
        "--netrc", nargs="?", const="~/.netrc", metavar="FILE", help="take user names and passwords from this file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, with everything known")
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="stash N sources at once (1 to 64)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Stashes what the arguments name; the exit status."""
    _set_logging(arguments.loglevel)
    if not arguments.warnings:
        warnings.simplefilter("ignore")
    _set_tempdir(arguments.tempdir)
    # What follows imports boto3, requests and Pillow; --help and usage errors need not wait for them.
    from md5s3stash import batch
    from md5s3stash.passwords import Passwords
    from md5s3stash.progress import progress_display

    passwords = Passwords.from_options(arguments.username, arguments.password, arguments.netrc, os.environ)
    sources = read_sources(arguments.url, sys.stdin)
    show = _print_json if arguments.json else _print_line
    failed = 0
    with (
        contextlib.closing(batch.open_stash(_settings(arguments, os.environ))) as stash,
        progress_display(arguments.url, sys.stderr) as display,
    ):
        for outcome in batch.stash_all(stash, sources, passwords, arguments.jobs, display):
            with display.paused():
                show(outcome)
            failed += outcome.error is not None
    return 1 if failed else 0


def read_sources(names: Iterable[str], stdin: TextIO) -> Iterator[str]:
    """The sources in the order given, with the lines of standard input in the place of each `-`."""
    for name in names:
        if name == "-":
            # Bytes that are no UTF-8 are part of a file name, not an error.
            for line in stdin.buffer:
                source = os.fsdecode(line.rstrip(b"\r\n"))
                if source:
                    yield source
        else:
            yield name


def _settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    from md5s3stash.settings import CORE_SECTIONS, load

    flags = {
        "stash.bucket_base": arguments.bucket_base,
        "stash.bucket_scheme": arguments.bucket_scheme,
    }
    return load(CORE_SECTIONS, environ, arguments.config, flags, others_allowed=True)


def _print_line(outcome: Outcome) -> None:
    if outcome.error is not None:
        print(f"md5s3stash: {escaped(outcome.source)}: {outcome.error}", file=sys.stderr, flush=True)
        return
    assert outcome.result is not None
    report = outcome.result.report
    _write("\t".join((escaped(report.url), report.md5, report.s3_url, report.mime_type)))


def _print_json(outcome: Outcome) -> None:
    import json

    _write(json.dumps(outcome.as_json()))
    if outcome.error is not None:
        print(f"md5s3stash: {escaped(outcome.source)}: {outcome.error}", file=sys.stderr, flush=True)


def escaped(source: str) -> str:
    """A name for a line of output: what would break the line or its columns is written as in Python."""
    return "".join(char if char.isprintable() or "\udc80" <= char <= "\udcff" else repr(char)[1:-1] for char in source)


def _write(line: str) -> None:
    # Names are bytes: the ones that are no UTF-8 go out as they came in.
    sys.stdout.buffer.write(os.fsencode(line) + b"\n")
    sys.stdout.buffer.flush()


def _set_logging(level: str) -> None:
    numeric = logging.getLevelNamesMapping().get(level.upper())
    if numeric is None:
        raise SettingsError(f"--loglevel {level!r} is not one of: DEBUG, INFO, WARNING, ERROR, CRITICAL")
    logging.basicConfig(level=numeric)


def _set_tempdir(directory: str | None) -> None:
    if directory is None:
        return
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise SettingsError(f"--tempdir {directory!r} is not a directory that can be written to")
    tempfile.tempdir = directory


def _jobs(value: str) -> int:
    jobs = int(value)
    if not 1 <= jobs <= 64:
        raise argparse.ArgumentTypeError("1 to 64")
    return jobs


def _usage(message: str) -> int:
    for line in message.splitlines():
        print(f"md5s3stash: {line}", file=sys.stderr)
    return USAGE


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"md5s3stash {version('md5s3stash')}"
    except PackageNotFoundError:
        return "md5s3stash (not installed)"
