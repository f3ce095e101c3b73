"""The program `md5s3stash-enqueue`: sends lists of URLs of any size to the daemon's queue.

Batches are sent in parallel. The cursor moves past a batch only when it and all batches before it are in the queue: a
run that is killed and started again sends a few URLs twice and skips none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from md5s3stash import console
from md5s3stash.errors import QueueUnavailable, SettingsError
from md5s3stash.logs import set_up_logging
from md5s3stash.progress import Pause, ProgressState, state_display
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.scheme import parse_collection
from md5s3stash.settings import load, whole_number
from md5s3stash_daemon.config.settings import QueueSettings
from md5s3stash_daemon.downloads.url_lines import Line
from md5s3stash_daemon.enqueue.cursor import Cursor, CursorFile, ListReader, locked

if TYPE_CHECKING:
    from md5s3stash_daemon.intake.sqs.client import Queue

PROGRAM = "md5s3stash-enqueue"

# SQS throttles by the second. If it still rejects a batch after these attempts, waiting does not help.
RETRY = RetryPolicy(attempts=8, first_delay_seconds=0.5, max_delay_seconds=30)

# After a crash, URLs confirmed within this time, and those in flight, are sent twice.
CURSOR_SECONDS = 1.0

_EPILOG = """\
examples:
  md5s3stash-enqueue harvest.urls
  zcat harvest.gz | md5s3stash-enqueue --cursor harvest.cursor -

One URL per line; blank lines and lines that begin with # are ignored. Progress is saved in LIST.cursor (or the file
that --cursor names) until the whole list is sent: run the same command again to resume an interrupted run.

