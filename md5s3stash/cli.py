"""The command `md5s3stash`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from md5s3stash import console
from md5s3stash.errors import SettingsError
from md5s3stash.logs import set_up_logging
from md5s3stash.settings import CORE_SECTIONS, Faults, Settings, load, whole_number

if TYPE_CHECKING:
    from md5s3stash.batch import SourceResult
    from md5s3stash.cache import RedisDict

# Far above the longest path (4 KiB) and any URL that servers take; a file that is not a list must not fill the memory.
MAX_LINE_BYTES = 64 * 1024

_EPILOG = """\
examples:
  md5s3stash -b my-bucket/prefix photo.tif https://example.org/picture.jpg
  find /data -name '*.tif' | md5s3stash -b my-bucket --jobs 8 --json -

Prints one line per source: url, md5, s3_url and MIME type, separated by tabs. Errors go to standard error.

exit status: 0 all were stashed, 1 some failed, 2 the arguments or settings are wrong, 130 interrupted.

environment: BUCKET_BASE, BUCKET_SCHEME, S3_ENDPOINT, REDIS_URL (mappings are looked up and recorded there), the AWS_...
variables of boto3, and MD5S3STASH_PASSWORD for -u.

files: /etc/md5s3stash/md5s3stash.toml, the settings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return console.run(
        "md5s3stash",
        lambda: run(build_parser().parse_args(argv)),
        interrupted="interrupted: the sources printed so far are stashed",
    )


