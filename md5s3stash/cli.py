"""The command `md5s3stash`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from unicodedata import category

from md5s3stash.errors import SettingsError, StashError
from md5s3stash.logs import set_up_logging
from md5s3stash.settings import CORE_SECTIONS, Faults, Settings, load, whole_number

if TYPE_CHECKING:
    from md5s3stash.batch import Outcome

INTERRUPTED = 130

# Far above the longest path (4 KiB) and any URL that servers take; a file that is no list must not fill the memory.
MAX_LINE_BYTES = 64 * 1024

_EPILOG = """\
examples:
  md5s3stash -b my-bucket/prefix photo.tif https://example.org/picture.jpg
  find /data -name '*.tif' | md5s3stash -b my-bucket --jobs 8 --json -

Prints one line a source: url, md5, s3_url and MIME type, with tabs between them. Errors go to standard error.

exit status: 0 all were stashed, 1 some failed, 2 the arguments or settings are wrong, 130 interrupted.

environment: BUCKET_BASE, BUCKET_SCHEME, S3_ENDPOINT, REDIS_URL (mappings are looked up and recorded there), the AWS_...
variables of boto3, and MD5S3STASH_PASSWORD for -u.

files: /etc/md5s3stash/md5s3stash.toml, the settings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status. Work that was broken off ends the process then and there."""
    _fill_standard_streams()
    try:
        return run(build_parser().parse_args(argv))
    except SettingsError as error:
        for line in str(error).splitlines():
            _complain(line)
        return error.exit_code
    except OutputClosed:
        # Whoever read our output (head, say) has seen enough.
        _leave(1)
    except OutputFailed as error:
        _complain(str(error))
        _leave(1)
    except KeyboardInterrupt:
        _complain("interrupted: what was printed is stashed")
        _leave(INTERRUPTED)


class OutputFailed(StashError):
    """Standard output takes no more lines."""


class OutputClosed(OutputFailed):
    """Nobody reads standard output any more."""


class Parser(argparse.ArgumentParser):
    """Tells a fault of the arguments in one line, as all others are told."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} ({self.prog} --help tells more)")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that reads the metadata of what is installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"md5s3stash {version('md5s3stash')}")
        except PackageNotFoundError:
            print("md5s3stash (not installed)")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The seed's options, and ours."""
    parser = Parser(
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
        metavar="{simple,multibucket}",
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
    parser.add_argument("--jobs", default="1", metavar="N", help="stash N sources at once (1 to 64)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Stashes what the arguments name; the exit status. Raises SettingsError with a line for each fault."""
    # What these import (boto3, requests, Pillow) takes half a second, which --help need not wait for.
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
        stash = batch.open_stash(_settings(arguments, os.environ))
    faults.tell()

    show = _print_json if arguments.json else _print_line
    failed = 0
    with (
        contextlib.closing(stash),
        progress_display(arguments.url, sys.stderr) as display,
        contextlib.closing(batch.stash_all(stash, read_sources(arguments.url), passwords, jobs, display)) as outcomes,
    ):
        for outcome in outcomes:
            with display.paused():
                show(outcome)
            failed += outcome.error is not None
    return 1 if failed else 0


def read_sources(names: Iterable[str], descriptor: int = 0) -> Iterator[str]:
    """The sources in the order given, with the lines of standard input in the place of each `-`.

    Raises SettingsError for a line that is longer than any path or URL.
    """
    # A stream of its own: at exit Python takes the lock of sys.stdin, which a read that still waits would hold.
    stdin = open(descriptor, "rb", closefd=False)  # noqa: SIM115 nobody else's to close
    for name in names:
        if name == "-":
            while line := stdin.readline(MAX_LINE_BYTES):
                if len(line) == MAX_LINE_BYTES:
                    raise SettingsError(f"standard input is no list: a line has {MAX_LINE_BYTES} bytes or more")
                # Bytes that are no UTF-8 are part of a file name, not an error.
                source = os.fsdecode(line.rstrip(b"\r\n"))
                if source:
                    yield source
        else:
            yield name


def _settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    # An empty option (-b "$UNSET") falls back like one without a value.
    flags = {
        "stash.bucket_base": arguments.bucket_base or None,
        "stash.bucket_scheme": arguments.bucket_scheme or None,
    }
    return load(CORE_SECTIONS, environ, arguments.config, flags, others_allowed=True)


def _print_line(outcome: Outcome) -> None:
    if outcome.error is not None:
        _complain(f"{without_password(outcome.source)}: {outcome.error}")
        return
    assert outcome.result is not None
    report = outcome.result.report
    _write("\t".join((escaped(report.url), report.md5, report.s3_url, report.mime_type)))


def _print_json(outcome: Outcome) -> None:
    import json

    found = outcome.as_json()
    _write(json.dumps(found | {"url": without_password(found["url"])}))
    if outcome.error is not None:
        _complain(f"{without_password(outcome.source)}: {outcome.error}")


def escaped(text: str) -> str:
    """The text on one line and in one column: control characters and line separators are written as in Python."""
    return "".join(repr(char)[1:-1] if category(char) in ("Cc", "Zl", "Zp") else char for char in text)


def without_password(source: str) -> str:
    """The source, less what stands before the @ of a web URL: such a URL is refused, and its password not told on."""
    return re.sub(r"(?i)^(https?://)[^/?#]*@", r"\1", source)


def _write(line: str) -> None:
    try:
        # Names are bytes: the ones that are no UTF-8 go out as they came in.
        sys.stdout.buffer.write(os.fsencode(line) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosed("nobody reads standard output") from error
    except OSError as error:
        raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error


def _complain(message: str) -> None:
    # Where nobody listens for errors, the exit status has to do.
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(os.fsencode(f"md5s3stash: {escaped(message)}\n"))
        sys.stderr.buffer.flush()


def _leave(status: int) -> NoReturn:
    """Ends the process at once. The ordinary end waits for each thread, and one may hang in a silent connection."""
    os._exit(status)


def _fill_standard_streams() -> None:
    """Opens what the caller has closed (`2>&-`): Python's stream is None then, and a socket would take its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest number that is free is the one that was closed.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115


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
        raise SettingsError(f"--tempdir {directory!r} is not a directory that can be written to")
    tempfile.tempdir = directory


def _jobs(value: str) -> int:
    try:
        return int(whole_number(1, 64)(value))
    except ValueError as error:
        raise SettingsError(f"--jobs {value!r}: {error}") from None