exit status: 0 all URLs are in the queue, 1 some lines were not URLs or some URLs could not be sent, 2 the arguments or
settings are wrong, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return console.run(
        PROGRAM,
        lambda: _run(build_parser().parse_args(argv)),
        interrupted="interrupted: run the same command to resume (needs a cursor file)",
    )


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = console.Parser(prog=PROGRAM, description="send a list of URLs to the queue of md5s3stashd", epilog=_EPILOG)
    parser.add_argument("list", metavar="LIST", help="file with one URL per line; - reads standard input")
    parser.add_argument("--queue", metavar="URL", help="URL of the queue (default: the setting queue.url)")
    parser.add_argument("--auth-profile", metavar="NAME", help="the daemons' password profile for all of these URLs")
    parser.add_argument("--collection", metavar="NAME", help="the collection to store all of these URLs in")
    parser.add_argument(
        "--cursor", type=Path, metavar="FILE", help="file to save the progress in (default: LIST.cursor)"
    )
    parser.add_argument("--jobs", default="8", metavar="N", help="batches to send at once (1 to 64, default 8)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    parser.add_version()
    return parser


@dataclass(frozen=True, slots=True)
class SqsBatch:
    """Up to BATCH URLs, the lines between them that are not URLs, and the cursor after them."""

    urls: tuple[str, ...]
    faults: tuple[Line, ...]
    end: Cursor


def _run(arguments: argparse.Namespace) -> int:
    # Imported here because boto3 and requests take half a second, which --help need not wait for.
    from md5s3stash.s3.client import new_session
    from md5s3stash_daemon.intake.sqs.client import connect_queue

    set_up_logging(logging.WARNING)
    jobs = _jobs(arguments.jobs)
    queue_url = load(
        {"queue": QueueSettings}, os.environ, arguments.config, {"queue.url": arguments.queue}, others_allowed=True
    )[QueueSettings].url
    if queue_url is None:
        raise SettingsError("no queue is configured: set queue.url, MD5S3STASH_QUEUE_URL or --queue")
    queue = connect_queue(queue_url, new_session(), max_connections=jobs)
    with contextlib.ExitStack() as stack:
        file = _open(arguments.list, stack)
        cursor_file = _cursor_file(arguments, queue_url)
        reader = ListReader(file, cursor_file.read() if cursor_file else Cursor())
        return Enqueuing(queue, reader, cursor_file, _fields(arguments), _size(file)).run(jobs, sys.stderr)


class Enqueuing:
    """Sends one list."""

    def __init__(
        self, queue: Queue, reader: ListReader, cursor_file: CursorFile | None, fields: Mapping[str, str], size: int
    ) -> None:
        """`fields` are those of a message besides its URL."""
        self._queue = queue
        self._reader = reader
        self._cursor_file = cursor_file
        self._fields = fields
        self._size = size
        self._done = reader.start
        self._stopping = threading.Event()

    def run(self, jobs: int, stream: TextIO) -> int:
        """Returns the exit status. Raises StashError if some URLs cannot be sent."""
        from md5s3stash.batch import in_order

        if self._done.lines:
            console.complain(f"resuming after line {self._done.lines:,}")
        begun, written = time.monotonic(), time.monotonic()
        with (
            state_display(self._state, stream, unit="URLs") as paused,
            contextlib.closing(in_order(self._send, self._batches(), jobs, self._stopping)) as done,
        ):
            try:
                for batch in done:
                    self._print_faults(batch, paused)
                    self._done = batch.end
                    if self._cursor_file and time.monotonic() - written >= CURSOR_SECONDS:
                        self._cursor_file.write(self._done)
                        written = time.monotonic()
            except BaseException:
                if self._cursor_file:
                    self._cursor_file.write(self._done)
                raise
        if self._cursor_file:
            self._cursor_file.remove()
        seconds = time.monotonic() - begun
        console.write(f"sent {self._done.urls:,} URLs; {self._done.faults:,} lines were not URLs ({seconds:,.0f} s)")
        return 1 if self._done.faults else 0

    def _batches(self) -> Iterator[SqsBatch]:
        from md5s3stash_daemon.intake.sqs.client import BATCH

        urls: list[str] = []
        faults: list[Line] = []
        for line in self._reader.lines():
            if line.fault:
                faults.append(line)
            else:
                urls.append(line.url)
            # If the file is not a list at all, its faults must not accumulate in memory.
            if len(urls) == BATCH or len(faults) == BATCH:
                yield SqsBatch(tuple(urls), tuple(faults), self._reader.cursor())
                urls, faults = [], []
        yield SqsBatch(tuple(urls), tuple(faults), self._reader.cursor())

    def _send(self, batch: SqsBatch) -> SqsBatch:
        """Runs in a thread. Raises a QueueError if some of the batch cannot be sent."""
        left = [self._body(url) for url in batch.urls]

        def attempt() -> None:
            nonlocal left
            left = self._queue.send(left) if left else []
            if left:
                raise QueueUnavailable(f"SQS rejected {len(left)} messages of a batch")

        retrying(attempt, RETRY, sleep=self._stopping.wait)
        return batch

    def _body(self, url: str) -> str:
        return json.dumps({"url": url, **self._fields}) if self._fields else url

    def _print_faults(self, batch: SqsBatch, paused: Pause) -> None:
        for line in batch.faults:
            with paused():
                console.complain(f"line {line.number}: {console.without_password(line.url)}: {line.fault}")

    def _state(self) -> ProgressState:
        done = self._done
        share = min(1.0, done.offset / self._size) if self._size else 0.0
        return ProgressState(done.urls, share, f"line {done.lines:,}")


def _fields(arguments: argparse.Namespace) -> dict[str, str]:
    collection = parse_collection(arguments.collection or "")
    fields = {"auth-profile": arguments.auth_profile, "collection": collection}
    return {name: value for name, value in fields.items() if value}


def _open(name: str, stack: contextlib.ExitStack) -> BinaryIO:
    if name == "-":
        # Not sys.stdin: Python takes its lock at exit, and a blocked read would hold it.
        return open(0, "rb", closefd=False)
    file = stack.enter_context(open(name, "rb"))  # noqa: SIM115 the stack closes it
    stack.enter_context(locked(file, name))
    return file


def _cursor_file(arguments: argparse.Namespace, queue_url: str) -> CursorFile | None:
    path = arguments.cursor or (None if arguments.list == "-" else Path(f"{arguments.list}.cursor"))
    return None if path is None else CursorFile(path, queue_url)


def _size(file: BinaryIO) -> int:
    """In bytes; 0 for a pipe."""
    return os.fstat(file.fileno()).st_size


def _jobs(value: str) -> int:
    try:
        return int(whole_number(1, 64)(value))
    except ValueError as error:
        raise SettingsError(f"--jobs {value!r}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