def build_parser() -> argparse.ArgumentParser:
    """The options of the original program (2014), and ours."""
    parser = console.Parser(prog="md5s3stash", description="content addressable storage in AWS S3", epilog=_EPILOG)
    parser.add_argument(
        "url", nargs="+", help="URL or path of source file to stash; - reads them from standard input, one per line"
    )
    parser.add_argument(
        "-b",
        "--bucket_base",
        nargs="?",
        help="bucket, or bucket/prefix, to store in; a bucket name must be unique in all of AWS S3",
    )
    parser.add_argument(
        "-s",
        "--bucket_scheme",
        nargs="?",
        metavar="{simple,multibucket}",
        help="simple (the default): one bucket; multibucket: 36 buckets, by digest (multivalue is an old name of it)",
    )
    parser.add_argument(
        "-t", "--tempdir", help="directory for downloads; if your files might be large, choose one on a big disk"
    )
    parser.add_argument(
        "-w", "--warnings", action="store_true", help="show python `DeprecationWarning`s suppressed by default"
    )
    parser.add_argument(
        "--loglevel", default="ERROR", help="lowest level to log: DEBUG, INFO, WARNING, ERROR (the default) or CRITICAL"
    )
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
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line, with everything known about the source"
    )
    parser.add_argument(
        "--component-json",
        action="store_true",
        help="print one JSON object per line, with the fields of a component of Calisphere's harvester",
    )
    parser.add_argument(
        "--collection",
        default="",
        metavar="NAME",
        help="store in this collection, a number or a short name: the key is NAME/md5; needs stash.key_template",
    )
    parser.add_argument("--jobs", default="1", metavar="N", help="stash N sources at once (1 to 64)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    parser.add_version()
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Stashes the sources of the arguments and returns the exit status. Raises SettingsError with a line for each
    error.
    """
    # Their imports (boto3, requests, Pillow) take half a second, which --help does not need.
    from md5s3stash import batch
    from md5s3stash.passwords import Passwords
    from md5s3stash.progress import progress_display

    _set_warnings(arguments.warnings)
    faults = Faults()
    with faults.noted():
        _set_logging(arguments.loglevel)
    with faults.noted():
        _set_tempdir(arguments.tempdir)
    with faults.noted():
        jobs = _jobs(arguments.jobs)
    with faults.noted():
        passwords = Passwords.from_options(arguments.username, arguments.password, arguments.netrc, os.environ)
    with faults.noted():
        stash = batch.open_stash(_settings(arguments, os.environ), arguments.collection)
    faults.raise_any()

    show = _print_json if arguments.json else _print_line
    if arguments.component_json:
        show = functools.partial(_print_component, stash.components)
    failed = 0
    with (
        contextlib.closing(stash),
        progress_display(arguments.url, sys.stderr) as display,
        contextlib.closing(batch.stash_all(stash, read_sources(arguments.url), passwords, jobs, display)) as outcomes,
    ):
        for outcome in outcomes:
            with display.paused():
                show(outcome)
                if outcome.error is not None:
                    failed += 1
                    console.complain(f"{console.without_password(outcome.source)}: {outcome.error}")
    return 1 if failed else 0


def read_sources(names: Iterable[str], descriptor: int = 0) -> Iterator[str]:
    """The sources in the order given, with the lines of standard input in the place of each `-`.

    Raises SettingsError for a line that is longer than any path or URL.
    """
    # Not sys.stdin: at exit Python takes its lock, which a read that still waits would hold.
    stdin = open(descriptor, "rb", closefd=False)  # noqa: SIM115 not ours to close
    for name in names:
        if name == "-":
            while line := stdin.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    raise SettingsError(
                        f"standard input is not a list of sources: a line exceeds {MAX_LINE_BYTES} bytes"
                    )
                # Bytes that are not UTF-8 are part of a file name, not an error.
                source = os.fsdecode(line.rstrip(b"\r\n"))
                if source:
                    yield source
        else:
            yield name


def _settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    # An empty option (-b "$UNSET") falls back like one without a value.
    flags = {"stash.bucket_base": arguments.bucket_base or None, "stash.bucket_scheme": arguments.bucket_scheme or None}
    return load(CORE_SECTIONS, environ, arguments.config, flags, others_allowed=True)


def _print_line(outcome: SourceResult) -> None:
    if outcome.result is not None:
        report = outcome.result.report
        _write("\t".join((escaped(report.url), report.md5, report.s3_url, report.mime_type)))


def _print_json(outcome: SourceResult) -> None:
    import json

    found = outcome.as_json()
    _write(json.dumps(found | {"url": console.without_password(found["url"])}))


def _print_component(cache: RedisDict | None, outcome: SourceResult) -> None:
    import json

    from md5s3stash.component import component_of
    from md5s3stash.errors import RedisUnavailable

    if outcome.result is None:
        _print_json(outcome)
        return
    now = datetime.now()
    try:
        component = component_of(outcome.result, None, cache, now)
    except RedisUnavailable:
        # Logged by the stash; a cache that is down costs speed, never a component.
        component = component_of(outcome.result, None, None, now)
    _write(json.dumps(component))


def escaped(text: str) -> str:
    """The text on one line and in one column: control characters and line separators are written as in Python."""
    return "".join(repr(char)[1:-1] if category(char) in ("Cc", "Zl", "Zp") else char for char in text)


def _write(line: str) -> None:
    console.write(line)
    # At once: this source is stashed, whatever happens to the next one.
    console.flush()


def _set_warnings(shown: bool) -> None:
    if shown:
        warnings.simplefilter("default", DeprecationWarning)
    elif not sys.warnoptions:
        # boto3 announces the end of a Python version as a warning of its own kind.
        warnings.simplefilter("ignore")


def _set_logging(level: str) -> None:
    numeric = logging.getLevelNamesMapping().get(level.upper())
    if numeric is None:
        raise SettingsError(f"--loglevel {level!r} is not one of: DEBUG, INFO, WARNING, ERROR, CRITICAL")
    set_up_logging(numeric)


def _set_tempdir(directory: str | None) -> None:
    if directory is None:
        return
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise SettingsError(f"--tempdir {directory!r} is not a directory, or not writable")
    import tempfile

    tempfile.tempdir = directory


def _jobs(value: str) -> int:
    try:
        return int(whole_number(1, 64)(value))
    except ValueError as error:
        raise SettingsError(f"--jobs {value!r}: {error}") from None
